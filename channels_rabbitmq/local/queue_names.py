"""The names that the queue of one process has, or had: channel names in users' hands begin so.

As a rule there is one. RabbitMQ may keep the name of a lost connection's queue locked (for seconds;
in a cluster of 4.2 or later until the node that held it is back), so the process takes another
name then, and keeps the earlier one while channels of that name are in use::

            take_another()           drop_unused()
    newest ────────────────▶ kept ─────────────────▶ dropped
                              ▲                         │
                              └─────── note_use() ──────┘

Each of them stays a name of this process for good.

Decisions only: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Collection

from ..wire.names import QUEUE_START, is_channel_of, random_name


class QueueNames:
    """The names of one process's queue. Only ``newest`` and the questions are for all threads."""

    def __init__(self, prefix: str = "", newest: str = "") -> None:
        self._start = f"{QUEUE_START}{prefix and prefix + '_'}"
        #: The queue that groups are bound to, and whose name new channels get.
        self.newest = newest or self._make()
        #: Every name ever had: one for each time that a queue stayed locked.
        self._all = {self.newest}
        #: When a channel of each earlier name was last found in use; for those that are kept.
        self._kept: dict[str, float] = {}
        #: The names whose queues RabbitMQ does not give us just now: earlier ones that are kept,
        #: and the newest until it is declared on a new connection.
        self.away: set[str] = set()

    def __repr__(self) -> str:
        return f"<QueueNames {self.newest}, {len(self._kept)} earlier, {len(self.away)} away>"

    def _make(self) -> str:
        return f"{self._start}{random_name()}"

    # What belongs to the process

    def own(self, queue_name: str) -> bool:
        """Whether it is, or was, a queue of this process."""
        return queue_name in self._all

    def is_channel(self, name: str) -> bool:
        """Whether a channel of this process can have the name."""
        queue_name = name.partition("!")[0]
        return queue_name in self._all and is_channel_of(queue_name, name)

    # Earlier names

    def earlier(self, most: int) -> list[str]:
        """Names that the queue had before, of all so many."""
        return sorted(self._all - {self.newest})[:most]

    @property
    def kept(self) -> Collection[str]:
        """The earlier names whose queues are to be consumed, too."""
        return self._kept.keys()

    def take_another(self, now: float) -> str:
        """Take another name, as RabbitMQ keeps the newest locked; that one is kept for now."""
        self._kept[self.newest] = now
        self.away.add(self.newest)
        self.newest = self._make()
        self._all.add(self.newest)
        return self.newest

    def note_use(self, queue_name: str, now: float) -> bool:
        """Keep an earlier name, as a channel of it is used; True if it was dropped before."""
        if queue_name == self.newest or queue_name not in self._all:
            return False
        dropped = queue_name not in self._kept
        if dropped:
            self.away.add(queue_name)
        self._kept[queue_name] = now
        return dropped

    def lose_all(self) -> None:
        """Take all earlier queues for away, as the connection ended."""
        self.away.update(self._kept)

    def drop_unused(self, used: Collection[str], now: float, keep_for: float) -> list[str]:
        """Drop, and give, the earlier names of which no channel was in use for so many seconds.

        ``used`` has the channels in use.
        """
        dropped = []
        in_use = {name.partition("!")[0] for name in used} if self._kept else set()
        for queue_name, last in list(self._kept.items()):
            if queue_name in in_use:
                self._kept[queue_name] = now
            elif last <= now - keep_for:
                del self._kept[queue_name]
                self.away.discard(queue_name)
                dropped.append(queue_name)
        return dropped
