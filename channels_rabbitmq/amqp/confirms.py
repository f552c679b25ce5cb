"""Publisher confirms of one AMQP channel, without I/O.

Reference: https://www.rabbitmq.com/docs/confirms#publisher-confirms
"""

from __future__ import annotations

import asyncio
from collections import deque


class Confirms:
    """Matches the server's acks and nacks to the futures of what was published.

    The server numbers publishes from 1, per channel, and answers in about that order; one answer
    may cover all up to its number. A future that its owner cancelled is passed over.
    """

    def __init__(self) -> None:
        self._next_tag = 1
        #: Every publish below this number was answered.
        self._low = 1
        self._waiting: dict[int, asyncio.Future[None]] = {}
        #: When was looked for late answers, and which number came next then.
        self._marks: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, future: asyncio.Future[None]) -> int:
        """Note one more publish; give its delivery tag."""
        tag = self._next_tag
        self._next_tag = tag + 1
        self._waiting[tag] = future
        return tag

    def get(self, tag: int) -> asyncio.Future[None] | None:
        """The future of a publish that was not answered yet."""
        return self._waiting.get(tag)

    def ack(self, tag: int, multiple: bool) -> None:
        """The server took the message, or all up to it."""
        if not multiple:
            future = self._waiting.pop(tag, None)
            if future is not None and not future.done():
                future.set_result(None)
            return
        for future in self._pop_through(tag):
            if not future.done():
                future.set_result(None)

    def nack(self, tag: int, multiple: bool, error: Exception) -> None:
        """The server (or one of its queues) did not take the message, or all up to it."""
        if multiple:
            futures = self._pop_through(tag)
        else:
            future = self._waiting.pop(tag, None)
            futures = [] if future is None else [future]
        for future in futures:
            if not future.done():
                future.set_exception(error)

    def expire(self, now: float, limit: float, error: Exception) -> None:
        """Fail what was published longer than ``limit`` seconds ago and is not answered yet.

        Times are known by when this was called, so call it often: one that was published after
        a call counts as published then.
        """
        self._marks.append((now, self._next_tag))
        while self._marks and self._marks[0][0] <= now - limit:
            _, tag = self._marks.popleft()
            for published, future in self._waiting.items():
                if published >= tag:
                    break
                if not future.done():
                    future.set_exception(error)

    def fail_all(self, error: Exception) -> None:
        """No answer will come any more."""
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)

    def _pop_through(self, tag: int) -> list[asyncio.Future[None]]:
        # A server that answers for what was never published must not make us loop for ever.
        end = min(tag + 1, self._next_tag)
        futures = []
        for answered in range(self._low, end):
            future = self._waiting.pop(answered, None)
            if future is not None:
                futures.append(future)
        self._low = max(self._low, end)
        return futures
