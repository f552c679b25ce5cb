"""Normal channels (those without ``!``): their queues on RabbitMQ, and what the process holds.

https://channels.readthedocs.io/en/latest/channel_layer_spec.html#channels

Each has one durable classic queue, shared by all processes. Decisions only: no I/O, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from ..config.options import Options
from ..wire.messages import Message
from .mailboxes import NOWHERE, Delivery, Mailbox

if TYPE_CHECKING:
    from pamqp.common import Arguments

#: RabbitMQ keeps times as 32 bits of milliseconds.
_MOST_MS = 2**32 - 1
#: A queue that nobody receives from is kept for so much longer than twice ``expiry``.
_IDLE_MARGIN_MS = 1000
#: Whoever sends, or keeps a channel in a group, says at least so often that the queue is in use.
_LEAST_RENEWAL = 0.25


def queue_name(prefix: str, channel: str) -> str:
    """The queue of a normal channel: a name that no other program's queue has."""
    return f"asgi.channel:{prefix}:{channel}"


def queue_arguments(options: Options, channel: str) -> Arguments:
    """The arguments of its queue.

    Publishing does not count as use of a queue (https://www.rabbitmq.com/docs/ttl#queue-ttl), so
    those who send renew it every :func:`renewal_interval`; ``x-expires`` is longer than ``expiry``
    by more than that, so no message goes before its time.
    """
    return {
        # Whatever the virtual host's default is: a quorum queue counts its capacity less exactly.
        "x-queue-type": "classic",
        "x-message-ttl": options.expiry_ms,
        "x-max-length": options.capacity_of(channel),
        "x-overflow": "reject-publish",
        "x-expires": min(2 * options.expiry_ms + _IDLE_MARGIN_MS, _MOST_MS),
    }


def renewal_interval(options: Options) -> float:
    """Seconds between the declarations that keep a queue from expiring while it is sent to."""
    return max(options.expiry / 2, _LEAST_RENEWAL)


class NormalState:
    """What the process knows of normal channels: who waits, what it holds, what it used.

    A message here was acknowledged: nobody else gets it. One is held only when whoever it was
    fetched for went away meanwhile.
    """

    def __init__(self, expiry: float) -> None:
        self._expiry = expiry
        self._boxes: dict[str, Mailbox] = {}
        #: When each channel was last sent to or received from.
        self._used: dict[str, float] = {}
        self._prune_at = 256
        #: The normal channels that this process put into groups.
        self._groups: dict[str, dict[str, None]] = {}

    def __repr__(self) -> str:
        return f"<NormalState: {len(self._used)} used, {len(self._groups)} groups>"

    @property
    def unused(self) -> bool:
        """Whether the process neither waits for nor holds nor groups any."""
        return not self._groups and not any(
            box.queue or box.waiters for box in self._boxes.values()
        )

    # Use

    def note_use(self, channel: str, now: float, forget_after: float) -> None:
        """The channel is sent to or received from; forget those whose queues are long gone."""
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
        """Who waits for the channel, and what is held of it."""
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
        """A message is there: wake the one that has waited longest."""
        box = self.box(channel)
        box.hold(Delivery(NOWHERE, 0, now, body, message))
        box.wake()

    def put_back(self, channel: str, message: Message, body: bytes, now: float) -> None:
        """A message that was taken is here again, ahead of all others."""
        box = self.box(channel)
        box.hold(Delivery(NOWHERE, 0, now, body, message), first=True)
        box.wake()

    def ready(self, box: Mailbox, now: float) -> bool:
        """Whether a message is held that has not expired."""
        queue = box.queue
        while queue and queue[0].arrived <= now - self._expiry:
            queue.popleft()
        return bool(queue)

    def take(self, box: Mailbox) -> Message:
        """Give the oldest message of a box that is ready."""
        message = box.queue.popleft().message
        return {} if message is None else message

    def take_all(self, now: float) -> Iterator[tuple[str, Delivery]]:
        """Give, and hold no more, all messages that have not expired."""
        for box in self._boxes.values():
            while self.ready(box, now):
                yield box.name, box.queue.popleft()

    def fail_waiters(self, error: Exception, channel: str | None = None) -> None:
        """Wake everyone who waits (for one channel, or for any) with an error."""
        for box in self._boxes.values():
            if channel is None or box.name == channel:
                box.fail_waiters(error)

    def take_over(self, other: NormalState) -> None:
        """Take the messages and groups of another, and leave it only those who wait."""
        self._used, other._used = other._used, {}
        self._groups, other._groups = other._groups, {}
        for box in other._boxes.values():
            if box.queue:
                self.box(box.name).take_over(box)

    # Groups

    @property
    def groups(self) -> Collection[str]:
        """The groups that this process put normal channels into."""
        return self._groups.keys()

    @property
    def memberships(self) -> list[tuple[str, str]]:
        """Group and channel of each membership that this process made."""
        return [(group, name) for group, names in self._groups.items() for name in names]

    def members(self, group: str) -> Collection[str]:
        """The normal channels that this process put into a group."""
        return self._groups.get(group, {}).keys()

    def join(self, group: str, channel: str) -> bool:
        """Note a membership; False if it was noted before."""
        members = self._groups.setdefault(group, {})
        if channel in members:
            return False
        members[channel] = None
        return True

    def leave(self, group: str, channel: str) -> None:
        """Forget a membership."""
        members = self._groups.get(group)
        if members is not None:
            members.pop(channel, None)
            if not members:
                del self._groups[group]

    def clear(self) -> list[tuple[str, str]]:
        """Hold nothing and group nothing; those who wait go on. Gives the memberships."""
        memberships = self.memberships
        self._groups.clear()
        self._used.clear()
        for box in self._boxes.values():
            box.queue.clear()
        return memberships
