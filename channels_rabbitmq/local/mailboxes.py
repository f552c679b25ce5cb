"""What the process holds in memory: received messages, those who wait for them, and its groups.

Decisions only: no I/O, no clock, no ``await``. The clock's readings are handed in, in seconds.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import Protocol

from ..wire.messages import Envelope, Message, decode, is_flat

#: Seconds for which a channel that holds messages may go unread before it counts as stuck, when
#: the window is full. Long enough for a healthy consumer to get its turn of the event loop.
STUCK_AFTER = 0.1


class Source(Protocol):
    """Where deliveries come from and are acknowledged: an AMQP channel."""

    def ack(self, delivery_tag: int) -> None:
        """Tell RabbitMQ that the delivery is done with."""


class Waiter(Protocol):
    """Who waits for a message: an asyncio future."""

    def done(self) -> bool:
        """Whether it waits no more."""

    def cancelled(self) -> bool:
        """Whether it gave up."""

    def set_result(self, result: None) -> None:
        """Wake it."""

    def set_exception(self, exception: type | BaseException) -> None:
        """Wake it with an error."""


class _Nowhere:
    """The source of what was acknowledged before."""

    def ack(self, delivery_tag: int) -> None:
        """There is nothing to tell."""


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
        #: The clock's reading when it came.
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
        """Wake the one that has waited longest."""
        waiters = self.waiters
        while waiters:
            waiter = waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return

    def give_up(self, waiter: Waiter) -> None:
        """A waiter was cancelled. If a message had just woken it, the next in line gets that."""
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
    """All mailboxes and groups of the process.

    At most ``capacity`` deliveries are held; RabbitMQ's prefetch window sees to that. While the
    window is full RabbitMQ sends nothing, so :meth:`relieve` keeps stuck channels from closing it
    on the others. A delivery is acknowledged when the last channel that holds it is done with it.
    """

    def __init__(
        self,
        capacity: int,
        expiry: float,
        decode: Callable[[bytes], Envelope] = decode,
    ) -> None:
        self._capacity = capacity
        self._expiry = expiry
        #: Reads the body of a delivery again, for each further reader's own copy.
        self._decode = decode
        #: Every delivery that is not acknowledged, oldest first.
        self._held: dict[Delivery, None] = {}
        self._boxes: dict[str, Mailbox] = {}
        #: The mailbox of a channel whose name was checked before, if it is still there.
        self.find: Callable[[str], Mailbox | None] = self._boxes.get
        #: At this many mailboxes, unused ones are cleared away.
        self._sweep_at = 64
        self._groups: dict[str, dict[str, None]] = {}
        #: How many groups a channel is in, for those in any.
        self._memberships: Counter[str] = Counter()

    def __len__(self) -> int:
        """The number of deliveries held."""
        return len(self._held)

    def __repr__(self) -> str:
        return f"<Mailboxes: {len(self._held)} deliveries held, {len(self._groups)} groups>"

    @property
    def unused(self) -> bool:
        """Whether no channel is in use here: the process has only sent so far."""
        return not self._groups and not any(
            box.queue or box.waiters for box in self._boxes.values()
        )

    @property
    def full(self) -> bool:
        """Whether the window is full: RabbitMQ sends no more until something is acknowledged."""
        return len(self._held) >= self._capacity

    # Groups

    @property
    def groups(self) -> Collection[str]:
        """The groups that have a member here."""
        return self._groups.keys()

    def members(self, group: str) -> Collection[str]:
        """The local channels in a group."""
        return self._groups.get(group, {}).keys()

    def is_member(self, group: str, channel: str) -> bool:
        """Whether a channel is in a group."""
        return channel in self._groups.get(group, ())

    def join(self, group: str, channel: str) -> bool:
        """Add a channel to a group; False if it was in it."""
        members = self._groups.setdefault(group, {})
        if channel in members:
            return False
        members[channel] = None
        self._memberships[channel] += 1
        return True

    def leave(self, group: str, channel: str) -> bool:
        """Take a channel out of a group; True if that left the group without a local member."""
        members = self._groups.get(group, {})
        if channel not in members:
            return False
        del members[channel]
        self._memberships[channel] -= 1
        if not self._memberships[channel]:
            del self._memberships[channel]
        if members:
            return False
        del self._groups[group]
        return True

    # Messages

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
            if box.waiters:
                box.wake()

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

    def relieve(self, now: float) -> Counter[str]:
        """Free a slot of a full window at the cost of stuck channels; count drops by channel.

        Nothing is dropped while the channel that would lose is the only one in use (in a group,
        holding messages, or waited for): that one back-pressures to RabbitMQ instead. A channel
        that was read within ``STUCK_AFTER`` seconds is not stuck.
        """
        dropped: Counter[str] = Counter()
        while self.full:
            stuck = self._fullest_stuck(now)
            if stuck is None or not self._others_in_use(stuck):
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

    def clear(self) -> list[str]:
        """Hold nothing, and empty all groups; those who wait go on. Gives the groups' names."""
        groups = list(self._groups)
        self._groups.clear()
        self._memberships.clear()
        for box in self._boxes.values():
            while box.queue:
                self._release(box.queue.popleft())
        return groups

    def fail_waiters(self, error: Exception) -> None:
        """Wake everyone who waits, with an error."""
        for box in self._boxes.values():
            box.fail_waiters(error)

    def take_over(self, other: Mailboxes) -> None:
        """Take the messages and groups of another, and leave it only those who wait."""
        self._held, other._held = other._held, {}
        for delivery in self._held:
            # Its connection ends, and belongs to another thread perhaps: nothing to acknowledge.
            delivery.source = NOWHERE
        self._groups, other._groups = other._groups, {}
        self._memberships, other._memberships = other._memberships, Counter()
        for box in other._boxes.values():
            if box.queue:
                self.box(box.name).take_over(box)

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

    def _others_in_use(self, box: Mailbox) -> bool:
        if len(self._memberships) > (box.name in self._memberships):
            return True
        return any(
            other is not box and (other.queue or other.waiters) for other in self._boxes.values()
        )

    def _sweep(self) -> None:
        unused = [box.name for box in self._boxes.values() if not box.queue and not box.waiters]
        for name in unused:
            del self._boxes[name]
        self._sweep_at = 64 + 2 * len(self._boxes)
