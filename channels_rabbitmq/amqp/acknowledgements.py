"""Acknowledgements of one AMQP channel, in both directions, without I/O.

RabbitMQ documents the two as one thing: it confirms what we publish, and we acknowledge what it
delivers. Reference: https://www.rabbitmq.com/docs/confirms
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect
from collections import deque

from .counts import PublishCounts
from .frames import encode_ack

__all__ = ["ConsumerAcks", "PublisherConfirms"]


class PublisherConfirms:
    """Matches the server's acks and nacks to the futures of what was published.

    The server numbers publishes from 1, per channel, and answers in about that order; one answer
    may cover all up to its number. A future that its owner cancelled is passed over.
    """

    def __init__(self, counts: PublishCounts | None = None) -> None:
        self._counts = PublishCounts() if counts is None else counts
        self._next_tag = 1
        #: Every publish below this number was answered.
        self._low = 1
        self._waiting: dict[int, asyncio.Future[None]] = {}
        #: ``(time, next delivery tag)`` recorded at each call of :meth:`expire`, oldest first.
        self._marks: deque[tuple[float, int]] = deque()
        #: When the oldest publish was made that expired since the server last answered any; None
        #: while all are answered in time.
        self.unanswered_since: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, future: asyncio.Future[None]) -> int:
        """Note one more publish; give its delivery tag."""
        tag = self._next_tag
        self._next_tag = tag + 1
        self._waiting[tag] = future
        self._counts.published += 1
        return tag

    def get(self, tag: int) -> asyncio.Future[None] | None:
        """The future of a publish that was not answered yet."""
        return self._waiting.get(tag)

    def ack(self, tag: int, multiple: bool) -> None:
        """The server took the message, or all up to it."""
        self.unanswered_since = None
        if not multiple:
            future = self._waiting.pop(tag, None)
            if future is not None:
                self._counts.confirmed += 1
                if not future.done():
                    future.set_result(None)
            return
        futures = self._pop_through(tag)
        self._counts.confirmed += len(futures)
        for future in futures:
            if not future.done():
                future.set_result(None)

    def nack(self, tag: int, multiple: bool, error: Exception) -> None:
        """The server (or one of its queues) did not take the message, or all up to it."""
        self.unanswered_since = None
        if multiple:
            futures = self._pop_through(tag)
        else:
            future = self._waiting.pop(tag, None)
            futures = [] if future is None else [future]
        self._counts.refused += len(futures)
        for future in futures:
            if not future.done():
                future.set_exception(error)

    def refuse(self, tag: int, error: Exception) -> None:
        """The server returned the message; its ack, which follows, is passed over."""
        future = self._waiting.pop(tag, None)
        if future is not None:
            self._counts.refused += 1
            if not future.done():
                future.set_exception(error)

    def expire(self, now: float, limit: float, error: Exception) -> None:
        """Fail what was published longer than ``limit`` seconds ago and is not answered yet.

        It is forgotten; an answer that comes late is passed over. Times are known by when this was
        called, so call it often: one that was published after a call counts as published then.
        """
        self._marks.append((now, self._next_tag))
        while self._marks and self._marks[0][0] <= now - limit:
            marked, tag = self._marks.popleft()
            expired = list(itertools.takewhile(tag.__gt__, self._waiting))
            if expired and self.unanswered_since is None:
                self.unanswered_since = marked
            self._counts.unconfirmed += len(expired)
            for published in expired:
                future = self._waiting.pop(published)
                if not future.done():
                    future.set_exception(error)

    def forget(self, tag: int) -> None:
        """Keep a publish no longer: nobody waits for its answer."""
        if self._waiting.pop(tag, None) is not None:
            self._counts.unconfirmed += 1

    def fail_all(self, error: Exception) -> None:
        """No answer will come any more."""
        waiting, self._waiting = self._waiting, {}
        self._counts.unconfirmed += len(waiting)
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


class ConsumerAcks:
    """Collects the delivery tags that are done with and packs them into few frames.

    Tags come from 1 upward, without a gap, per channel; they may be done with in any order, each
    once. All below the lowest one that is still held go into one frame with ``multiple`` set.
    """

    def __init__(self, channel: int) -> None:
        self._channel = channel
        #: The highest tag that was acknowledged.
        self._top = 0
        #: The tags below it that were not, ascending. The prefetch window bounds them.
        self._held: dict[int, None] = {}
        self._done: list[int] = []

    def add(self, delivery_tag: int) -> int:
        """Note that a delivery is done with; give how many were since the last flush."""
        self._done.append(delivery_tag)
        return len(self._done)

    @property
    def noted(self) -> bool:
        """Whether a flush would send any."""
        return bool(self._done)

    @property
    def count(self) -> int:
        """How many deliveries are done with."""
        return self._top - len(self._held) + len(self._done)

    def flush(self) -> bytes:
        """The frames that acknowledge all that was noted since the last time."""
        done, self._done = self._done, []
        if len(done) > 1:
            done.sort()
        top = self._top
        held = self._held
        for tag in done:
            if tag == top + 1:
                top = tag
            elif tag > top:
                held.update(dict.fromkeys(range(top + 1, tag)))
                top = tag
            else:
                held.pop(tag, None)
        self._top = top
        run = bisect(done, next(iter(held), top))
        frames = [encode_ack(self._channel, tag, False) for tag in done[run:]]
        if run:
            frames.insert(0, encode_ack(self._channel, done[run - 1], run > 1))
        return b"".join(frames)
