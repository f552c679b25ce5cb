"""Which channels lag behind what they get, and which of them makes room for the others.

A channel lags when its oldest message has been held for longer than :data:`LAG` seconds in which
the event loop ran. How long a message has stood counts, not how many there are (compare CoDel,
RFC 8289). Decisions only: no I/O, no clock, no ``await``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from heapq import heapify, heappop, heapreplace
from itertools import chain

from .mailbox import NEVER, Delivery, Mailbox

#: Seconds of the loop's running time for which a message may be held before its channel lags.
LAG = 0.25
#: Seconds between two ticks of :class:`RunningTime`.
TICK = 0.05


class RunningTime:
    """The time in which the event loop ran, measured in ticks of its timers.

    However late a tick comes, it counts for :data:`TICK` seconds: for the rest of the time the
    loop stood still, and nobody could read.
    """

    def __init__(self) -> None:
        #: When the last ticks came, oldest first.
        self._ticks: deque[float] = deque(maxlen=round(LAG / TICK) + 1)

    def start(self, now: float) -> None:
        """Begin anew: nothing that is held came before ``now``, as far as is known."""
        self._ticks.clear()
        self._ticks.append(now)

    def tick(self, now: float) -> None:
        """Note that :data:`TICK` seconds or more have passed since the last time."""
        self._ticks.append(now)

    @property
    def limit(self) -> float:
        """What came at or before this reading of the clock has been held for too long."""
        return self._ticks[0] if len(self._ticks) == self._ticks.maxlen else NEVER


class Laggards:
    """The channels that lag, fullest first, as of one look over all mailboxes.

    Looking costs time in proportion to the mailboxes, so that one look serves for all slots that
    are freed within a tick. What a channel has read or lost since is taken into account; what it
    has got since, and channels that have come to lag since, with the next look.
    """

    def __init__(self, boxes: Mapping[str, Mailbox], limit: float) -> None:
        self._boxes = boxes
        self.limit = limit
        #: A heap. A channel holds as many messages as its entry says (negated), or fewer.
        self._fullest = [
            (-len(box.queue), number, box)
            for number, box in enumerate(boxes.values())
            if box.queue and box.lags(limit)
        ]
        heapify(self._fullest)
        #: A channel that is in use and keeps up. Once none is found, none is until the next look.
        self._witness: str | None = ""

    def next_to_drop(self, in_groups: Collection[str]) -> Delivery | None:
        """The oldest message of the fullest channel that lags; None if no channel is to lose one.

        All who hold it lag, so it can be taken from all at once.
        """
        heap = self._fullest
        if not heap or not self._others_keep_up(in_groups):
            return None
        while heap:
            size, number, box = heap[0]
            queue = box.queue
            if not box.lags(self.limit):
                heappop(heap)
            elif len(queue) < -size:
                heapreplace(heap, (-len(queue), number, box))
            elif self._is_awaited(queue[0]):
                heappop(heap)  # dropping it would free no slot
            else:
                return queue[0]
        return None

    def _is_awaited(self, delivery: Delivery) -> bool:
        """Whether a channel that keeps up has yet to read it."""
        if delivery.arrived <= self.limit or delivery.holders == 1:
            return False
        boxes = (self._boxes.get(name) for name in delivery.channels)
        return any(
            box is not None
            and box.queue
            and box.queue[0].arrived <= delivery.arrived
            and not box.lags(self.limit)
            and delivery in box.queue
            for box in boxes
        )

    def _others_keep_up(self, in_groups: Collection[str]) -> bool:
        """Whether a channel is in use that does not lag: one to make room for."""
        if self._witness is not None and not self._keeps_up(self._witness, in_groups):
            self._witness = next(self._keeping_up(in_groups), None)
        return self._witness is not None

    def _keeping_up(self, in_groups: Collection[str]) -> Iterator[str]:
        names = chain((box.name for box in self._boxes.values() if box.waiters), in_groups)
        names = chain(names, (box.name for box in self._boxes.values() if box.queue))
        return (name for name in names if self._keeps_up(name, in_groups))

    def _keeps_up(self, name: str, in_groups: Collection[str]) -> bool:
        box = self._boxes.get(name)
        if box is not None and box.queue:
            return not box.lags(self.limit)
        return name in in_groups or (box is not None and bool(box.waiters))
