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
import contextvars
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from channels.exceptions import StopConsumer

from ..amqp.protocol import Protocol
from ..config.options import Options
from ..errors import LoopEnded
from ..local.state import LocalState
from ..log import RateLimitedWarning
from ..wire.names import random_name
from ..wire.serializers import make_codec
from .loop_layer import PUBLISH_ERRORS, LoopLayer, send_error, warn_group_dropped
from .loop_thread import LoopThread
from .portal import Portal
from .transient_loops import is_passing

_P = ParamSpec("_P")
_T = TypeVar("_T")

logger = logging.getLogger(__name__)

#: Seconds for taking leave of RabbitMQ when the interpreter exits.
_EXIT_TIMEOUT = 2.0

#: Seconds after the end of home before it moves where nobody calls at the time. Loops often end
#: together: this one may be on its last turns, and the link would be left behind on it.
_MOVE_DELAY = 0.05

#: Every home of the process, for what concerns them all: exit and fork.
_owners: weakref.WeakSet[Owner] = weakref.WeakSet()
#: What a forked child has from its parent. Kept, so that no destructor touches the parent's
#: socket, loop or selector.
_inherited: list[object] = []


@dataclass(frozen=True, eq=False)
class _Residence:
    """The hub and where it lives. Replaced as a whole, so that it can be read without a lock."""

    loop_layer: LoopLayer
    loop: asyncio.AbstractEventLoop
    portal: Portal
    #: The thread of the loop, if that is our own; None if it is somebody else's.
    thread: LoopThread | None


class Owner:
    """Owns the process's hub, and decides where it lives."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.codec = make_codec(options)
        self._closed = False
        self._warn_group_dropped = RateLimitedWarning(logger)
        self._begin()
        _owners.add(self)

    def _begin(self) -> None:
        """Start with nothing: when made, and in a child after a fork."""
        self._lock = threading.RLock()
        prefix = self._options.prefix
        self.queue_name = f"channels_{prefix and prefix + '_'}{random_name()}"
        self._state = LocalState(self._options, self.codec.decode)
        #: Changed under the lock; None while there is no home.
        self._residence: _Residence | None = None
        #: The tasks that have channels, or may have, by lasting loop: the next home is one of
        #: these. Loops are added under the lock, tasks on their own loop.
        self._readers: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, weakref.WeakSet[asyncio.Task[Any]]
        ] = weakref.WeakKeyDictionary()
        #: Whether nothing but sending has happened here: the process has no channels.
        self._only_sent = True
        #: What the hub is to do; the next one, if there is none just now.
        self._posted: deque[Callable[[LoopLayer], None]] = deque()

    def __repr__(self) -> str:
        residence = self._residence
        return f"<Home: {residence and residence.loop_layer!r}>"

    # Calls

    def loop_layer_here(self) -> LoopLayer | None:
        """The hub, if home is the running loop or can be; None if another loop is home."""
        residence = self._residence
        loop = asyncio.get_running_loop()
        if residence is None or residence.loop is not loop:
            residence = self._settle(loop)
        return residence.loop_layer if residence.loop is loop else None

    async def call(
        self,
        method: Callable[Concatenate[LoopLayer, _P], Coroutine[Any, Any, _T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Run a method of the hub at home, from any loop; again, if home ended meanwhile."""
        return await self._call(lambda loop_layer: method(loop_layer, *args, **kwargs))

    async def send(self, queue_name: str, body: bytes) -> None:
        """Run :meth:`LoopLayer.send` at home; once only."""
        try:
            await self._call(lambda loop_layer: loop_layer.sending(queue_name, body), repeat=False)
        except (LoopEnded, *PUBLISH_ERRORS) as err:
            raise send_error(err) from None

    async def send_normal(self, channel: str, body: bytes) -> None:
        """The same for a normal channel."""
        try:
            await self._call(lambda loop_layer: loop_layer.normal.send(channel, body), repeat=False)
        except LoopEnded as err:
            raise send_error(err) from None

    async def send_group(self, group: str, body: bytes) -> None:
        """Run :meth:`LoopLayer.send_group` at home; once only."""
        try:
            await self._call(lambda loop_layer: loop_layer.sending_group(group, body), repeat=False)
        except (LoopEnded, *PUBLISH_ERRORS) as err:
            warn_group_dropped(self._warn_group_dropped, group, err)

    async def receive(self, channel: str) -> dict[str, object]:
        """Receive at home; a message that crosses with a cancellation is not lost."""
        return await self._call(
            lambda loop_layer: loop_layer.receive_any(channel),
            give_back=lambda message: self._post(
                lambda loop_layer: loop_layer.take_back(channel, message)
            ),
        )

    async def receive_many(
        self, channels: Sequence[str], block: bool
    ) -> tuple[str, dict[str, object]] | None:
        """The same, for several channels; None if none has a message."""

        def give_back(received: tuple[str, dict[str, object]] | None) -> None:
            if received is not None:
                self._post(lambda loop_layer: loop_layer.take_back(*received))

        return await self._call(
            lambda loop_layer: loop_layer.receive_many(channels, block), give_back
        )

    async def group_add(self, group: str, channel: str) -> None:
        """Join at home; a membership that crosses with a cancellation is undone."""
        claim = object()
        await self._call(
            lambda loop_layer: loop_layer.groups.add(group, channel, claim),
            give_back=lambda _: self._post(
                lambda loop_layer: loop_layer.groups.undo_add(group, channel, claim)
            ),
        )
        self._post(lambda loop_layer: loop_layer.groups.confirm_add(group, channel))

    async def connection(self) -> tuple[Protocol, Portal]:
        """Wait for the open connection; give it and the way to its loop."""
        while True:
            protocol = await self.call(LoopLayer.protocol)
            residence = self._residence
            if residence is not None and residence.loop is protocol.loop:
                return protocol, residence.portal

    async def _call(
        self,
        method: Callable[[LoopLayer], Awaitable[_T]],
        give_back: Callable[[_T], None] | None = None,
        repeat: bool = True,
    ) -> _T:
        loop = asyncio.get_running_loop()
        while True:
            residence = self._residence
            if residence is None or not (residence.loop is loop or residence.portal.serves(loop)):
                residence = self._settle(loop)
            if repeat:
                self._only_sent = False
                self._note_reader(loop)
            try:
                if residence.loop is loop:
                    return await method(residence.loop_layer)
                return await residence.portal.call(partial(method, residence.loop_layer), give_back)
            except LoopEnded as ended:
                if ended.started and not repeat:
                    raise

    def _post(self, action: Callable[[LoopLayer], None]) -> None:
        """Have something done by the hub on its loop, or by the next one; from any thread."""
        if self._closed:
            return
        self._posted.append(action)
        residence = self._residence
        if residence is None:
            return
        if residence.loop is _running_loop():
            self._do_posted(residence.loop_layer)
        else:
            residence.portal.tell(self._do_posted, residence.loop_layer)

    def _do_posted(self, loop_layer: LoopLayer) -> None:
        while self._posted:
            residence = self._residence
            if residence is None or residence.loop_layer is not loop_layer:
                return
            self._posted.popleft()(loop_layer)

    # Where home is

    def _settle(self, loop: asyncio.AbstractEventLoop) -> _Residence:
        """See to it that there is a home, now that a loop calls that is not."""
        with self._lock:
            self.require_open()
            passing = is_passing(loop)
            residence = self._residence
            if residence is not None and not self._stays(residence, passing):
                self._retire(residence)
                residence = None
            if residence is None:
                residence = self._residence = self._move_in(loop, passing)
                residence.portal.tell(self._do_posted, residence.loop_layer)
            return residence

    def _stays(self, residence: _Residence, passing: bool) -> bool:
        """Whether home stays where it is, now that a loop calls, passing or lasting.

        From our own thread it moves to a lasting loop, where calls are faster, as long as the
        process has only sent: nothing can be lost then. A loop that runs no more is no home.
        """
        if residence.portal.ended or not residence.loop.is_running():
            return False
        if passing or residence.thread is None or not self._only_sent:
            return True
        return not residence.portal.end_if_idle()

    def _move_in(self, loop: asyncio.AbstractEventLoop, passing: bool) -> _Residence:
        self._only_sent = self._state.unused
        thread = None
        if passing:
            thread = LoopThread("channels_rabbitmq")
            loop = thread.loop
            try:
                loop_layer = thread.run(self._make_loop_layer)
            except BaseException:
                thread.stop()
                raise
        else:
            loop_layer = self._make_loop_layer()
        return _Residence(loop_layer, loop, Portal(loop, partial(self._end, loop_layer)), thread)

    def _make_loop_layer(self) -> LoopLayer:
        # In a context of its own: it outlives the call that it is made for.
        return contextvars.Context().run(
            lambda: LoopLayer(
                self._options,
                self.codec,
                self.queue_name,
                self._state,
                on_end=self._end,
                on_late=lambda body: self._post(lambda loop_layer: loop_layer.deliver_late(body)),
            )
        )

    def _end(self, loop_layer: LoopLayer) -> None:
        """Home ended by itself, or was found to have ended; on any thread."""
        with self._lock:
            residence = self._residence
            if residence is None or residence.loop_layer is not loop_layer:
                return
            self._retire(residence)
            loops = [] if self._closed else list(self._readers)
        for loop in loops:
            if loop is not residence.loop and loop.is_running():
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(loop.call_later, _MOVE_DELAY, self._move_to, loop)

    def _note_reader(self, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task(loop)
        if task is None or is_passing(loop):
            return
        readers = self._readers.get(loop)
        if readers is None:
            with self._lock:
                readers = self._readers[loop] = weakref.WeakSet()
        readers.add(task)

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Home has ended: go on here, if there is someone for whom messages should arrive.

        Those who wait for one have seen to it already; this is for those who do not just now.
        """
        tasks = self._readers.get(loop, ())
        if self._residence is None and any(map(_goes_on, tasks)):
            with contextlib.suppress(StopConsumer):
                self._settle(loop)

    def _retire(self, residence: _Residence) -> None:
        """Home is over; the lock is held. Whoever waits over the bridge tries again."""
        self._residence = None
        residence.loop_layer.retire()
        old, self._state = self._state, LocalState(self._options, self.codec.decode)
        self._state.take_over(old)
        residence.portal.end()
        if residence.thread is not None:
            residence.thread.stop()
        elif not residence.loop.is_running():
            residence.loop_layer.recovery.cut()

    # The end

    def require_open(self) -> None:
        """Raise :class:`channels.exceptions.StopConsumer` if it is closed."""
        if self._closed:
            raise StopConsumer("the channel layer is closed")

    async def close(self) -> None:
        """Close the connection; every call raises StopConsumer from now on."""
        with self._lock:
            self._closed = True
            residence = self._residence
        if residence is None:
            return
        if residence.loop is asyncio.get_running_loop():
            await residence.loop_layer.close()
        elif residence.loop.is_running():
            with contextlib.suppress(LoopEnded):
                await residence.portal.call(residence.loop_layer.close)
        with self._lock:
            if self._residence is residence:
                self._retire(residence)
        if residence.thread is not None:
            residence.thread.stop(_EXIT_TIMEOUT)

    def drop(self) -> None:
        """The layer was collected: end the link. On any thread, at any time, so without a lock."""
        self._closed = True
        residence = self._residence
        if residence is None:
            return
        if residence.thread is not None:
            residence.thread.stop()
        elif residence.loop.is_running():
            with contextlib.suppress(RuntimeError):
                residence.loop.call_soon_threadsafe(residence.loop_layer.recovery.cancel)
        else:
            residence.loop_layer.recovery.cut()

    def exit(self, timeout: float = 0.0) -> None:
        """The interpreter exits: take leave of RabbitMQ, if the thread is home."""
        self._closed = True
        if self._residence is not None and self._residence.thread is not None:
            self._residence.thread.stop(timeout)

    def forked(self) -> None:
        """This is a forked child: nothing of the parent's is touched, and nothing shared."""
        if self._residence is not None:
            self._residence.loop_layer.recovery.disown()
        _inherited.append((self._residence, self._state))
        self._begin()


def _goes_on(task: asyncio.Task[Any]) -> bool:
    """Whether a task is alive, and is not being cancelled (which Python 3.10 does not tell)."""
    return not (task.done() or (sys.version_info >= (3, 11) and task.cancelling()))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _exit() -> None:
    owners = list(_owners)
    for owner in owners:
        owner.exit()
    for owner in owners:
        owner.exit(_EXIT_TIMEOUT)


def _forked() -> None:
    for owner in list(_owners):
        owner.forked()


atexit.register(_exit)
os.register_at_fork(after_in_child=_forked)
