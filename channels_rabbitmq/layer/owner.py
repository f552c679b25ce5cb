"""Which event loop owns the layer's connection, and how ownership moves.

One loop at a time is the *owner*. The connection and its :class:`~.loop_layer.LoopLayer` live on
it, and calls from other loops reach it through its :class:`~.portal.Portal`. A *transient* loop,
as ``async_to_sync()`` makes for each call where none is running, never becomes the owner; all
others are *lasting*.

=============================  =============================================================
there is no owner, and the     that loop becomes it; in place of a transient one, a loop in
layer is used on a loop        a thread of our own
there is an owner, and the     the call crosses; unless the owner has ended, which is as if
layer is used on another loop  there were none
the owner is our own thread,   the lasting loop becomes the owner if the process has only
and a lasting loop calls       sent so far: nothing can be lost then, and its calls are faster
the owner's loop ends          another loop on which the layer was used becomes the owner
the process forks              the child starts with no owner and another queue name
=============================  =============================================================

The queue's name, memberships and unread messages go along from owner to owner. The states::

             the layer is used
    UNOWNED ──────────────────▶ OWNED
     │   ▲                       │ │
     │   └───── its loop ended ──┘ │ closed, collected, or the interpreter exits
     │ the same                    ▼
     └────────▶ CLOSED ◀──────── CLOSING
                    left RabbitMQ
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from channels.exceptions import StopConsumer

from ..amqp.state import StateMachine
from ..config.options import Options
from ..errors import IllegalTransition, LoopEnded
from ..local.counts import Counts
from ..local.mailbox import Mailbox
from ..local.notifier import Notifier
from ..local.queue_names import QueueNames
from ..local.state import LocalState
from ..statistics import Statistics
from ..wire.serializers import Codec
from .loop_layer import LoopLayer
from .loop_thread import LoopThread
from .process_hooks import EXIT_TIMEOUT, follow_process
from .snapshot import take_snapshot
from .transient_loops import is_transient

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

#: How long after the end of the owning loop another one is asked to take over, in seconds. Loops
#: often end together: that one may be on its last turns, and the connection would be left on it.
_TAKE_OVER_DELAY = 0.05

#: What a forked child has from its parent. Kept, so that no destructor touches the parent's
#: socket, loop or selector.
_inherited: list[object] = []


class Ownership(enum.Enum):
    """Where ownership stands."""

    #: No loop owns the layer.
    UNOWNED = "unowned"
    #: A loop does: ``Owner._loop_layer`` is set.
    OWNED = "owned"
    #: Calls are refused; the owning loop has yet to leave RabbitMQ.
    CLOSING = "closing"
    #: Calls are refused, and no loop owns the layer.
    CLOSED = "closed"


#: From each state of ownership, the states that may follow.
OWNERSHIP_MOVES: dict[Ownership, frozenset[Ownership]] = {
    Ownership.UNOWNED: frozenset({Ownership.OWNED, Ownership.CLOSED}),
    Ownership.OWNED: frozenset({Ownership.UNOWNED, Ownership.CLOSING}),
    Ownership.CLOSING: frozenset({Ownership.CLOSED}),
    Ownership.CLOSED: frozenset(),
}


class Owner:
    """Runs operations on the :class:`~.loop_layer.LoopLayer`, and decides which loop has it."""

    def __init__(self, options: Options, codec: Codec) -> None:
        self._options = options
        options.connection_name.take_number()
        self.codec = codec
        self._begin(Ownership.UNOWNED)
        follow_process(self)

    def _begin(self, ownership: Ownership) -> None:
        """Start with no owner: when made, and in a child after a fork."""
        #: Held while ownership moves. Re-entrant, because the end of one loop is found out in
        #: the midst of that: Portal.end() calls _loop_ended(). Whoever holds it may wait for our
        #: own thread to start, but for nothing else.
        self._lock = threading.RLock()
        self.names = QueueNames(self._options.prefix)
        self._ownership = StateMachine(
            "owner", OWNERSHIP_MOVES, ownership, self._options.connection_name
        )
        #: The owning loop's. Set under the lock, and read without it: an old value is as good as
        #: a call that was made a moment ago, since it then fails with LoopEnded.
        self._loop_layer: LoopLayer | None = None
        #: What was counted, by all owners.
        self.counts = Counts(Notifier(self._options.connection_name))
        self._set_local(LocalState(self._options, self.codec.decode, self.counts))
        #: The tasks that use more than ``send()`` and ``group_send()`` from loops that are not the
        #: owner, and so may have channels. Loops are added under the lock, tasks on their loop.
        self._users: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, weakref.WeakSet[asyncio.Task[Any]]
        ] = weakref.WeakKeyDictionary()
        #: Nothing but sending has happened: the process has no channels.
        self._only_sent = True
        #: What :meth:`post` was given and no owner has done yet.
        self._posted: deque[Callable[[LoopLayer], None]] = deque()

    def _set_local(self, local: LocalState) -> None:
        self._local = local
        #: The mailbox of a channel that was received from before: its name needs no check.
        self.find: Callable[[str], Mailbox | None] = local.mailboxes.find

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._ownership.state.value}, {self._loop_layer!r}>"

    # Calls

    async def run(
        self,
        operation: Callable[[LoopLayer, *_Ts], Awaitable[_T]],
        *args: *_Ts,
        give_back: Callable[[LoopLayer, *_Ts, _T], None] | None = None,
        repeat: bool = True,
    ) -> _T:
        """Run ``operation(loop_layer, *args)`` on the owning loop, from any loop.

        If that loop ends meanwhile, run it again on the next owner. With ``repeat=False``, for
        what must not happen twice, only if it was not begun; else raise
        :class:`~channels_rabbitmq.errors.LoopEnded`.

        Cancelling cancels the operation. Its result may be on the way to this loop by then: it is
        given to ``give_back(loop_layer, *args, result)`` on the owning loop.
        """
        loop = asyncio.get_running_loop()
        while True:
            loop_layer = self._loop_layer
            if loop_layer is None or loop_layer.loop is not loop or loop_layer.ended:
                loop_layer = self._loop_layer_for(loop, repeat)
            try:
                if loop_layer.loop is loop:
                    return await operation(loop_layer, *args)
                return await loop_layer.portal.call(
                    partial(operation, loop_layer, *args),
                    give_back and partial(self._give_back, give_back, args),
                )
            except LoopEnded as ended:
                if ended.started and not repeat:
                    raise
            # The same loop may still be the owner if that is because of close().
            self.require_open()

    def here(self) -> LoopLayer | None:
        """Give the LoopLayer if the running loop owns it; an operation on it may be awaited."""
        loop_layer = self._loop_layer
        if loop_layer is None or loop_layer.ended:
            return None
        return loop_layer if loop_layer.loop is asyncio.get_running_loop() else None

    def _give_back(
        self,
        give_back: Callable[[LoopLayer, *_Ts, _T], None],
        args: tuple[*_Ts],
        result: _T,
    ) -> None:
        self.post(give_back, *args, result)

    def post(self, action: Callable[[LoopLayer, *_Ts], None], *args: *_Ts) -> None:
        """Run an action on the owning loop, or on the next one; from any thread.

        The portal's queue ends with its loop, and what is in it may be lost; this queue outlives
        it. Once closed, nothing is done.
        """
        if self._closed:
            return
        self._posted.append(lambda loop_layer: action(loop_layer, *args))
        loop_layer = self._loop_layer
        if loop_layer is None:
            return
        if loop_layer.loop is asyncio._get_running_loop():
            self._do_posted(loop_layer)
        else:
            loop_layer.portal.tell(self._do_posted, loop_layer)

    def _do_posted(self, loop_layer: LoopLayer) -> None:
        while self._posted and loop_layer is self._loop_layer:
            self._posted.popleft()(loop_layer)

    def statistics(self) -> Statistics:
        """Take the numbers, on any thread, without a lock and without waiting."""
        return take_snapshot(
            self._options,
            self.names,
            self._local,
            None if self._closed else self._loop_layer,
            closed=self._closed,
        )

    # Finding an owner

    def _loop_layer_for(self, loop: asyncio.AbstractEventLoop, repeat: bool) -> LoopLayer:
        """Give the LoopLayer for a call on a loop that is not the owner, or not yet."""
        loop_layer = self._loop_layer
        # With other calls of this loop under way, all was settled for them a moment ago.
        if loop_layer is None or not loop_layer.portal.serves(loop):
            loop_layer = self._settle(loop)
        if repeat:  # all but sending
            self._only_sent = False
            self._note_user(loop)
        return loop_layer

    def _settle(self, loop: asyncio.AbstractEventLoop) -> LoopLayer:
        """See to it that a running loop is the owner, as a call comes from this one."""
        with self._lock:
            self.require_open()
            transient = is_transient(loop)
            loop_layer = self._loop_layer
            if loop_layer is not None and not self._stays(loop_layer, transient):
                self._release(loop_layer)
                loop_layer = None
            taken = loop_layer is None
            if loop_layer is None:
                loop_layer = self._take(loop, transient)
        if taken and loop_layer.loop is loop:
            self._do_posted(loop_layer)  # ahead of the call: it was asked for before
        elif taken:
            loop_layer.portal.tell(self._do_posted, loop_layer)
        return loop_layer

    def _stays(self, loop_layer: LoopLayer, transient: bool) -> bool:
        """Whether the owner stays, as another loop calls. The lock is held."""
        if loop_layer.portal.ended or not loop_layer.loop.is_running():
            return False
        if transient or loop_layer.thread is None or not self._only_sent:
            return True
        # Calls that are under way in the thread are not torn out of it.
        return not loop_layer.portal.end_if_idle()

    def _take(self, loop: asyncio.AbstractEventLoop, transient: bool) -> LoopLayer:
        """Make a loop the owner, or our own thread in its place. The lock is held.

        On ``loop``, which is running, or on a transient one, whose thread then waits for ours.
        """
        self._only_sent = self._local.unused
        if transient:
            thread = LoopThread("channels_rabbitmq")
            try:
                loop_layer = thread.run(partial(self._make_loop_layer, thread))
            except BaseException:
                thread.stop()
                raise
        else:
            loop_layer = self._make_loop_layer(None)
        self._loop_layer = loop_layer
        try:
            self._ownership.move(Ownership.OWNED)
        except IllegalTransition:
            # drop() or exit() came meanwhile, which take no lock, and found nothing to end.
            self.drop()
            self.require_open()
            raise
        return loop_layer

    def _make_loop_layer(self, thread: LoopThread | None) -> LoopLayer:
        # In a context of its own: it outlives the call that it is made for.
        return contextvars.Context().run(
            lambda: LoopLayer(
                self._options,
                self.codec,
                self.names,
                self._local,
                thread,
                on_end=self._loop_ended,
                on_late=lambda body: self.post(LoopLayer.deliver_late, body),
            )
        )

    # Losing an owner

    def _release(self, loop_layer: LoopLayer) -> None:
        """End ownership, on any thread. The lock is held.

        Calls that cross fail with LoopEnded and are tried again, by their own loops, on whichever
        is the owner then. They find the lock free by that time.
        """
        self._loop_layer = None
        if self._ownership.state is not Ownership.CLOSED:
            try:
                self._ownership.move(Ownership.CLOSED if self._closed else Ownership.UNOWNED)
            except IllegalTransition:
                self._ownership.move(Ownership.CLOSED)  # drop() or exit() came in between
        # Before its state is taken: what only waits for its end there is not to be kept.
        loop_layer.retire()
        local = LocalState(self._options, self.codec.decode, self.counts)
        local.take_over(self._local)
        self._set_local(local)
        loop_layer.portal.end()
        if loop_layer.thread is not None:
            loop_layer.thread.stop()
        elif not loop_layer.loop.is_running():
            loop_layer.recovery.cut()  # nothing else would tell RabbitMQ

    def _loop_ended(self, loop_layer: LoopLayer) -> None:
        """Handle the end of a loop: it cancelled its tasks, or was found stopped. On any thread."""
        with self._lock:
            if self._loop_layer is not loop_layer:
                return  # told before, or it is us who end it
            self._release(loop_layer)
            loops = [] if self._closed else list(self._users)
        for loop in loops:
            if loop is not loop_layer.loop and loop.is_running():
                with contextlib.suppress(RuntimeError):  # it was closed just now
                    loop.call_soon_threadsafe(loop.call_later, _TAKE_OVER_DELAY, self._offer, loop)

    def _note_user(self, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task(loop)
        if task is None or is_transient(loop):
            return
        tasks = self._users.get(loop)
        if tasks is None:
            with self._lock:
                tasks = self._users[loop] = weakref.WeakSet()
        tasks.add(task)

    def _offer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make this loop the owner, if there is none and messages should arrive for its tasks.

        Tasks that wait for a message have seen to it already, as their calls were tried again.
        This is for those that do not wait just now.
        """
        tasks = self._users.get(loop, ())
        if self._loop_layer is None and any(
            not (task.done() or task.cancelling()) for task in tasks
        ):
            with contextlib.suppress(StopConsumer):
                self._settle(loop)

    # The end

    @property
    def _closed(self) -> bool:
        return self._ownership.state in (Ownership.CLOSING, Ownership.CLOSED)

    def require_open(self) -> None:
        """Raise :class:`channels.exceptions.StopConsumer` if the layer is closed."""
        if self._closed:
            raise StopConsumer("the channel layer is closed")

    def _refuse_calls(self) -> LoopLayer | None:
        """Let no more calls in; give the LoopLayer that is left to end."""
        while not self._closed:
            owned = self._ownership.state is Ownership.OWNED
            # Without the lock another thread may have moved it since: then look again.
            with contextlib.suppress(IllegalTransition):
                self._ownership.move(Ownership.CLOSING if owned else Ownership.CLOSED)
        return self._loop_layer

    async def close(self) -> None:
        """Close the connection. Every call raises StopConsumer from now on, on whichever loop."""
        with self._lock:
            loop_layer = self._refuse_calls()
        if loop_layer is None:
            self._local.close()
            self._options.connection_name.give_number_back()
            return
        # Several may be here at once; all of them wait until it is done.
        try:
            if loop_layer.loop is asyncio.get_running_loop():
                await loop_layer.close()
            elif loop_layer.loop.is_running():
                with contextlib.suppress(LoopEnded):
                    await loop_layer.portal.call(loop_layer.close)
        finally:
            # Also if it was cancelled: calls are refused, so nobody could make up for it.
            with self._lock:
                if self._loop_layer is loop_layer:
                    self._release(loop_layer)
                self._local.close()
            self._options.connection_name.give_number_back()
        if loop_layer.thread is not None:
            loop_layer.thread.stop(EXIT_TIMEOUT)

    def drop(self) -> None:
        """End the connection, as the layer was garbage-collected.

        That happens on any thread and between any two steps of whatever runs there, perhaps of
        what holds the lock, or a lock that its holder waits for. So this takes none, and waits
        for nothing.
        """
        loop_layer = self._refuse_calls()
        self._options.connection_name.give_number_back()
        if loop_layer is None:
            return
        if loop_layer.thread is not None:
            loop_layer.thread.stop()
        elif loop_layer.loop.is_running():
            with contextlib.suppress(RuntimeError):
                loop_layer.loop.call_soon_threadsafe(loop_layer.recovery.cancel)
        else:
            loop_layer.recovery.cut()

    def exit(self, timeout: float = 0.0) -> None:
        """End our own thread, as the interpreter exits; a lock may be held for ever by then."""
        loop_layer = self._refuse_calls()
        if loop_layer is not None and loop_layer.thread is not None:
            loop_layer.thread.stop(timeout)

    def forked(self) -> None:
        """Start anew in a forked child: touch nothing of the parent's, and share nothing.

        Only the thread that forked goes on in the child, so nobody is in the midst of anything
        but perhaps of holding the lock, which is made anew.
        """
        if self._loop_layer is not None:
            self._loop_layer.recovery.disown()
        _inherited.append((self._loop_layer, self._local))
        self._begin(Ownership.CLOSED if self._closed else Ownership.UNOWNED)
