"""What one process has counted since it made the layer, or was forked. No I/O."""

from __future__ import annotations

from collections import Counter

from ..amqp.counts import ByteCounts, PublishCounts

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
        "failed_connections",
        "given_back",
        "publishes",
        "received",
        "unsent",
    )

    def __init__(self) -> None:
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
        #: Connections that were ready for use.
        self.connections = 0
        #: Attempts to connect, to one address after the other, in which none was made.
        self.failed_connections = 0
        #: When the connection was ready for use, and since when there is none: UNIX time.
        self.connected_since: float | None = None
        self.disconnected_since: float | None = None

    def drop(self, cause: str, copies: int = 1) -> None:
        """Count copies that nobody gets."""
        if copies:
            self.dropped[cause] += copies

    def drop_whole(self, cause: str) -> None:
        """Count a received message that no mailbox takes."""
        self.received += 1
        self.copies += 1
        self.drop(cause)

    def connect(self, now: float) -> None:
        """Count a connection that is ready for use."""
        self.connections += 1
        self.connected_since = now
        self.disconnected_since = None

    def disconnect(self, now: float) -> None:
        """Note that there is no connection; in an outage this changes nothing."""
        self.connected_since = None
        if self.disconnected_since is None:
            self.disconnected_since = now
