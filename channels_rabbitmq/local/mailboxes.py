"""The messages that the process has received and nobody has read, and the calls that wait.

Decisions only: no I/O, no clock, no ``await``. The clock's readings are handed in, in seconds.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import Protocol

from ..log import RateLimitedWarning
from ..wire.messages import Envelope, Message, decode, is_flat

logger = logging.getLogger(__name__)

#: A channel is stuck when it holds messages and was not read for so many seconds while the window
#: was full. Long enough for a healthy consumer to get its turn of the event loop.
STUCK_AFTER = 0.1


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


#: Where nothing is acknowledged.
NOWHERE = _Nowhere()


class Delivery:
    """One message from RabbitMQ, shared by the local channels that have yet to read it."""

    __slots__ = ("arrived", "body", "flat", "holders", "message", "source", "tag")

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
        #: How many channels still hold it. At zero it is acknowledged.
        self.holders = 0


#: The queue of a mailbox that has held nothing yet: a deque of its own takes 600 bytes. Nothing is
#: ever put into it.
_NOTHING: deque[Delivery] = deque()


class Mailbox:
    """The messages that one channel holds, in order, and those who wait for one."""

    __slots__ = ("name", "queue", "read", "unread_since", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: deque[Delivery] = _NOTHING
        self.waiters: list[Waiter] = []
        #: Whether a message was read since the window was last looked over.
        self.read = True
        #: The clock's reading since when none was, as far as was looked.
        self.unread_since = 0.0

    def hold(self, delivery: Delivery, first: bool = False) -> None:
        """Hold one more message, after all others or ahead of them."""
        if self.queue is _NOTHING:
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
        self.queue, other.queue = other.queue, _NOTHING

    def fail_waiters(self, error: Exception) -> None:
        """Wake everyone who waits, with an error."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)


class Mailboxes:
    """The mailboxes of all channels of the process.

    At most ``capacity`` deliveries are held; RabbitMQ's prefetch window sees to that. While the
    window is full RabbitMQ sends nothing, so :meth:`relieve` keeps stuck channels from closing it
    on the others. A delivery is acknowledged when the last channel that holds it is done with it.

    With ``channel_capacity``, ``cap()`` gives the most messages that a channel holds, or None. A
    channel over its cap loses its oldest ones, whether or not the window is full.
    """

    def __init__(
        self,
        capacity: int,
        expiry: float,
        decode: Callable[[bytes], Envelope] = decode,
        *,
        cap: Callable[[str], int | None] | None = None,
    ) -> None:
        self._capacity = capacity
        self._expiry = expiry
        #: Decodes the body of a delivery again, for each further reader's own copy.
        self._decode = decode
        self._cap = cap
        self._warn_capped = RateLimitedWarning(logger)
        #: Every delivery that is not acknowledged, oldest first.
        self._held: dict[Delivery, None] = {}
        self._boxes: dict[str, Mailbox] = {}
        #: The mailbox of a channel whose name was checked before, if it is still there.
        self.find: Callable[[str], Mailbox | None] = self._boxes.get
        #: At this many mailboxes, unused ones are cleared away.
        self._sweep_at = 64

    def __len__(self) -> int:
        """The number of deliveries held."""
        return len(self._held)

    def __repr__(self) -> str:
        return f"<Mailboxes: {len(self._held)} deliveries held>"

    @property
    def unused(self) -> bool:
        """Whether nothing is held here, and nobody waits."""
        return not any(box.queue or box.waiters for box in self._boxes.values())

    @property
    def full(self) -> bool:
        """Whether the window is full: RabbitMQ sends no more until something is acknowledged."""
        return len(self._held) >= self._capacity

    def box(self, channel: str) -> Mailbox:
        """The mailbox of a channel, made if it is not there."""
        box = self._boxes.get(channel)
        if box is None:
            if len(self._boxes) >= self._sweep_at:
                self._sweep()
            box = self._boxes[channel] = Mailbox(channel)
        return box

    def put(self, delivery: Delivery, channels: Collection[str]) -> None:
        """Hold a delivery for some channels and wake a reader of each; for none, drop it."""
        if not channels:
            delivery.source.ack(delivery.tag)
            return
        delivery.holders = len(channels)
        delivery.flat = delivery.holders > 1 and is_flat(delivery.message)
        self._held[delivery] = None
        boxes = self._boxes
        for name in channels:
            box = boxes.get(name) or self.box(name)
            if box.queue is _NOTHING:
                box.queue = deque()
            box.queue.append(delivery)
            waiters = box.waiters
            while waiters:  # as wake() does, without a call for each member of a large group
                waiter = waiters.pop(0)
                if not waiter.done():
                    waiter.set_result(None)
                    break
        if self._cap is not None:
            self._drop_over(self._cap, channels)

    def take(self, box: Mailbox) -> Message:
        """Give the oldest message of a mailbox that holds one."""
        delivery = box.queue.popleft()
        box.read = True
        delivery.holders = holders = delivery.holders - 1
        if not holders:
            del self._held[delivery]
            delivery.source.ack(delivery.tag)
        message = delivery.message
        if message is None:
            return self._decode(delivery.body)[2]
        if holders:
            if delivery.flat:
                return message.copy()
            delivery.message = None
        return message

    def put_back(self, channel: str, message: Message, now: float) -> None:
        """Hold a message again that was taken (and acknowledged), ahead of all others."""
        delivery = Delivery(NOWHERE, 0, now, b"", message)
        delivery.holders = 1
        self._held[delivery] = None
        box = self.box(channel)
        box.hold(delivery, first=True)
        box.wake()

    def expire(self, now: float) -> Counter[str]:
        """Drop every message held for longer than the expiry; count them by channel."""
        dropped: Counter[str] = Counter()
        limit = now - self._expiry
        if self.oldest is None or self.oldest > limit:
            return dropped
        for box in self._boxes.values():
            while box.queue and box.queue[0].arrived <= limit:
                self._release(box.queue.popleft())
                dropped[box.name] += 1
        return dropped

    @property
    def oldest(self) -> float | None:
        """When the oldest delivery held came; None if none is held."""
        for delivery in self._held:
            return delivery.arrived
        return None

    def relieve(self, now: float, in_groups: Collection[str]) -> Counter[str]:
        """Free a slot of a full window at the cost of stuck channels; count drops by channel.

        Nothing is dropped while the channel that would lose is the only one in use (one of those
        ``in_groups``, holding messages, or waited for): that one back-pressures to RabbitMQ
        instead. A channel that was read within ``STUCK_AFTER`` seconds is not stuck.
        """
        dropped: Counter[str] = Counter()
        while self.full:
            stuck = self._fullest_stuck(now)
            if stuck is None or not self._others_in_use(stuck, in_groups):
                break
            self._release(stuck.queue.popleft())
            dropped[stuck.name] += 1
        # Deliveries left from an earlier connection are in no window: without this, each
        # reconnection could add a window's worth.
        while len(self._held) > self._capacity:
            dropped.update(self._drop(next(iter(self._held))))
        return dropped

    def fullest(self, count: int = 3) -> list[tuple[str, int]]:
        """The channels that hold most, with how many messages each."""
        sizes = [(box.name, len(box.queue)) for box in self._boxes.values() if box.queue]
        sizes.sort(key=lambda size: -size[1])
        return sizes[:count]

    def clear(self) -> None:
        """Hold nothing; those who wait go on."""
        for box in self._boxes.values():
            while box.queue:
                self._release(box.queue.popleft())

    def fail_waiters(self, error: Exception) -> None:
        """Wake everyone who waits, with an error."""
        for box in self._boxes.values():
            box.fail_waiters(error)

    def take_over(self, other: Mailboxes) -> None:
        """Take the messages of another, and leave it only those who wait."""
        self._held, other._held = other._held, {}
        for delivery in self._held:
            # Its connection ends, and belongs to another thread perhaps: nothing to acknowledge.
            delivery.source = NOWHERE
        for box in other._boxes.values():
            if box.queue:
                self.box(box.name).take_over(box)

    def _drop_over(self, cap_of: Callable[[str], int | None], channels: Collection[str]) -> None:
        for name in channels:
            cap = cap_of(name)
            queue = self.box(name).queue
            while cap is not None and len(queue) > cap:
                self._release(queue.popleft())
                self._warn_capped(
                    "channel_capacity (%d) dropped the oldest message of %s", cap, name
                )

    def _release(self, delivery: Delivery) -> None:
        delivery.holders -= 1
        if not delivery.holders:
            del self._held[delivery]
            delivery.source.ack(delivery.tag)

    def _drop(self, delivery: Delivery) -> Counter[str]:
        dropped: Counter[str] = Counter()
        for box in self._boxes.values():
            if delivery in box.queue:
                box.queue.remove(delivery)
                self._release(delivery)
                dropped[box.name] += 1
        return dropped

    def _fullest_stuck(self, now: float) -> Mailbox | None:
        fullest = None
        most = 0
        for box in self._boxes.values():
            if not box.queue:
                continue
            if box.read:
                box.read = False
                box.unread_since = now
            elif len(box.queue) > most and now - box.unread_since >= STUCK_AFTER:
                fullest = box
                most = len(box.queue)
        return fullest

    def _others_in_use(self, box: Mailbox, in_groups: Collection[str]) -> bool:
        if len(in_groups) > (box.name in in_groups):
            return True
        return any(
            other is not box and (other.queue or other.waiters) for other in self._boxes.values()
        )

    def _sweep(self) -> None:
        unused = [box.name for box in self._boxes.values() if not box.queue and not box.waiters]
        for name in unused:
            del self._boxes[name]
        self._sweep_at = 64 + 2 * len(self._boxes)
