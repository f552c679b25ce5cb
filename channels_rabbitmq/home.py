"""Which event loop the hub lives on, its home, and how it moves.

The first lasting loop that uses the layer becomes home. A passing loop, as ``async_to_sync()``
makes for each call where none is running, never does: with no home yet, a thread with a loop of
its own is started. Calls from other loops than home go over a bridge. Once home has ended,
another loop that uses the layer becomes home; queue name, memberships and unread messages move.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from asgiref.sync import AsyncToSync
from carehare import ConnectionClosed
from channels.exceptions import StopConsumer

from .amqp.connection import Connection
from .bridge import Bridge, HomeEnded
from .bridged import BridgedConnection
from .hub import Hub
from .mailboxes import Mailboxes
from .names import random_name
from .options import Options
from .thread import LoopThread

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Seconds for taking leave of RabbitMQ when the interpreter exits.
_EXIT_TIMEOUT = 2.0

#: Every home of the process, for what concerns them all: exit and fork.
_homes: weakref.WeakSet[Home] = weakref.WeakSet()
#: What a forked child has from its parent. Kept, so that no destructor touches the parent's
#: socket, loop or selector.
_inherited: list[object] = []


def is_passing(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether asgiref made this loop for one call of ``async_to_sync()``.

    asgiref lists such loops; where a version of it does not, every loop counts as lasting.
    """
    loops = getattr(AsyncToSync, "loop_thread_executors", None)
    return isinstance(loops, dict) and loop in loops


class Home:
    """Owns the process's hub, and decides where it lives."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._closed = False
        self._begin()
        _homes.add(self)

    def _begin(self) -> None:
        """Start with nothing: when made, and in a child after a fork."""
        self._lock = threading.RLock()
        self.queue_name = f"channels_{random_name()}"
        self._mailboxes = Mailboxes(self._options.local_capacity, self._options.local_expiry)
        #: The hub and the way to its loop; None while there is no home.
        self._hub: Hub | None = None
        self._bridge: Bridge | None = None
        #: The thread that is home; None while home is somebody else's loop.
        self._thread: LoopThread | None = None
        #: Lasting loops that called over the bridge: the first to be home next.
        self._guests: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<Home: {self._hub!r}>"

    def hub_here(self) -> Hub | None:
        """The hub, if home is the running loop or can be; None if another loop is home."""
        hub = self._hub
        loop = asyncio.get_running_loop()
        if hub is not None and hub.loop is loop:
            return hub
        return self._settle(loop)

    async def call(
        self,
        method: Callable[Concatenate[Hub, _P], Coroutine[Any, Any, _T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Run a method of the hub at home, from any loop; again, if home ended meanwhile."""
        return await self._call(lambda hub: method(hub, *args, **kwargs))

    async def call_once(
        self, method: Callable[[Hub], Coroutine[Any, Any, _T]], lost: Callable[[], _T]
    ) -> _T:
        """The same, for what must not be done twice: ``lost()`` says what that comes to."""
        try:
            return await self._call(method, repeat=False)
        except HomeEnded:
            return lost()

    async def receive(self, channel: str) -> dict[str, object]:
        """Run :meth:`Hub.receive`; a message that crosses with a cancellation is not lost."""
        return await self._call(
            lambda hub: hub.receive(channel),
            give_back=lambda hub, message: hub.take_back(channel, message),
        )

    async def _call(
        self,
        method: Callable[[Hub], Coroutine[Any, Any, _T]],
        give_back: Callable[[Hub, _T], None] | None = None,
        repeat: bool = True,
    ) -> _T:
        while True:
            hub = self.hub_here()
            if hub is not None:
                return await method(hub)
            with self._lock:
                hub, bridge = self._hub, self._bridge
            if hub is None or bridge is None:
                continue  # it ended this very moment
            try:
                return await _cross(bridge, hub, method, give_back)
            except HomeEnded as ended:
                if ended.started and not repeat:
                    raise

    async def connection(self) -> Connection | BridgedConnection:
        """The open connection, or what stands for it on a loop that is not home."""
        hub = self.hub_here()
        if hub is not None:
            return await hub.connection()
        connection = await self._call(Hub.connection)
        with self._lock:
            bridge = self._bridge
        if bridge is None or bridge.loop is not connection.protocol.loop:
            raise ConnectionClosed("the connection is closed")
        return BridgedConnection(connection, bridge)

    # Where home is

    def _settle(self, loop: asyncio.AbstractEventLoop) -> Hub | None:
        """See to it that there is a home; give the hub if it is the running loop."""
        with self._lock:
            if self._closed:
                raise StopConsumer("the channel layer is closed")
            passing = is_passing(loop)
            if not passing:
                self._guests.add(loop)
            if self._hub is not None and not self._stays(self._hub, passing):
                self._retire(self._hub)
            if self._hub is not None:
                return self._hub if self._hub.loop is loop else None
            self._mailboxes.forget_waiters()
            if passing:
                self._thread = LoopThread("channels_rabbitmq")
                self._hub = self._thread.run(self._make_hub)
            else:
                self._hub = self._make_hub()
            self._bridge = Bridge(self._hub.loop, partial(self._end, self._hub))
            return None if passing else self._hub

    def _make_hub(self) -> Hub:
        return Hub(self._options, self.queue_name, self._mailboxes, on_end=self._end)

    def _stays(self, hub: Hub, passing: bool) -> bool:
        """Whether home stays where it is, now that a loop calls, passing or lasting.

        From our own thread it moves to a lasting loop, where calls are faster, as long as the
        process has only sent: nothing can be lost then. A loop that runs no more is no home.
        """
        if not hub.loop.is_running():
            return False
        only_sent = self._mailboxes.unused and self._bridge is not None and not self._bridge.pending
        return passing or self._thread is None or not only_sent

    def _end(self, hub: Hub) -> None:
        """Home ended by itself, or was found to have ended; on any thread."""
        with self._lock:
            if self._hub is not hub:
                return
            self._retire(hub)
            if self._closed:
                return
            guests = [loop for loop in self._guests if loop is not hub.loop]
        for loop in guests:
            if loop.is_running():
                # It may have channels, whose messages should go on arriving.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._move_to, loop)
                    return

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._closed:
            self._settle(loop)

    def _retire(self, hub: Hub) -> None:
        """Home is over; the lock is held. Whoever waits over the bridge tries again."""
        bridge, thread = self._bridge, self._thread
        self._hub = self._bridge = self._thread = None
        hub.retire()
        if bridge is not None:
            bridge.end()
        if thread is not None:
            thread.stop()
        elif not hub.loop.is_running():
            hub.link.cut()

    # The end

    async def close(self) -> None:
        """Close the connection; every call raises StopConsumer from now on."""
        with self._lock:
            self._closed = True
            hub, bridge, thread = self._hub, self._bridge, self._thread
        if hub is None or bridge is None:
            return
        if hub.loop is asyncio.get_running_loop():
            await hub.close()
        elif hub.loop.is_running():
            with contextlib.suppress(HomeEnded):
                await bridge.call(hub.close)
        with self._lock:
            if self._hub is hub:
                self._retire(hub)
        if thread is not None:
            thread.stop(_EXIT_TIMEOUT)

    def drop(self) -> None:
        """The layer was collected: end the link. On any thread, at any time, so without a lock."""
        hub, thread = self._hub, self._thread
        self._closed = True
        if thread is not None:
            thread.stop()
        elif hub is not None:
            if hub.loop.is_running():
                with contextlib.suppress(RuntimeError):
                    hub.loop.call_soon_threadsafe(hub.link.cancel)
            else:
                hub.link.cut()

    def exit(self) -> None:
        """The interpreter exits: take leave of RabbitMQ, if the thread is home."""
        self._closed = True
        if self._thread is not None:
            self._thread.stop(_EXIT_TIMEOUT)

    def forked(self) -> None:
        """This is a forked child: nothing of the parent's is touched, and nothing shared."""
        if self._hub is not None:
            self._hub.link.disown()
        _inherited.append((self._hub, self._thread))
        self._begin()


async def _cross(
    bridge: Bridge,
    hub: Hub,
    method: Callable[[Hub], Coroutine[Any, Any, _T]],
    give_back: Callable[[Hub, _T], None] | None,
) -> _T:
    return await bridge.call(
        lambda: method(hub), None if give_back is None else partial(give_back, hub)
    )


def _exit() -> None:
    for home in list(_homes):
        home.exit()


def _forked() -> None:
    for home in list(_homes):
        home.forked()


atexit.register(_exit)
os.register_at_fork(after_in_child=_forked)
