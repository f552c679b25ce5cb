"""What one process has counted since it made the layer, or was forked. No I/O."""

from __future__ import annotations

from collections import Counter

from ..amqp.counts import ByteCounts, PublishCounts
from ..events import EventKind
from .notifier import Notifier

#: Why received messages are dropped. The first three are options.
LOCAL_EXPIRY = "local_expiry"
LOCAL_CAPACITY = "local_capacity"
CHANNEL_CAPACITY = "channel_capacity"
BAD_MESSAGE = "bad_message"
TOO_LARGE = "too_large"
REDELIVERED = "redelivered"
NO_RECEIVER = "no_receiver"
FLUSH = "flush"
CLOSE = "close"
CAUSES = (
    LOCAL_CAPACITY,
    CHANNEL_CAPACITY,
    BAD_MESSAGE,
    TOO_LARGE,
    REDELIVERED,
    NO_RECEIVER,
    FLUSH,
    CLOSE,
)


class Counts:
    """Counts that live across reconnections, and across moves between event loops.

    Each is added to on the loop that owns the layer (``unsent`` on any), and read on any thread.
    What they mean together, :class:`~channels_rabbitmq.statistics.Statistics` says.
    """

    __slots__ = (
        "bytes",
        "connected_since",
        "connections",
        "copies",
        "delivered",
        "disconnected_since",
        "dropped",
        "events",
        "failed_connections",
        "given_back",
        "publishes",
        "received",
        "unsent",
    )

    def __init__(self, events: Notifier | None = None) -> None:
        #: Is told of what is counted, where it is more than a message that went its way.
        self.events = Notifier() if events is None else events
        self.publishes = PublishCounts()
        self.bytes = ByteCounts()
        #: Messages that were never given to RabbitMQ, because it was away or took none.
        self.unsent = 0
        #: Messages from RabbitMQ, without requests of other processes.
        self.received = 0
        #: One for each channel that a message is for; one for a message that is for none.
        self.copies = 0
        #: Copies that ``receive()`` took.
        self.delivered = 0
        #: Copies for normal channels that went back to RabbitMQ as the layer was closed.
        self.given_back = 0
        #: Copies that nobody got, by why.
        self.dropped: Counter[str] = Counter()
        #: Connections that publishes went out on.
        self.connections = 0
        #: Attempts to connect, to one address after the other, in which none was made.
        self.failed_connections = 0
        #: When the connection was ready for use, and since when there is none: UNIX time.
        self.connected_since: float | None = None
        self.disconnected_since: float | None = None

    def drop(self, cause: str, copies: int = 1, channel: str = "", detail: str = "") -> None:
        """Count copies that nobody gets: those of one channel, or of none."""
        if copies:
            self.dropped[cause] += copies
            self._tell_dropped(cause, copies, channel, detail)

    def drop_from(self, cause: str, by_channel: Counter[str]) -> None:
        """Count copies that nobody gets, of many channels."""
        if by_channel:
            self.dropped[cause] += by_channel.total()
            if self.events.hook is not None:
                for channel, copies in by_channel.items():
                    self._tell_dropped(cause, copies, channel)

    def drop_whole(self, cause: str, detail: str = "") -> None:
        """Count a received message that no mailbox takes."""
        self.received += 1
        self.copies += 1
        self.drop(cause, detail=detail)

    def _tell_dropped(self, cause: str, copies: int, channel: str, detail: str = "") -> None:
        if cause == LOCAL_EXPIRY:
            self.events.tell(EventKind.EXPIRED, name=channel, count=copies)
        else:
            self.events.tell(
                EventKind.DROPPED, cause=cause, name=channel, count=copies, detail=detail
            )

    def fail(self, name: str, sent: bool, detail: str) -> None:
        """Count a message to a channel or group that RabbitMQ did not confirm, or was not given."""
        if not sent:
            self.unsent += 1
        kind = EventKind.UNCONFIRMED if sent else EventKind.UNSENT
        self.events.tell(kind, name=name, detail=detail)

    def fail_to_connect(self, detail: str) -> None:
        """Count an attempt to connect in which no connection was made."""
        self.failed_connections += 1
        self.events.tell(EventKind.CONNECT_FAILED, detail=detail)

    def connect(self, now: float, address: str = "") -> None:
        """Count a connection that publishes go out on."""
        self.connections += 1
        self.connected_since = now
        self.disconnected_since = None
        self.events.tell(EventKind.CONNECTED, detail=address)

    def disconnect(self, now: float) -> None:
        """Note that there is no connection; in an outage this changes nothing."""
        self.connected_since = None
        if self.disconnected_since is None:
            self.disconnected_since = now
