"""The mailboxes of all channels of the process, and how many messages they hold together.

Decisions only: no I/O, no clock, no ``await``. The clock's readings are handed in, in seconds.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from heapq import nlargest
from itertools import islice, takewhile

from ..amqp.log import NamedLogger
from ..log import RateLimitedWarning
from ..wire.messages import Envelope, Message, decode, is_flat
from .counts import (
    CHANNEL_CAPACITY,
    FLUSH,
    LOCAL_CAPACITY,
    LOCAL_EXPIRY,
    NO_RECEIVER,
    Counts,
)
from .lag import Laggards
from .mailbox import NEVER, NOTHING, NOWHERE, Delivery, Mailbox

logger = logging.getLogger(__name__)

#: So many mailboxes may stay while they are not used.
_FEW = 64


#: Bytes to decode for the copies of all readers of one message, above which these are made one in
#: each turn of the event loop. About a twentieth of a second.
COSTLY = 1024 * 1024


class Mailboxes:
    """The mailboxes of all channels of the process.

    RabbitMQ sends at most ``capacity`` deliveries that are not acknowledged: its prefetch window.
    While that is full it sends nothing, so :meth:`relieve` keeps channels that lag from closing it
    on the others. A delivery is acknowledged when the last channel that holds it is done with it.

    Every mailbox, and the whole, is in the order in which deliveries came.

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
        counts: Counts | None = None,
        name: object = "",
    ) -> None:
        self._capacity = capacity
        self._expiry = expiry
        #: Decodes the body of a delivery again, for each further reader's own copy.
        self._decode = decode
        self._cap = cap
        self._warn_capped = RateLimitedWarning(NamedLogger(logger, name))
        #: Every delivery that is not acknowledged, oldest first.
        self._held: dict[Delivery, None] = {}
        self._boxes: dict[str, Mailbox] = {}
        #: The mailbox of a channel whose name was checked before, if it is still there.
        self.find: Callable[[str], Mailbox | None] = self._boxes.get
        #: At this many mailboxes, unused ones are cleared away.
        self._sweep_at = _FEW
        #: The channels that lag, as of the last look.
        self._laggards = Laggards({}, NEVER)
        self._counts = Counts() if counts is None else counts

    def __len__(self) -> int:
        """The number of deliveries held."""
        return len(self._held)

    def __repr__(self) -> str:
        dropped = "".join(f", {count} dropped by {why}" for why, count in self.dropped.items())
        return f"<Mailboxes: {len(self._held)} deliveries held{dropped}>"

    @property
    def dropped(self) -> Counter[str]:
        """How many copies nobody got, by why."""
        return self._counts.dropped

    @property
    def unread(self) -> int:
        """The number of copies held. May be asked for on any thread."""
        return sum([len(box.queue) for box in list(self._boxes.values())])

    @property
    def unused(self) -> bool:
        """Whether nothing is held here, and nobody waits."""
        return not self.in_use

    @property
    def in_use(self) -> list[str]:
        """The channels that hold messages or are waited for. May be asked for on any thread."""
        return [box.name for box in list(self._boxes.values()) if box.queue or box.waiters]

    @property
    def full(self) -> bool:
        """Whether the window is full: RabbitMQ sends no more until something is acknowledged."""
        return len(self._held) >= self._capacity

    def box(self, channel: str) -> Mailbox:
        """The mailbox of a channel, made if it is not there."""
        box = self._boxes.get(channel)
        if box is None:
            if len(self._boxes) >= self._sweep_at:
                self.sweep()
            box = self._boxes[channel] = Mailbox(channel)
        return box

    def put(self, delivery: Delivery, channels: Collection[str]) -> None:
        """Hold a delivery for some channels and wake a reader of each; for none, drop it."""
        if not channels:
            self._counts.copies += 1
            delivery.source.ack(delivery.tag)
            self._counts.drop(NO_RECEIVER)
            return
        delivery.channels = channels = tuple(channels)
        delivery.holders = holders = len(channels)
        self._counts.copies += holders
        if holders > 1:
            delivery.flat = is_flat(delivery.message)
            delivery.costly = not delivery.flat and len(delivery.body) * len(channels) > COSTLY
        self._held[delivery] = None
        boxes = self._boxes
        for name in channels:
            box = boxes.get(name) or self.box(name)
            if box.queue is NOTHING:
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
        self._counts.delivered += 1
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
        box = self.box(channel)
        self._counts.copies += 1
        # It came before those that come after it; when exactly is not known any more.
        arrived = box.queue[0].arrived if box.queue else now
        delivery = Delivery(NOWHERE, 0, arrived, b"", message)
        delivery.channels = (channel,)
        delivery.holders = 1
        held = sorted([delivery, *self._held], key=lambda each: each.arrived)
        self._held = dict.fromkeys(held)
        box.hold(delivery, first=True)
        box.wake()

    def expire(self, now: float) -> Counter[str]:
        """Drop every message held for longer than the expiry; count them by channel."""
        limit = now - self._expiry
        oldest = self.oldest
        if oldest is None or oldest > limit:
            return Counter()
        expired = takewhile(lambda delivery: delivery.arrived <= limit, self._held)
        dropped = self._lose(list(expired))
        self._counts.drop_from(LOCAL_EXPIRY, dropped)
        return dropped

    @property
    def oldest(self) -> float | None:
        """When the oldest delivery held came; None if none is held."""
        for delivery in self._held:
            return delivery.arrived
        return None

    def relieve(self, limit: float, in_groups: Collection[str]) -> Counter[str]:
        """Free a slot of a full window at the cost of channels that lag; count drops by channel.

        A channel lags when it holds a message that came at or before ``limit``. Nothing is dropped
        unless a channel is in use (one of those ``in_groups``, holding messages, or waited for)
        that does not: those that lag together back-pressure to RabbitMQ instead.
        """
        dropped: Counter[str] = Counter()
        if self.full and limit != self._laggards.limit:
            self._laggards = Laggards(self._boxes, limit)
        while self.full and (delivery := self._laggards.next_to_drop(in_groups)):
            dropped += self._lose([delivery])
        # What is left from earlier connections is in no window: without this, each reconnection
        # could add a window's worth.
        if (excess := len(self._held) - 2 * self._capacity) > 0:
            dropped += self._lose(list(islice(self._held, excess)))
        self._counts.drop_from(LOCAL_CAPACITY, dropped)
        return dropped

    def fullest(self, count: int = 3) -> list[tuple[str, int]]:
        """The channels that hold most, with how many messages each."""
        sizes = ((box.name, len(box.queue)) for box in self._boxes.values() if box.queue)
        return nlargest(count, sizes, key=lambda size: size[1])

    def sweep(self) -> None:
        """Forget the mailboxes that are not in use, and what the others do not use."""
        self._laggards = Laggards({}, NEVER)
        boxes = self._boxes
        used = {name: box for name, box in boxes.items() if box.queue or box.waiters}
        for box in used.values():
            if not box.queue:
                box.queue = NOTHING
        if len(used) < len(boxes):
            boxes.clear()  # one that only loses keys keeps its size
            boxes.update(used)
        self._sweep_at = _FEW + 2 * len(used)

    def clear(self, why: str = FLUSH) -> None:
        """Hold nothing; those who wait go on."""
        dropped: Counter[str] = Counter()
        for box in self._boxes.values():
            if box.queue:
                dropped[box.name] = len(box.queue)
            while box.queue:
                self._release(box.queue.popleft())
        self._counts.drop_from(why, dropped)

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
        for box in list(other._boxes.values()):  # its loop may run on, in another thread, and sweep
            if box.queue:
                self.box(box.name).take_over(box)

    def _drop_over(self, cap_of: Callable[[str], int | None], channels: Collection[str]) -> None:
        dropped: list[str] = []
        for name in channels:
            cap = cap_of(name)
            queue = self.box(name).queue
            while cap is not None and len(queue) > cap:
                self._release(queue.popleft())
                dropped.append(name)
                self._warn_capped(
                    "channel_capacity (%d) dropped the oldest message of %s", cap, name
                )
        if dropped:
            self._counts.drop_from(CHANNEL_CAPACITY, Counter(dropped))

    def _release(self, delivery: Delivery) -> None:
        delivery.holders -= 1
        if not delivery.holders:
            del self._held[delivery]
            delivery.source.ack(delivery.tag)

    def _lose(self, deliveries: Iterable[Delivery]) -> Counter[str]:
        """Take deliveries from all channels that hold them; count them by channel."""
        dropped: Counter[str] = Counter()
        for delivery in deliveries:
            for name in delivery.channels:
                box = self._boxes.get(name)
                if box is not None and box.lose(delivery):
                    dropped[name] += 1
                    self._release(delivery)
        return dropped
