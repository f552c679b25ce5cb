"""Calls from any event loop to the loop that owns the layer, and their results back.

Two loops in two threads share each call. What a callback of :class:`Portal` or :class:`_Caller`
may touch depends on where it runs, so methods are grouped by thread:

* on the *caller's* loop, which awaits the result,
* on the *owning* loop, where the work is done,
* on *any* thread: the end of a loop is found out by whoever calls next.

What both sides decide (whether a call was begun, which outcome it has) is decided under
``Portal._lock``, once. Queues between the loops are plain deques: appending and popping are atomic.

Wake-ups are coalesced: a loop that has been woken takes all that waits for it, so that a hundred
calls under way cost few writes to the loop's self-pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar

from ..errors import LoopEnded
from .transient_loops import is_abandoned

_T = TypeVar("_T")
_A = TypeVar("_A")

#: How often is looked whether the owning loop still runs and the caller still waits, in seconds,
#: while calls are under way.
_GUARD_INTERVAL = 0.2
#: At this many callers, those whose loops were closed are forgotten.
_SWEEP_AT = 64


class _Call(Generic[_T]):
    """One call: made on the caller's loop, run on the owning loop."""

    __slots__ = (
        "caller",
        "cancelled",
        "context",
        "give_back",
        "outcome",
        "start",
        "started",
        "waiter",
        "work",
    )

    def __init__(
        self,
        caller: _Caller,
        start: Callable[[], Awaitable[_T]],
        give_back: Callable[[_T], None] | None,
    ) -> None:
        self.caller = caller
        self.start = start
        self.context = contextvars.copy_context()
        #: Takes a result whose caller was cancelled; on any thread.
        self.give_back = give_back
        #: What the caller awaits. Touched on the caller's loop only, or where that is closed.
        self.waiter: asyncio.Future[_T] = caller.loop.create_future()
        #: The caller was cancelled. Set on the owning loop.
        self.cancelled = False
        #: The work was begun, so that what it did is not known if its loop ends. Set under the
        #: portal's lock.
        self.started = False
        #: A task; or, where no task is needed, the future that ``start()`` gave. None before the
        #: work is begun and after it has ended.
        self.work: asyncio.Future[_T] | None = None
        #: Result and error, once: no more is done for the call then. Set under the portal's lock.
        self.outcome: tuple[_T | None, BaseException | None] | None = None


class _Caller:
    """A loop with calls under way; takes all results that are there with one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, portal: Portal) -> None:
        self.loop = loop
        self._portal = portal
        #: Calls whose results were not taken so far. Changed under the portal's lock.
        self.pending: set[_Call[Any]] = set()
        #: Calls with an outcome, for :meth:`_deliver`.
        self._done: deque[_Call[Any]] = deque()
        #: :meth:`_deliver` is scheduled, and has not begun to empty the queue.
        self._waking = False
        self._guard: asyncio.TimerHandle | None = None

    # On any thread

    def finish(self, call: _Call[Any]) -> None:
        """Bring the outcome of a call to its loop."""
        # First the queue, then the flag: _deliver() clears the flag before it looks at the queue,
        # so a call is seen by the wake-up that is under way or causes another.
        self._done.append(call)
        if not self._waking:
            self._waking = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the caller's loop is closed: nobody waits any more
                self._waking = False
                self._take_done()

    # On the caller's loop; the first one also on other threads once that is closed

    def _take_done(self) -> None:
        done = self._done
        while done:
            call = done.popleft()
            self._portal.leave(self, call)
            waiter = call.waiter
            result, error = call.outcome or (None, None)
            if waiter.done() or self.loop.is_closed():
                self._portal.give_back(call)
            elif error is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(result)

    def _deliver(self) -> None:
        self._waking = False
        self._take_done()
        if not self.pending and self._guard is not None:
            self._guard.cancel()  # no timer stays behind
            self._guard = None

    def watch(self) -> None:
        """Look after the calls under way, should one of the two sides just stop."""
        if self._guard is None:
            self._guard = self.loop.call_later(_GUARD_INTERVAL, self._look)

    def _look(self) -> None:
        self._guard = None
        if not self.pending:
            return
        self.watch()
        if is_abandoned(self.loop):
            for call in list(self.pending):
                call.waiter.cancel()
        elif not self._portal.loop.is_running():
            self._portal.end()


class Portal:
    """The way to one owning loop, from all others.

    Each call is either begun there at most once, or not begun there and never will be;
    :class:`~channels_rabbitmq.errors.LoopEnded` says which. ``on_end`` is called when the owning
    loop is found to have ended: on any thread, without locks, once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        self.loop = loop
        self._on_end = on_end
        #: Guards what is decided once, by whichever thread comes first. Held for moments only:
        #: nothing that is called under it waits or calls back.
        self._lock = threading.Lock()
        #: The loops with calls under way. Changed under the lock.
        self._callers: dict[asyncio.AbstractEventLoop, _Caller] = {}
        self._sweep_at = _SWEEP_AT
        #: What the owning loop is to do, in order.
        self._queue: deque[Callable[[], None]] = deque()
        #: :meth:`_run_queue` is scheduled, and has not begun to empty the queue.
        self._waking = False
        #: No call is begun any more. Set under the lock, for good.
        self.ended = False

    def serves(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a loop has calls under way; asked on that loop."""
        return loop in self._callers and not self.ended

    # On a caller's loop

    async def call(
        self,
        start: Callable[[], Awaitable[_T]],
        give_back: Callable[[_T], None] | None = None,
    ) -> _T:
        """Run ``start()`` on the owning loop, in the caller's context, and return its result.

        Cancelling cancels it there. A result that crosses with the cancellation goes to
        ``give_back``, on any thread. Raises :class:`~channels_rabbitmq.errors.LoopEnded`.
        """
        call = self._enter(asyncio.get_running_loop(), start, give_back)
        waiter = call.waiter
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self.tell(self._cancel, call)
            elif waiter.exception() is None:  # the result is here, but who asked is cancelled
                self.give_back(call)
            raise
        finally:
            # An exception has this frame in its traceback. Without these references from here to
            # the exception there is no cycle, and it is freed without the garbage collector.
            del call, waiter

    def _enter(
        self,
        loop: asyncio.AbstractEventLoop,
        start: Callable[[], Awaitable[_T]],
        give_back: Callable[[_T], None] | None,
    ) -> _Call[_T]:
        abandoned: list[_Call[Any]] = []
        with self._lock:
            # end() sets the flag under this lock and then fails all calls that are pending, so
            # no call can come in behind it and wait for ever.
            if self.ended:
                raise LoopEnded(started=False)
            caller = self._callers.get(loop)
            if caller is None:
                if len(self._callers) >= self._sweep_at:
                    abandoned = self._sweep()
                caller = self._callers[loop] = _Caller(loop, self)
            call = _Call(caller, start, give_back)
            caller.pending.add(call)
        caller.watch()
        self.tell(self._start, call)
        for other in abandoned:
            self.tell(self._cancel, other)
        return call

    def _sweep(self) -> list[_Call[Any]]:
        """Forget loops that were closed over their calls; give the calls. The lock is held."""
        closed = [caller for loop, caller in self._callers.items() if loop.is_closed()]
        for caller in closed:
            del self._callers[caller.loop]
        self._sweep_at = _SWEEP_AT + 2 * len(self._callers)
        return [call for caller in closed for call in caller.pending]

    # On the owning loop

    def _run_queue(self) -> None:
        self._waking = False
        queue = self._queue
        try:
            while queue:
                queue.popleft()()
        finally:
            if queue:  # one failed, as asyncio will say; it must not keep the others waiting
                self._waking = True
                self.loop.call_soon(self._run_queue)

    def _start(self, call: _Call[Any]) -> None:
        with self._lock:
            if call.outcome is not None:
                return  # it failed as the loop seemed to have ended, and is perhaps repeated
            call.started = True
        try:
            call.work = call.context.run(lambda: asyncio.ensure_future(call.start()))
        except Exception as err:  # refused at once: the caller is to hear of it like of any other
            call.work = self.loop.create_future()
            call.work.set_exception(err)
        call.work.add_done_callback(partial(self._work_done, call))

    def _work_done(self, call: _Call[Any], work: asyncio.Future[Any]) -> None:
        if work.cancelled() and not call.cancelled:
            # Nobody asked for that: the loop is cancelling all tasks that it has.
            self.end()
        else:
            self._finish(call)

    def _cancel(self, call: _Call[Any]) -> None:
        call.cancelled = True
        if call.work is not None:
            call.work.cancel()
        elif call.outcome is not None:
            self._drop(call)

    # On any thread

    def tell(self, callback: Callable[[_A], None], argument: _A) -> None:
        """Run a callback on the owning loop, after all that was asked for before.

        Nothing happens if the loop is closed.
        """
        # First the queue, then the flag, as in _Caller.finish().
        self._queue.append(partial(callback, argument))
        if not self._waking:
            self._waking = True
            try:
                self.loop.call_soon_threadsafe(self._run_queue)
            except RuntimeError:
                self.end()

    def leave(self, caller: _Caller, call: _Call[Any]) -> None:
        """Forget a call whose outcome was taken."""
        with self._lock:
            caller.pending.discard(call)
            if not caller.pending and self._callers.get(caller.loop) is caller:
                del self._callers[caller.loop]

    def give_back(self, call: _Call[Any]) -> None:
        """Give the result of a call back, once: nobody takes it any more."""
        with self._lock:
            give_back, call.give_back = call.give_back, None
        result, error = call.outcome or (None, None)
        if error is None and give_back is not None:
            give_back(result)

    def _finish(self, call: _Call[Any]) -> None:
        """Settle the outcome of a call: its work's, or LoopEnded if that has none.

        The owning loop comes here as work ends; :meth:`end` does on any thread, and perhaps while
        the loop is about to do so too. Whoever has the lock first settles it.
        """
        with self._lock:
            if call.outcome is not None:
                return
            work = call.work
            if work is None or not work.done() or work.cancelled():
                # `started` is read under the lock: from here on _start() does not begin it.
                call.outcome = None, LoopEnded(call.started)
            elif (error := work.exception()) is not None:
                call.outcome = None, error
            else:
                call.outcome = work.result(), None
            call.work = None
        if call.cancelled:
            self._drop(call)  # the caller's loop may have no turn left to take it
        else:
            call.caller.finish(call)

    def _drop(self, call: _Call[Any]) -> None:
        """Forget a call with an outcome, whose caller has left."""
        self.give_back(call)
        self.leave(call.caller, call)

    def end_if_idle(self) -> bool:
        """End, unless calls are under way; return whether it has ended."""
        with self._lock:
            self.ended = self.ended or not self._callers
            return self.ended

    def end(self) -> None:
        """Fail calls with :class:`~channels_rabbitmq.errors.LoopEnded`: the owning loop has ended.

        A call that waits for a mere future goes on while the loop has turns left: a loop that
        ends cancels its tasks, but not its futures. A publish then has its answer from RabbitMQ,
        or as the connection closes, which is more than LoopEnded could tell.
        """
        with self._lock:
            first, self.ended = not self.ended, True
            calls = [call for caller in self._callers.values() for call in caller.pending]
        if first:
            self._on_end()
        running = self.loop.is_running()
        for call in calls:
            work = call.work
            if work is None or isinstance(work, asyncio.Task) or not running:
                # Work that ended as the loop stopped, ahead of its callback, has its result.
                self._finish(call)
                if work is not None:
                    # It may have begun too late for the loop to have cancelled it.
                    with contextlib.suppress(RuntimeError):
                        self.loop.call_soon_threadsafe(work.cancel)
