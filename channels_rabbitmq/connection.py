"""The connection that users hold: carehare's interface on our engine.

This is the one file where the two meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Iterator
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict

import pamqp.commands

from .amqp import carehare
from .amqp.calls import Calls
from .amqp.channel import Channel
from .amqp.connect import connect
from .amqp.endpoint import Endpoint
from .amqp.frames import FRAME_OVERHEAD, NO_PROPERTIES, Method
from .amqp.futures import follow, without_result
from .amqp.protocol import Protocol
from .consumer import Consumer
from .errors import ConnectionClosed

if TYPE_CHECKING:
    from pamqp.common import Arguments, FieldTable
    from typing_extensions import Unpack

#: Exchanges whose publishing channel stays open; past it, idle ones are closed.
MAX_PUBLISH_CHANNELS = 128

Properties = pamqp.commands.Basic.Properties

#: Bytes of a method's ids, and of a content header before its properties.
_METHOD_ID_SIZE = 4
_BEFORE_PROPERTIES_SIZE = 12


class MessageProperties(TypedDict, total=False):
    """Properties of a message (AMQP 0-9-1 specification, section 1.8.1; RabbitMQ's "basic")."""

    content_type: str
    content_encoding: str
    headers: FieldTable
    delivery_mode: int
    priority: int
    correlation_id: str
    reply_to: str
    expiration: str
    message_id: str
    timestamp: datetime
    message_type: str
    user_id: str
    app_id: str


class Connection(carehare.Connection):
    """An AMQP connection to one RabbitMQ node, for publishing and consuming.

    Its operations return futures, or raise :class:`TypeError` or :class:`ValueError` at once for
    arguments that cannot be sent. They fail with :class:`.ChannelClosedByServer` when
    RabbitMQ refuses the operation, which leaves all others undisturbed, and with
    :class:`.ConnectionClosed` when the connection ends meanwhile; a publish and a consumer
    on a connection that has ended raise that at once. So do they :class:`.ChannelClosed`
    when no more AMQP channels can be opened. Use it from the event loop that it was made on.

    ``address`` is the IP address to connect to, when the endpoint's host name was resolved.
    """

    def __init__(self, endpoint: Endpoint, *, address: str | None = None) -> None:
        # carehare's __init__ only stores what its own engine needs.
        self._endpoint = endpoint
        self._address = address
        #: Set by ``connect``.
        self._engine: Protocol | None = None
        #: What :attr:`closed` gave out last.
        self._closed: asyncio.Future[None] | None = None
        #: One publishing channel for each exchange, so that errors stay with the exchange.
        self._publishers: dict[str, Channel] = {}
        #: Set by ``connect``.
        self._calls: Calls | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._engine or self._endpoint}>"

    @property
    def endpoint(self) -> Endpoint:
        """Where it connects to, and as whom."""
        return self._endpoint

    @property
    def protocol(self) -> Protocol:
        """The engine; raises :class:`.ConnectionClosed` before ``connect``."""
        if self._engine is None:
            raise ConnectionClosed("the connection is not connected yet")
        return self._engine

    @property
    def connecting_or_open(self) -> bool:
        """Whether there is a socket to close."""
        return self._engine is not None and not self._engine.closed.done()

    def cut(self) -> None:
        """Shut the socket down, whatever becomes of the event loop; from any thread."""
        if self._engine is not None:
            self._engine.cut()

    def disown(self) -> None:
        """In a forked child: close its copy of the socket; the parent's goes on undisturbed."""
        if self._engine is not None:
            self._engine.disown()

    async def connect(self) -> None:
        """Connect and log in; see :func:`.amqp.connect.connect`."""
        self._engine = Protocol(self._endpoint, asyncio.get_running_loop())
        self._calls = Calls(self._engine)
        await connect(self._engine, self._address)

    async def __aenter__(self) -> Connection:
        await self.connect()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done once the connection is closed; fails with why, unless we closed it."""
        protocol = self.protocol
        if self._closed is None or self._closed.cancelled():
            self._closed = follow(protocol.closed)
        return self._closed

    async def close(self) -> None:
        """Close; may be called again. Raises what ended the connection, if that was not us."""
        self.protocol.close()
        await asyncio.shield(self.protocol.closed)

    def publish(
        self,
        message: bytes,
        *,
        exchange_name: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        **properties: Unpack[MessageProperties],
    ) -> asyncio.Future[None]:
        """Publish; the future is done once RabbitMQ confirmed the message.

        Keyword arguments are the message's properties: ``delivery_mode=2`` makes it persistent.
        With ``mandatory`` the future fails with
        :class:`~channels_rabbitmq.errors.MessageReturned` if no queue was there for it.

        Fails with :class:`.ServerSentNack` if a queue refused it. An error such as a
        missing exchange fails everything under way to that exchange, and nothing else. Reference:
        https://www.rabbitmq.com/docs/publishers
        """
        if not isinstance(message, (bytes, bytearray, memoryview)):
            raise TypeError(f"message must be bytes, not {type(message).__name__}")
        _require_short_string("exchange_name", exchange_name)
        _require_short_string("routing_key", routing_key)
        return self._publisher(exchange_name).publish(
            exchange_name,
            routing_key,
            bytes(message),
            mandatory=mandatory,
            properties=self._encode(properties) if properties else NO_PROPERTIES,
        )

    def acking_consumer(
        self, queue_name: str, *, prefetch_size: int = 0, prefetch_count: int = 1
    ) -> Consumer:
        """Consume a queue; RabbitMQ sends at most ``prefetch_count`` messages ahead of acks.

        0 is no limit. RabbitMQ has no ``prefetch_size``: it ends connections that ask for one.

        Reference: https://www.rabbitmq.com/docs/consumer-prefetch
        """
        if prefetch_size != 0:
            raise ValueError("prefetch_size must be 0: RabbitMQ does not implement it")
        if not 0 <= prefetch_count <= 65535:
            raise ValueError("prefetch_count must be between 0 and 65535")
        return Consumer(
            self.protocol,
            _require_short_string("queue_name", queue_name),
            prefetch_count=prefetch_count,
        )

    def exchange_declare(
        self,
        exchange_name: str,
        *,
        exchange_type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments | None = None,
    ) -> asyncio.Future[None]:
        """Make an exchange, or with ``passive`` fail unless it is there.

        An exchange that is there with other properties is an error (406). Reference:
        https://www.rabbitmq.com/docs/exchanges
        """
        _require_short_string("exchange_name", exchange_name)
        return self._start_call(
            lambda: pamqp.commands.Exchange.Declare(
                exchange=exchange_name,
                exchange_type=exchange_type,
                passive=passive,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=arguments,
            )
        )

    def queue_declare(
        self,
        queue_name: str,
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Arguments | None = None,
    ) -> asyncio.Future[None]:
        """Make a queue, or with ``passive`` fail unless it is there.

        Reference: https://www.rabbitmq.com/docs/queues
        """
        _require_short_string("queue_name", queue_name)
        return self._start_call(
            lambda: pamqp.commands.Queue.Declare(
                queue=queue_name,
                passive=passive,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=arguments,
            )
        )

    def queue_bind(
        self,
        queue_name: str,
        exchange_name: str,
        *,
        routing_key: str = "",
        arguments: Arguments | None = None,
    ) -> asyncio.Future[None]:
        """Bind a queue to an exchange."""
        _require_short_string("queue_name", queue_name)
        _require_short_string("exchange_name", exchange_name)
        _require_short_string("routing_key", routing_key)
        return self._start_call(
            lambda: pamqp.commands.Queue.Bind(
                queue=queue_name,
                exchange=exchange_name,
                routing_key=routing_key,
                arguments=arguments,
            )
        )

    def queue_unbind(
        self,
        queue_name: str,
        exchange_name: str,
        *,
        routing_key: str = "",
        arguments: Arguments | None = None,
    ) -> asyncio.Future[None]:
        """Take a binding away; one that is not there is no error."""
        _require_short_string("queue_name", queue_name)
        _require_short_string("exchange_name", exchange_name)
        _require_short_string("routing_key", routing_key)
        return self._start_call(
            lambda: pamqp.commands.Queue.Unbind(
                queue=queue_name,
                exchange=exchange_name,
                routing_key=routing_key,
                arguments=arguments,
            )
        )

    def _publisher(self, exchange_name: str) -> Channel:
        channel = self._publishers.get(exchange_name)
        if channel is not None and channel.open:
            return channel
        if len(self._publishers) >= self.protocol.share_of_channels(MAX_PUBLISH_CHANNELS):
            for name, idle in list(self._publishers.items()):
                if not idle.busy:
                    del self._publishers[name]
                    idle.close()
        channel = self.protocol.open_channel(confirm=True)
        self._publishers[exchange_name] = channel
        return channel

    def _start_call(self, make: Callable[[], Method]) -> asyncio.Future[None]:
        """Start an operation on a queue or an exchange."""
        with _plain_errors("the operation"):
            method = make()
            size = _METHOD_ID_SIZE + len(method.marshal())
        self._require_fits("the operation", size)
        if self._calls is None:
            raise ConnectionClosed("the connection is not connected yet")
        return without_result(self._calls.run(method))

    def _encode(self, properties: MessageProperties) -> bytes:
        """The properties as a content header has them."""
        for name, value in properties.items():
            if name not in MessageProperties.__annotations__:
                raise TypeError(f"publish() got an unexpected keyword argument {name!r}")
            with _plain_errors(f"message property {name!r}"):
                alone = Properties()
                setattr(alone, name, value)
                alone.marshal()
        encoded = Properties(**properties).marshal()
        self._require_fits("the message's properties", _BEFORE_PROPERTIES_SIZE + len(encoded))
        return encoded

    def _require_fits(self, what: str, size: int) -> None:
        """Raise unless a frame can hold so many bytes: RabbitMQ ends connections over it."""
        if size > self.protocol.frame_max - FRAME_OVERHEAD:
            raise ValueError(f"{what} must fit into {self.protocol.frame_max} bytes")


def _require_short_string(argument: str, value: str) -> str:
    """Raise unless AMQP's "short string" can hold the value: at most 255 bytes of UTF-8."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a str, not {type(value).__name__}")
    if len(value.encode()) > 255:
        raise ValueError(f"{argument} must have at most 255 bytes, not {len(value.encode())}")
    return value


@contextlib.contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Turn whatever pamqp raises into TypeError or ValueError, without the values it may quote."""
    try:
        yield
    except TypeError:
        raise TypeError(f"{what} has a value that AMQP cannot carry") from None
    except (ArithmeticError, AttributeError, RecursionError, struct.error):
        raise ValueError(f"{what} has a value that is out of range") from None
