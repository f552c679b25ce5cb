"""What the layer raises and how it reads what RabbitMQ and the network raise.

::

    channels.exceptions.ChannelFull          send(): the receiving process stores no more
        NotConnected                         send(), flush(): RabbitMQ away, blocked, or too slow
    TimeoutError
        NotAnswered                          flush(), group_add(), group_discard(): another process
                                             was silent
    channels.exceptions.MessageTooLarge      send(), group_send(): more than max_message_size
    channels.exceptions.StopConsumer         every method, after close()
    django.core.exceptions.ImproperlyConfigured   a wrong option, when the layer is made
    TypeError, ValueError                    a message or a name that cannot be sent
    carehare.ServerSentNack                  current_connection.publish(): not stored
        MessageReturned                      ... mandatory, and no queue was bound
    carehare.ChannelClosed                   ... on a channel that we closed, or none is free
    carehare.ChannelClosedByServer           RabbitMQ refused an operation
    carehare.ConnectionClosed                the connection ended during an operation
    carehare.ConnectionClosedByServer        RabbitMQ ended the connection
    carehare.ConnectionClosedByHeartbeatMonitor   RabbitMQ fell silent
    carehare.BadBytesFromServer              what came was not AMQP
"""

from __future__ import annotations

import asyncio
import ssl

import carehare
from channels.exceptions import ChannelFull


class NotConnected(ChannelFull):  # type: ignore[misc]  # Channels has no types
    """The message was not confirmed within ``send_timeout``: RabbitMQ is away or blocked.

    It is a :class:`channels.exceptions.ChannelFull`, so that handlers of that serve. Whether a
    message that was already on its way arrives is not known; it is never sent twice.
    """


class NotAnswered(TimeoutError):
    """Another process did not do its part within ``send_timeout``."""


class MessageReturned(carehare.ServerSentNack):
    """A ``mandatory`` message matched no queue and came back (AMQP ``basic.return``)."""


class LoopEnded(Exception):
    """The event loop that the link lived on ended before a call was done.

    Never reaches users: the call is repeated where the link lives next, or ends in an error of
    its own.
    """

    def __init__(self, started: bool) -> None:
        super().__init__("the event loop of the link ended")
        #: Whether the call was begun, so that what it did is not known.
        self.started = started


#: What ends one attempt to connect, or one connection, and is answered by connecting again.
CONNECTION_ERRORS = (
    OSError,
    asyncio.TimeoutError,
    carehare.BadBytesFromServer,
    carehare.ChannelClosed,
    carehare.ChannelClosedByServer,
    carehare.ConnectionClosed,
    carehare.ConnectionClosedByHeartbeatMonitor,
    carehare.ConnectionClosedByServer,
)


def describe(error: BaseException) -> str:
    """One line about a connection error, for a log: never a payload, never a password."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):  # two before Python 3.11
        return "no answer in time"
    text = " ".join(str(error).split())
    return text or type(error).__name__
