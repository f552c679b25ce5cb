"""One delivery, and the mailbox of one channel that holds some, with the calls that wait there.

Decisions only: no I/O, no clock, no ``await``. The clock's readings are handed in, in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from typing import Protocol

from ..wire.messages import Message

#: A reading of the clock before all others.
NEVER = -math.inf


class Source(Protocol):
    """An AMQP channel, as far as deliveries are acknowledged on it."""

    def ack(self, delivery_tag: int) -> None:
        """Acknowledge a delivery."""


class Waiter(Protocol):
    """An :class:`asyncio.Future` on which a call waits for a message."""

    def done(self) -> bool:
        """Return whether it waits no more."""

    def cancelled(self) -> bool:
        """Return whether its call was cancelled."""

    def set_result(self, result: None) -> None:
        """Wake it."""

    def set_exception(self, exception: type | BaseException) -> None:
        """Wake it with an error."""


class _Nowhere:
    """The source of deliveries that were acknowledged before."""

    def ack(self, delivery_tag: int) -> None:
        """Do nothing."""

    def routing(self) -> tuple[str, str]:
        """None that is known."""
        return "", ""

    def properties(self) -> bytes:
        """None that are known."""
        return b""


#: Where nothing is acknowledged.
NOWHERE = _Nowhere()


class Delivery:
    """One message from RabbitMQ, shared by the local channels that have yet to read it."""

    __slots__ = (
        "arrived",
        "body",
        "channels",
        "costly",
        "flat",
        "holders",
        "message",
        "source",
        "tag",
    )

    def __init__(
        self, source: Source, tag: int, arrived: float, body: bytes, message: Message
    ) -> None:
        self.source = source
        self.tag = tag
        #: When it came, by the loop's clock.
        self.arrived = arrived
        self.body = body
        #: The message decoded once: for all readers, if it is flat and so cheap to copy; else for
        #: the first one, and the others decode copies of their own.
        self.message: Message | None = message
        self.flat = False
        #: Whether the copies of all its readers, made at once, would take the loop long.
        self.costly = False
        #: The channels that it came for, whether or not they still hold it.
        self.channels: Collection[str] = ()
        #: How many channels still hold it. At zero it is acknowledged.
        self.holders = 0


#: The queue of a mailbox that has held nothing yet: a deque of its own takes 600 bytes. Nothing is
#: ever put into it.
NOTHING: deque[Delivery] = deque()


class Mailbox:
    """The messages that one channel holds, oldest first, and those who wait for one."""

    __slots__ = ("behind", "name", "queue", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[Delivery] = NOTHING
        self.waiters: list[Waiter] = []
        #: When the newest message came that it held as it last lost one.
        self.behind = NEVER

    def lags(self, limit: float) -> bool:
        """Whether it holds a message that came at or before ``limit``.

        One that lost a message lags until it has read all that it held then: losing its oldest
        messages makes the others younger, but the channel no faster.
        """
        return bool(self.queue) and self.queue[0].arrived <= max(limit, self.behind)

    def lose(self, delivery: Delivery) -> bool:
        """Hold a delivery no more; False if it was read."""
        queue = self.queue
        if queue and queue[0] is delivery:
            queue.popleft()
        else:
            for index, held in enumerate(queue):
                if held is delivery:
                    del queue[index]
                    break
                if held.arrived > delivery.arrived:
                    return False
            else:
                return False
        if queue:
            self.behind = queue[-1].arrived
        return True

    def hold(self, delivery: Delivery, first: bool = False) -> None:
        """Hold one more message, after all others or ahead of them."""
        if self.queue is NOTHING:
            self.queue = deque()
        if first:
            self.queue.appendleft(delivery)
        else:
            self.queue.append(delivery)

    def wake(self) -> None:
        """Wake the waiter that has waited longest."""
        waiters = self.waiters
        while waiters:
            waiter = waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return

    def give_up(self, waiter: Waiter) -> None:
        """Forget a waiter that was cancelled; if it was just woken, wake the next in its place."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
        elif not waiter.cancelled() and self.queue:
            self.wake()

    def take_over(self, other: Mailbox) -> None:
        """Take the messages of another mailbox."""
        self.queue, other.queue = other.queue, NOTHING

    def fail_waiters(self, error: Exception) -> None:
        """Wake everyone who waits, with an error."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
