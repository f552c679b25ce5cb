"""Everything that this package raises, and how to tell what is worth another attempt.

::

    RabbitmqError                            base of all that this package defines
        AmqpError                            the connection failed, or an operation on it
            ConnectionClosed                 the connection ended during the operation, or before it
            ConnectionClosedByServer         RabbitMQ ended the connection: reply_code, reply_text
            ConnectionClosedByHeartbeatMonitor   RabbitMQ fell silent
            BadBytesFromServer               what came was not AMQP
            ChannelClosed                    on what was closed on our side; or no channel is free
            ChannelClosedByServer            RabbitMQ refused an operation: reply_code, reply_text
                AccessRefused                403: the user may not do that
                NotFound                     404: no such queue or exchange
                ResourceLocked               405: the queue belongs to another connection
                PreconditionFailed           406: it is there with other properties; too large
            ServerSentNack                   publish(): a queue did not store the message
                MessageReturned              mandatory, and no queue was bound
        NotConnected                         send(), flush(), group_add() and group_discard() of
                                             another process's channel: RabbitMQ away, blocked,
                                             or too slow; also a channels.exceptions.ChannelFull
        NotAnswered                          flush(), group_add(), group_discard(): another process
                                             was silent; also a TimeoutError. These and
                                             group_members(): processes may not ask each other
        BadMessage                           internal: bytes that are no message; logged
            NotDecrypted                     encrypted with another key, or changed on the way
            NotEncrypted                     in plain text, although keys are set
            TooHeavy                         more small values than should be decoded at once
            OutOfPlace                       encrypted for another prefix, receiver or time
        InvalidUrl                           internal: users see it as ImproperlyConfigured
        InvalidTls                           internal: users see it as ImproperlyConfigured
        LoopEnded                            internal: never reaches users
        IllegalTransition                    a bug in this package; also a RuntimeError

    channels.exceptions.ChannelFull          send(): the receiver stores no more, or is not reached
    channels.exceptions.MessageTooLarge      send(), group_send(): more than max_message_size
    channels.exceptions.StopConsumer         every method, after close()
    django.core.exceptions.ImproperlyConfigured   a wrong option, when the layer is made
    TypeError, ValueError                    a message or a name that cannot be sent

Where carehare is installed, ``ConnectionClosed`` to ``ServerSentNack`` are also subclasses of
carehare's errors of the same names.
"""

from __future__ import annotations

from channels.exceptions import ChannelFull

from .amqp.errors import (
    AccessRefused,
    AmqpError,
    BadBytesFromServer,
    ChannelClosed,
    ChannelClosedByServer,
    ConnectionClosed,
    ConnectionClosedByHeartbeatMonitor,
    ConnectionClosedByServer,
    IllegalTransition,
    MessageReturned,
    NotFound,
    PreconditionFailed,
    RabbitmqError,
    ResourceLocked,
    ServerSentNack,
    describe,
)

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
    "LoopEnded",
    "MessageReturned",
    "NotAnswered",
    "NotConnected",
    "NotFound",
    "PreconditionFailed",
    "RabbitmqError",
    "ResourceLocked",
    "ServerSentNack",
    "describe",
    "is_retryable",
]


class NotConnected(RabbitmqError, ChannelFull):  # type: ignore[misc]  # Channels has no types
    """The message was not confirmed within ``send_timeout``: RabbitMQ is away or blocked.

    It is a :class:`channels.exceptions.ChannelFull`, so that handlers of that serve. Whether a
    message that was already on its way arrives is not known; it is never sent twice.
    """

    def __init__(self, text: str = "", *, sent: bool = False) -> None:
        super().__init__(text)
        #: Whether the message was on its way already, so that it may arrive.
        self.sent = sent


class NotAnswered(RabbitmqError, TimeoutError):
    """Another process did not do its part within ``send_timeout``.

    Or it was not asked: RabbitMQ does not let this process use the control exchange.
    """


class LoopEnded(RabbitmqError):
    """The event loop that owned the connection ended before a call was done.

    Never reaches users: the call is repeated on the next owner, or ends in an error of its own.
    """

    def __init__(self, started: bool) -> None:
        super().__init__("the event loop that owned the connection ended")
        #: Whether the call was begun, so that what it did is not known.
        self.started = started


#: What ends one attempt to connect, or one connection. ``OSError`` covers refused connections, name
#: resolution, TLS and :class:`TimeoutError`.
_RETRYABLE = (
    OSError,
    BadBytesFromServer,
    ChannelClosed,
    ChannelClosedByServer,
    ConnectionClosed,
    ConnectionClosedByHeartbeatMonitor,
    ConnectionClosedByServer,
)


def is_retryable(error: BaseException) -> bool:
    """Whether an operation that failed so may succeed on the next connection to RabbitMQ.

    True for the end of a connection, or of an AMQP channel of the layer's own, and for whatever
    keeps a connection from being made. False for a message that a queue refused, for
    ``NotConnected`` (its time is over), and for bugs.
    """
    return isinstance(error, _RETRYABLE) and not isinstance(error, NotAnswered)
