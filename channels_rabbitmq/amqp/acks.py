"""Acknowledgements of one consuming AMQP channel, coalesced, without I/O.

Reference: https://www.rabbitmq.com/docs/confirms#consumer-acknowledgements
"""

from __future__ import annotations

from .frames import encode_ack


class Acks:
    """Collects the delivery tags that are done with and packs them into few frames.

    Tags come from 1 upward, without a gap, per channel; they may be done with in any order. All
    up to the lowest one that is still held go into one frame with ``multiple`` set; the server
    closes the channel over a tag it does not know, so no tag is ever acknowledged twice.
    """

    def __init__(self, channel: int) -> None:
        self._channel = channel
        #: Every tag up to this one was acknowledged.
        self._through = 0
        #: Tags above ``_through`` that were acknowledged one by one.
        self._ahead: set[int] = set()
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
        through = self._through
        last = 0  # the greatest new tag of the unbroken run: it stands for all before it
        ahead = self._ahead
        frames = []
        for tag in done:
            while ahead and through + 1 in ahead:
                through += 1
                ahead.remove(through)
            if tag == through + 1:
                through = last = tag
            else:
                frames.append(encode_ack(self._channel, tag, False))
                ahead.add(tag)
        while ahead and through + 1 in ahead:
            through += 1
            ahead.remove(through)
        if last:
            frames.insert(0, encode_ack(self._channel, last, last - self._through > 1))
        self._through = through
        return b"".join(frames)
