"""Calls from any event loop to the home loop, and their results back.

Wake-ups of either loop are coalesced: many calls under way cost few.
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

#: Seconds between looks whether the home loop still runs, and the caller still waits, while
#: calls are under way.
_GUARD_INTERVAL = 0.2
#: At so many guests, those whose loops were closed are cleared away.
_SWEEP_AT = 64


class _Call(Generic[_T]):
    """One call on its way: made on the guest's loop, run on the home loop."""

    __slots__ = (
        "cancelled",
        "context",
        "error",
        "finished",
        "give_back",
        "guest",
        "result",
        "start",
        "started",
        "waiter",
        "work",
    )

    def __init__(
        self,
        guest: _Guest,
        start: Callable[[], Awaitable[_T]],
        give_back: Callable[[_T], None] | None,
    ) -> None:
        self.guest = guest
        self.start = start
        self.context = contextvars.copy_context()
        #: What to do with a result that its caller was cancelled for; on any thread.
        self.give_back = give_back
        self.waiter: asyncio.Future[_T] = guest.loop.create_future()
        #: The caller was cancelled.
        self.cancelled = False
        #: It was begun at home. Set under the bridge's lock, and only while the bridge stands.
        self.started = False
        #: It has come to its end, and nothing more happens at home. Set under the bridge's lock.
        self.finished = False
        #: A task; or, where a task is not needed, the future that ``start()`` gave.
        self.work: asyncio.Future[_T] | None = None
        self.error: BaseException | None = None
        self.result: _T | None = None


class _Guest:
    """A loop that calls: its results, delivered with one wake-up for many."""

    def __init__(self, loop: asyncio.AbstractEventLoop, portal: Portal) -> None:
        self.loop = loop
        self._portal = portal
        #: Calls without a result so far. Changed under the bridge's lock.
        self.pending: set[_Call[Any]] = set()
        self._done: deque[_Call[Any]] = deque()
        self._waking = False
        self._guard: asyncio.TimerHandle | None = None

    # On any thread

    def finish(self, call: _Call[Any]) -> None:
        """A call is done: bring its result over."""
        self._done.append(call)
        if not self._waking:
            self._waking = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the guest's loop is closed: nobody waits any more
                self._waking = False
                self._take_done()

    # On the guest's own loop; the first one also where the loop is closed

    def _take_done(self) -> None:
        done = self._done
        while done:
            call = done.popleft()
            self._portal.leave(self, call)
            waiter = call.waiter
            if waiter.done() or self.loop.is_closed():
                self._portal.give_back(call)
            elif call.error is not None:
                waiter.set_exception(call.error)
            else:
                waiter.set_result(call.result)

    def _deliver(self) -> None:
        self._waking = False
        self._take_done()
        if not self.pending and self._guard is not None:
            self._guard.cancel()  # no timer stays behind
            self._guard = None

    def watch(self) -> None:
        """See to it that calls do not wait for ever, should one of the two sides just stop."""
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
    """The way to one home loop, from all others.

    ``on_end`` is called when it is found that the home loop has ended: on any thread, without
    locks, once. At most one of these happens to each call: it is done at home, or it is not begun
    there and never will be.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        self.loop = loop
        self._on_end = on_end
        #: For what is decided once, by whichever thread comes first; held for moments only.
        self._lock = threading.Lock()
        #: The loops with calls under way.
        self._guests: dict[asyncio.AbstractEventLoop, _Guest] = {}
        self._sweep_at = _SWEEP_AT
        #: What the home loop is to do, in order.
        self._queue: deque[Callable[[], None]] = deque()
        self._waking = False
        #: The home loop has ended: no call is begun any more.
        self.ended = False

    def serves(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a loop has calls under way; asked on that loop."""
        return loop in self._guests and not self.ended

    # On a guest's loop

    async def call(
        self,
        start: Callable[[], Awaitable[_T]],
        give_back: Callable[[_T], None] | None = None,
    ) -> _T:
        """Run ``start()`` on the home loop, in the caller's context, and give its result.

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
            # An exception has this frame in its traceback; without a way from here to the
            # exception they are no cycle for the garbage collector.
            del call, waiter

    def _enter(
        self,
        loop: asyncio.AbstractEventLoop,
        start: Callable[[], Awaitable[_T]],
        give_back: Callable[[_T], None] | None,
    ) -> _Call[_T]:
        abandoned: list[_Call[Any]] = []
        with self._lock:
            if self.ended:
                raise LoopEnded(started=False)
            guest = self._guests.get(loop)
            if guest is None:
                if len(self._guests) >= self._sweep_at:
                    abandoned = self._sweep()
                guest = self._guests[loop] = _Guest(loop, self)
            call = _Call(guest, start, give_back)
            guest.pending.add(call)
        guest.watch()
        self.tell(self._start, call)
        for other in abandoned:
            self.tell(self._cancel, other)
        return call

    def tell(self, callback: Callable[[_A], None], argument: _A) -> None:
        """Run a callback on the home loop, after all that was asked for before; from any thread.

        Nothing happens if the loop is closed.
        """
        self._queue.append(partial(callback, argument))
        if not self._waking:
            self._waking = True
            try:
                self.loop.call_soon_threadsafe(self._run_queue)
            except RuntimeError:
                self.end()

    def leave(self, guest: _Guest, call: _Call[Any]) -> None:
        """A call has its result."""
        with self._lock:
            guest.pending.discard(call)
            if not guest.pending and self._guests.get(guest.loop) is guest:
                del self._guests[guest.loop]

    def _sweep(self) -> list[_Call[Any]]:
        """Forget loops that were closed over their calls; give the calls. The lock is held."""
        closed = [guest for loop, guest in self._guests.items() if loop.is_closed()]
        for guest in closed:
            del self._guests[guest.loop]
        self._sweep_at = _SWEEP_AT + 2 * len(self._guests)
        return [call for guest in closed for call in guest.pending]

    # On the home loop

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
            if call.finished:
                return  # it failed, and is perhaps repeated elsewhere
            call.started = True
        call.work = call.context.run(asyncio.ensure_future, call.start())
        call.work.add_done_callback(partial(self._work_done, call))

    def _work_done(self, call: _Call[Any], work: asyncio.Future[Any]) -> None:
        if work.cancelled() and not call.cancelled:
            # Nobody asked for that: the home loop is cancelling all that it has.
            self.end()
        else:
            self._finish(call)

    def _cancel(self, call: _Call[Any]) -> None:
        call.cancelled = True
        if call.work is not None:
            call.work.cancel()
        elif call.finished:
            self._drop(call)

    # On any thread

    def give_back(self, call: _Call[Any]) -> None:
        """Nobody takes the result of a call any more. It is given back once."""
        with self._lock:
            give_back, call.give_back = call.give_back, None
        if call.error is None and give_back is not None:
            give_back(call.result)

    def _finish(self, call: _Call[Any]) -> None:
        """A call ends as its work did; or without an end to that, as home has ended."""
        error: BaseException | None = LoopEnded(call.started)
        result = None
        work = call.work
        if work is not None and work.done() and not work.cancelled():
            error = work.exception()
            result = None if error is not None else work.result()
        with self._lock:
            if call.finished:
                return
            call.error, call.result = error, result
            call.finished = True
        call.work = None
        if call.cancelled:
            self._drop(call)  # its loop may have no turn left to take it
        else:
            call.guest.finish(call)

    def _drop(self, call: _Call[Any]) -> None:
        """The caller of a finished call has left."""
        self.give_back(call)
        self.leave(call.guest, call)

    def end_if_idle(self) -> bool:
        """End, unless calls are under way; whether it has ended."""
        with self._lock:
            self.ended = self.ended or not self._guests
            return self.ended

    def end(self) -> None:
        """The home loop has ended: calls fail with :class:`~channels_rabbitmq.errors.LoopEnded`.

        But for those that wait for a future: while the loop has turns left, that gets its answer,
        from RabbitMQ or as the connection closes.
        """
        with self._lock:
            first, self.ended = not self.ended, True
            calls = [call for guest in self._guests.values() for call in guest.pending]
        if first:
            self._on_end()
        running = self.loop.is_running()
        for call in calls:
            work = call.work
            if work is None or isinstance(work, asyncio.Task) or not running:
                # What was done, on a loop that stopped before it could say so, has its result.
                self._finish(call)
                if work is not None:
                    # It may have begun too late for the loop to have cancelled it.
                    with contextlib.suppress(RuntimeError):
                        self.loop.call_soon_threadsafe(work.cancel)
