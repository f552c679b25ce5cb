"""What the engine raises. ``channels_rabbitmq.errors`` has the whole tree in one docstring.

Where carehare is installed each class is a subclass of carehare's class of that name as well.
"""

from __future__ import annotations

import re
import ssl

from . import carehare
from .text import printable

__all__ = [
    "AccessRefused",
    "AmqpError",
    "BadBytesFromServer",
    "ChannelClosed",
    "ChannelClosedByServer",
    "ConnectionClosed",
    "ConnectionClosedByHeartbeatMonitor",
    "ConnectionClosedByServer",
    "IllegalTransition",
    "MessageReturned",
    "NotFound",
    "PreconditionFailed",
    "RabbitmqError",
    "ResourceLocked",
    "ServerSentNack",
    "describe",
]


class RabbitmqError(Exception):
    """The base of every error that this package defines."""


class AmqpError(RabbitmqError):
    """The base of what an AMQP connection, a channel on it, or a publish fails with."""


class ConnectionClosed(AmqpError, carehare.ConnectionClosed):
    """The connection ended before the operation was done, or had ended before it began."""


class ConnectionClosedByServer(AmqpError, carehare.ConnectionClosedByServer):
    """RabbitMQ sent ``connection.close``."""

    def __init__(self, reply_code: int, reply_text: str) -> None:
        # Not carehare's: it puts the exception among its own arguments, a reference cycle.
        reply_text = printable(reply_text)
        Exception.__init__(self, reply_code, reply_text)
        #: Why, as a number; see https://www.rabbitmq.com/amqp-0-9-1-reference#constants.
        self.reply_code = reply_code
        #: Why, in RabbitMQ's words; printable.
        self.reply_text = reply_text

    def __str__(self) -> str:
        return f"RabbitMQ closed the connection: {self.reply_code} {self.reply_text}"


class ConnectionClosedByHeartbeatMonitor(AmqpError, carehare.ConnectionClosedByHeartbeatMonitor):
    """RabbitMQ sent nothing, not even heartbeats, for nearly two heartbeat intervals."""


class BadBytesFromServer(AmqpError, carehare.BadBytesFromServer):
    """What the server sent is not AMQP 0-9-1, or not legal at that point."""


class ChannelClosed(AmqpError, carehare.ChannelClosed):
    """The channel or consumer was closed on our side; or no AMQP channel is free."""


class ChannelClosedByServer(AmqpError, carehare.ChannelClosedByServer):
    """RabbitMQ sent ``channel.close``: it refused an operation on the channel."""

    def __init__(self, reply_code: int, reply_text: str) -> None:
        # See ConnectionClosedByServer.
        reply_text = printable(reply_text)
        Exception.__init__(self, reply_code, reply_text)
        #: Why, as a number; see https://www.rabbitmq.com/amqp-0-9-1-reference#constants.
        self.reply_code = reply_code
        #: Why, in RabbitMQ's words; printable.
        self.reply_text = reply_text

    def __str__(self) -> str:
        return f"RabbitMQ closed the channel: {self.reply_code} {self.reply_text}"


class AccessRefused(ChannelClosedByServer):
    """The user may not do that: permissions (403)."""


class NotFound(ChannelClosedByServer):
    """There is no such queue or exchange (404)."""


class ResourceLocked(ChannelClosedByServer):
    """The queue is exclusive to another connection (405)."""


class PreconditionFailed(ChannelClosedByServer):
    """A queue or exchange of that name has other properties, or a limit was exceeded (406)."""

    @property
    def max_message_size(self) -> int | None:
        """RabbitMQ's limit, where that is what a message exceeded; else None."""
        found = _SIZE_REFUSED.search(self.reply_text)
        return int(found[1]) if found else None


#: RabbitMQ's words for it, in ``rabbit_channel.erl``.
_SIZE_REFUSED = re.compile(r"message size \d+ .*larger than .*max size (\d{1,20})\b")


_BY_REPLY_CODE: dict[int, type[ChannelClosedByServer]] = {
    403: AccessRefused,
    404: NotFound,
    405: ResourceLocked,
    406: PreconditionFailed,
}


def channel_closed_by_server(reply_code: int, reply_text: str) -> ChannelClosedByServer:
    """The error for a ``channel.close``, of the subclass for its reply code."""
    return _BY_REPLY_CODE.get(reply_code, ChannelClosedByServer)(reply_code, reply_text)


class ServerSentNack(AmqpError, carehare.ServerSentNack):
    """A queue did not store the message (AMQP ``basic.nack``). Others may have."""


class MessageReturned(ServerSentNack):
    """A ``mandatory`` message matched no queue and came back (AMQP ``basic.return``)."""


class IllegalTransition(RabbitmqError, RuntimeError):
    """A state machine was asked for a move that its table does not have: a bug in this package."""


def describe(error: BaseException) -> str:
    """One line about a connection error, for a log: never a payload, never a password."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = " ".join(str(error).split())
    return text or type(error).__name__
