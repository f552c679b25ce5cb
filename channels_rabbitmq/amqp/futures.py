"""Futures that several wait for, and futures with a deadline."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import Any, TypeVar

T = TypeVar("T")


def retrieve(future: asyncio.Future[Any]) -> None:
    """A done-callback that marks the exception as seen, where asking for it is optional."""
    if not future.cancelled():
        future.exception()


def follow(future: asyncio.Future[T]) -> asyncio.Future[T]:
    """A future that ends as the given one does; whoever cancels it cancels nothing else.

    A task that is cancelled cancels the future that it awaits, so no future that others rely on
    may be handed out.
    """
    follower: asyncio.Future[T] = future.get_loop().create_future()

    def detach(done: asyncio.Future[T]) -> None:
        # Many may follow one future for long, such as each send() while RabbitMQ is away.
        future.remove_done_callback(finish)
        retrieve(done)

    def finish(done: asyncio.Future[T]) -> None:
        if follower.done():
            return
        error = done.exception()
        if error is None:
            follower.set_result(done.result())
        else:
            follower.set_exception(error)

    follower.add_done_callback(detach)
    if future.done():
        finish(future)
    else:
        future.add_done_callback(finish)
    return follower


def without_result(future: asyncio.Future[Any]) -> asyncio.Future[None]:
    """A future that ends as the given one does, without its result; cancelling it cancels both."""
    outer: asyncio.Future[None] = future.get_loop().create_future()

    def finish(done: asyncio.Future[Any]) -> None:
        if outer.done():
            retrieve(done)
        elif done.cancelled():
            outer.cancel()
        elif (error := done.exception()) is not None:
            outer.set_exception(error)
        else:
            outer.set_result(None)

    def cancel(_: asyncio.Future[None]) -> None:
        if outer.cancelled():
            future.cancel()

    future.add_done_callback(finish)
    outer.add_done_callback(cancel)
    return outer


#: The part of the time that a future has within which deadlines are taken for the same.
_SAME = 1 / 1000


class Deadlines:
    """Lets futures fail that are not done after so many seconds, with one timer for all.

    Futures that are watched within a thousandth of that time share the deadline of the first of
    them: thousands come in one turn of the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        #: What is due at the same time, and when; oldest first. What is done is dropped when it has
        #: come to the front.
        self._watched: deque[tuple[float, list[asyncio.Future[Any]]]] = deque()
        #: The last of them, and until when others join it.
        self._latest: list[asyncio.Future[Any]] = []
        self._latest_until = -inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: asyncio.Future[Any], now: float | None = None) -> None:
        """Set :class:`TimeoutError` on a future unless it is done in time."""
        if now is None:
            now = self._loop.time()
        if now >= self._latest_until:
            self._drop_done()
            self._latest = []
            self._latest_until = now + self._seconds * _SAME
            self._watched.append((now + self._seconds, self._latest))
            if self._timer is None:
                self._timer = self._loop.call_later(self._seconds, self._look)
        self._latest.append(future)

    def end(self, error: Exception) -> None:
        """Watch no longer; what is not done fails with the error."""
        watched, self._watched = self._watched, deque()
        self._latest_until = -inf
        for _, futures in watched:
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop_done(self) -> None:
        while self._watched and all(future.done() for future in self._watched[0][1]):
            self._watched.popleft()

    def _look(self) -> None:
        self._timer = None
        self._drop_done()
        while self._watched and self._watched[0][0] <= self._loop.time():
            for future in self._watched.popleft()[1]:
                if not future.done():
                    future.set_exception(TimeoutError())
            self._drop_done()
        if self._watched:
            self._timer = self._loop.call_at(self._watched[0][0], self._look)
        else:
            self._latest_until = -inf
