"""Calls from any event loop to the hub's, and their results back.

Wake-ups of either loop are coalesced: many calls under way cost few.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

#: Seconds between looks whether the home loop still runs, while calls wait for it.
_GUARD_INTERVAL = 0.25


class HomeEnded(Exception):
    """The home loop ended before the call was done. Never reaches users."""

    def __init__(self, started: bool) -> None:
        super().__init__("the home loop ended")
        #: Whether the call had begun, so that what it did is not known.
        self.started = started


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
        "task",
        "waiter",
    )

    def __init__(
        self,
        guest: _Guest,
        start: Callable[[], Coroutine[Any, Any, _T]],
        give_back: Callable[[_T], None] | None,
    ) -> None:
        self.guest = guest
        self.start = start
        self.context = contextvars.copy_context()
        #: What to do, on the home loop, with a result that its caller was cancelled for.
        self.give_back = give_back
        self.waiter: asyncio.Future[_T] = guest.loop.create_future()
        #: Set on the home loop.
        self.task: asyncio.Task[_T] | None = None
        self.result: _T | None = None
        self.error: BaseException | None = None
        #: The caller was cancelled.
        self.cancelled = False
        #: The result, or the error, is on its way back.
        self.finished = False


class _Guest:
    """A loop that calls: its results, delivered with one wake-up for many."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bridge: Bridge) -> None:
        self.loop = loop
        self._bridge = bridge
        self.pending: set[_Call[Any]] = set()
        self._done: deque[_Call[Any]] = deque()
        self._waking = False
        self._guard: asyncio.TimerHandle | None = None

    # On the home loop's thread

    def finish(self, call: _Call[Any]) -> None:
        """A call is done: bring its result over."""
        call.finished = True
        self._done.append(call)
        if not self._waking:
            self._waking = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the guest's loop is closed: nobody waits any more
                self._give_back_all()

    def _give_back_all(self) -> None:
        self._waking = False
        while self._done:
            call = self._done.popleft()
            if call.error is None and call.give_back is not None:
                call.give_back(call.result)

    # On the guest's own loop

    def watch(self) -> None:
        """See to it that a home loop that just stops does not leave calls hanging."""
        if self._guard is None:
            self._guard = self.loop.call_later(_GUARD_INTERVAL, self._look)

    def _look(self) -> None:
        self._guard = None
        if not self.pending:
            return
        if self._bridge.loop.is_running():
            self.watch()
        else:
            self._bridge.end()

    def _deliver(self) -> None:
        self._waking = False
        done = self._done
        while done:
            call = done.popleft()
            self.pending.discard(call)
            waiter = call.waiter
            if waiter.done():  # its caller was cancelled
                self._bridge.give_back(call)
            elif call.error is not None:
                waiter.set_exception(call.error)
            else:
                waiter.set_result(call.result)
        if not self.pending:
            self.leave()

    def leave(self) -> None:
        """Nothing is pending: no timer stays behind."""
        if self._guard is not None:
            self._guard.cancel()
            self._guard = None
        self._bridge.forget(self)


class Bridge:
    """The way to one home loop, from all others. Made by that loop's hub's owner."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        self.loop = loop
        self._on_end = on_end
        self._guests: dict[asyncio.AbstractEventLoop, _Guest] = {}
        self._calls: deque[_Call[Any]] = deque()
        self._waking = False
        #: The home loop has ended: no call can be done any more.
        self.ended = False

    @property
    def pending(self) -> bool:
        """Whether any loop waits for a call."""
        return bool(self._guests)

    # On a guest's loop

    async def call(
        self,
        start: Callable[[], Coroutine[Any, Any, _T]],
        give_back: Callable[[_T], None] | None = None,
    ) -> _T:
        """Run ``start()`` on the home loop, in the caller's context, and give its result.

        Cancelling cancels it there. A result that crosses with the cancellation goes to
        ``give_back``, on the home loop. Raises :class:`HomeEnded`.
        """
        loop = asyncio.get_running_loop()
        guest = self._guests.get(loop)
        if guest is None:
            guest = self._guests[loop] = _Guest(loop, self)
        call = _Call(guest, start, give_back)
        guest.pending.add(call)
        guest.watch()
        self._calls.append(call)
        if self.ended:
            self.end()
        else:
            self._wake()
        waiter = call.waiter
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give_back(call)
            else:
                self.tell(self._cancel, call)
            raise

    def give_back(self, call: _Call[Any]) -> None:
        """Nobody takes the result of a call any more."""
        if call.error is None and call.give_back is not None:
            self.tell(call.give_back, call.result)

    def forget(self, guest: _Guest) -> None:
        """A guest has nothing pending any more."""
        if not guest.pending and self._guests.get(guest.loop) is guest:
            del self._guests[guest.loop]

    def _wake(self) -> None:
        if not self._waking:
            self._waking = True
            try:
                self.loop.call_soon_threadsafe(self._start_calls)
            except RuntimeError:  # the loop is closed
                self.end()

    def tell(self, callback: Callable[[Any], None], argument: object = None) -> None:
        """Run a callback on the home loop, some time soon; not at all if it is closed."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(callback, argument)

    # On the home loop

    def _start_calls(self) -> None:
        self._waking = False
        calls = self._calls
        while calls:
            call = calls.popleft()
            if call.cancelled:
                call.error = asyncio.CancelledError()
                call.guest.finish(call)
            else:
                task = call.context.run(self.loop.create_task, call.start())
                call.task = task
                task.add_done_callback(self._finisher(call))

    def _finisher(self, call: _Call[Any]) -> Callable[[asyncio.Task[Any]], None]:
        def finish(task: asyncio.Task[Any]) -> None:
            if call.finished:
                return  # the home loop had ended before
            if task.cancelled():
                if not call.cancelled:
                    # Nobody asked for that: the loop is cancelling all that it has.
                    self.end()
                    return
                call.error = asyncio.CancelledError()
            else:
                call.error = task.exception()
                if call.error is None:
                    call.result = task.result()
            call.task = None
            call.guest.finish(call)

        return finish

    def _cancel(self, call: _Call[Any]) -> None:
        call.cancelled = True
        if call.task is not None:
            call.task.cancel()

    # On any thread

    def end(self) -> None:
        """The home loop has ended: every call fails with :class:`HomeEnded`."""
        first = not self.ended
        self.ended = True
        if first:
            self._on_end()
        for guest in list(self._guests.values()):
            for call in list(guest.pending):
                if not call.finished:
                    call.error = HomeEnded(call.task is not None)
                    guest.finish(call)
