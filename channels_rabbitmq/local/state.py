"""All that outlives a connection, or the event loop that it lived on."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator

from ..config.options import Options
from ..wire.encryption import CLOCKS_DIFFER
from ..wire.messages import Envelope, Message
from .counts import CLOSE, FLUSH, LOCAL_EXPIRY, Counts
from .groups import Memberships
from .mailbox import NOWHERE, Delivery, Mailbox
from .mailboxes import Mailboxes
from .served import ServedRequests

#: Seconds for which a request in plain text is asked again by who asked it, and more.
_PLAIN_LIFETIME = 60.0


def _lifetime_of_requests(options: Options) -> float:
    """Seconds for which one that was taken may be repeated.

    One that is encrypted is taken until ``expiry``, ``local_expiry`` and the difference of clocks
    are over, by its own time; and that may be ahead of ours by as much.
    """
    if options.symmetric_encryption_keys:
        return options.expiry + options.local_expiry + 2 * CLOCKS_DIFFER
    return max(_PLAIN_LIFETIME, 2 * options.send_timeout)


class LocalState:
    """Unread messages, memberships of groups, and those who wait."""

    def __init__(
        self,
        options: Options,
        decode: Callable[[bytes], Envelope],
        counts: Counts | None = None,
    ) -> None:
        #: What was counted. It is the next one's, too.
        self.counts = Counts() if counts is None else counts
        self.mailboxes = Mailboxes(
            options.local_capacity,
            options.local_expiry,
            decode,
            cap=options.own_capacity_of if options.channel_capacity else None,
            counts=self.counts,
            name=options.connection_name,
        )
        #: Of the process's own channels.
        self.memberships = Memberships(options.group_expiry)
        self.normal = NormalMailboxes(options.local_expiry, self.counts)
        #: Of normal channels, as far as this process made them.
        self.normal_memberships = Memberships()
        #: What other processes asked this one to change.
        self.served = ServedRequests(_lifetime_of_requests(options))

    @property
    def unused(self) -> bool:
        """Whether no channel is in use here: the process has only sent so far."""
        return (
            self.mailboxes.unused
            and self.normal.unused
            and not self.memberships.groups
            and not self.normal_memberships.groups
        )

    @property
    def channels_in_use(self) -> Collection[str]:
        """The process's own channels that somebody waits for, that hold messages or have groups."""
        return {*self.mailboxes.in_use, *self.memberships.channels}

    def take_over(self, other: LocalState) -> None:
        """Take all that another remembers, and leave it only those who wait."""
        self.mailboxes.take_over(other.mailboxes)
        self.memberships.take_over(other.memberships)
        self.normal.take_over(other.normal)
        self.normal_memberships.take_over(other.normal_memberships)
        self.served.take_over(other.served)

    def close(self) -> None:
        """Hold nothing any more: the layer is closed, and nobody receives."""
        self.mailboxes.clear(CLOSE)
        self.normal.clear(CLOSE)
        self.memberships.clear()
        self.normal_memberships.clear()

    def fail_waiters(self, error: Exception) -> None:
        """Wake everyone who waits, with an error."""
        self.mailboxes.fail_waiters(error)
        self.normal.fail_waiters(error)


class NormalMailboxes:
    """What the process knows of normal channels: who waits, what it holds, which it used.

    A message here was acknowledged: nobody else gets it. One is held only when the call that it
    was consumed for was cancelled meanwhile. Decisions only: no I/O, no clock.
    """

    def __init__(self, expiry: float, counts: Counts | None = None) -> None:
        self._expiry = expiry
        self._counts = Counts() if counts is None else counts
        self._boxes: dict[str, Mailbox] = {}
        #: When each channel was last sent to or received from.
        self._used: dict[str, float] = {}
        self._prune_at = 256

    def __repr__(self) -> str:
        return f"<NormalMailboxes: {len(self._used)} used>"

    @property
    def unread(self) -> int:
        """The number of messages held. May be asked for on any thread."""
        return sum([len(box.queue) for box in list(self._boxes.values())])

    @property
    def unused(self) -> bool:
        """Whether nothing is held here, and nobody waits."""
        return not any(box.queue or box.waiters for box in self._boxes.values())

    # Use

    def note_use(self, channel: str, now: float, forget_after: float) -> None:
        """Note that a channel is sent to or received from; forget those whose queues are gone."""
        self._used[channel] = now
        if len(self._used) >= self._prune_at:
            self._used = {
                name: used for name, used in self._used.items() if used > now - forget_after
            }
            self._boxes = {
                name: box
                for name, box in self._boxes.items()
                if box.queue or box.waiters or name in self._used
            }
            self._prune_at = 256 + 2 * len(self._used)

    @property
    def used(self) -> Collection[str]:
        """The channels that were used, and perhaps some whose queues are gone."""
        return self._used.keys()

    # Messages

    def box(self, channel: str) -> Mailbox:
        """The mailbox of a channel, made if it is not there."""
        box = self._boxes.get(channel)
        if box is None:
            box = self._boxes[channel] = Mailbox(channel)
            box.queue = deque()  # there are few, and messages come and go in any order
        return box

    @property
    def waited_for(self) -> list[str]:
        """The channels that somebody waits for."""
        return [box.name for box in self._boxes.values() if box.waiters]

    def hold(self, channel: str, message: Message, body: bytes, now: float) -> None:
        """Hold a message, and wake the one that has waited longest."""
        box = self.box(channel)
        self._counts.copies += 1
        box.hold(Delivery(NOWHERE, 0, now, body, message))
        box.wake()

    def put_back(self, channel: str, message: Message, body: bytes, now: float) -> None:
        """Hold a message again that was taken, ahead of all others."""
        box = self.box(channel)
        self._counts.copies += 1
        box.hold(Delivery(NOWHERE, 0, now, body, message), first=True)
        box.wake()

    def ready(self, box: Mailbox, now: float) -> bool:
        """Whether a message is held that has not expired."""
        queue = box.queue
        expired = 0
        while queue and queue[0].arrived <= now - self._expiry:
            queue.popleft()
            expired += 1
        self._counts.drop(LOCAL_EXPIRY, expired, box.name)
        return bool(queue)

    def take(self, box: Mailbox) -> Message:
        """Give the oldest message of a mailbox that is ready."""
        message = box.queue.popleft().message
        self._counts.delivered += 1
        return {} if message is None else message

    def take_all(self, now: float) -> Iterator[tuple[str, Delivery]]:
        """Give, and hold no more, all messages that have not expired: they go back to RabbitMQ."""
        for box in list(self._boxes.values()):  # some may come before the last is taken
            while self.ready(box, now):
                self._counts.given_back += 1
                yield box.name, box.queue.popleft()

    def fail_waiters(self, error: Exception, channel: str | None = None) -> None:
        """Wake everyone who waits (for one channel, or for any) with an error."""
        for box in self._boxes.values():
            if channel is None or box.name == channel:
                box.fail_waiters(error)

    def clear(self, why: str = FLUSH) -> None:
        """Hold nothing; those who wait go on."""
        dropped: Counter[str] = Counter()
        for box in self._boxes.values():
            if box.queue:
                dropped[box.name] = len(box.queue)
                box.queue.clear()
        self._counts.drop_from(why, dropped)

    def take_over(self, other: NormalMailboxes) -> None:
        """Take the messages of another, and leave it only those who wait."""
        self._used, other._used = other._used, {}
        for box in other._boxes.values():
            if box.queue:
                self.box(box.name).take_over(box)
