"""What the engine counts. The same objects may serve one connection after another."""

from __future__ import annotations

__all__ = ["ByteCounts", "PublishCounts"]


class PublishCounts:
    """What became of publishes; those in no other count are under way."""

    __slots__ = ("confirmed", "published", "refused", "unconfirmed")

    def __init__(self) -> None:
        #: Written to a connection.
        self.published = 0
        #: Acked by the server.
        self.confirmed = 0
        #: Nacked by the server, or returned.
        self.refused = 0
        #: Given up without an answer: too late, or the channel ended before it.
        self.unconfirmed = 0


class ByteCounts:
    """Bytes of AMQP, without those that TLS and TCP add."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
