"""Acknowledgements of one consuming AMQP channel, coalesced, without I/O.

Reference: https://www.rabbitmq.com/docs/confirms#consumer-acknowledgements
"""

from __future__ import annotations

from bisect import bisect

from .frames import encode_ack


class Acks:
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

    def add(self, delivery_tag: int) -> bool:
        """Note that a delivery is done with; True if it is the first since the last flush."""
        self._done.append(delivery_tag)
        return len(self._done) == 1

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
