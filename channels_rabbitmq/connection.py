"""The AMQP connection that users hold, for publishing and consuming; from any event loop.

It has carehare's interface and, where carehare is installed, is a :class:`carehare.Connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack

import pamqp.commands

from .amqp import carehare
from .amqp.calls import Calls
from .amqp.channel import Channel
from .amqp.connect import connect
from .amqp.consumer import Delivery, QueueConsumer
from .amqp.frames import FRAME_OVERHEAD, NO_PROPERTIES, Method
from .amqp.futures import follow, retrieve, without_result
from .amqp.protocol import Protocol
from .errors import AmqpError, ChannelClosed, ConnectionClosed, LoopEnded

if TYPE_CHECKING:
    from pamqp.common import Arguments, FieldTable

    from .layer.portal import Portal

__all__ = ["Connection", "Consumer", "MessageProperties"]

_T = TypeVar("_T")

#: Exchanges whose publishing channel stays open; past it, idle ones are closed.
MAX_PUBLISH_CHANNELS = 128

#: Bytes of a method's ids, and of a content header before its properties.
_METHOD_ID_SIZE = 4
_BEFORE_PROPERTIES_SIZE = 12

#: Where reading a stream may begin, as text (https://www.rabbitmq.com/docs/streams#consuming), and
#: all that may say so.
_OFFSET = re.compile("first|last|next|[0-9]{1,9}[YMDhms]")
_OFFSETS = "number from 0, a datetime, 'first', 'last', 'next', or an age such as '12h'"


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
    """An open AMQP connection to one RabbitMQ node; ``await layer.current_connection`` gives it.

    Its operations return futures of the event loop that is running, whichever that is. Arguments
    that cannot be sent raise :class:`TypeError` or :class:`ValueError` at once; all other errors
    are the future's:

    * :class:`.ChannelClosedByServer` when RabbitMQ refuses the operation, which leaves all other
      operations undisturbed;
    * :class:`.ConnectionClosed` when the connection ended, before or during the operation;
    * :class:`.ChannelClosed` when the connection has no free AMQP channel.
    """

    def __init__(self, protocol: Protocol, portal: Portal | None) -> None:
        # carehare's __init__ only stores what its own engine needs.
        #: The engine. Its methods are for its own event loop.
        self.protocol = protocol
        #: The way to that loop from others; None where no other loop uses the connection.
        self._portal = portal
        #: What :attr:`closed` gave out.
        self._closed = _PerLoop()
        # The rest is used on the protocol's loop only.
        #: One publishing channel for each exchange, so that errors stay with the exchange.
        self._publishers: dict[str, Channel] = {}
        self._calls = Calls(protocol, for_user=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.protocol}>"

    # Beginning and end

    async def connect(self) -> None:
        """Connect and log in, where nobody has yet: the layer's connections are open."""
        if not self.protocol.started:
            await connect(self.protocol)

    async def __aenter__(self) -> Self:
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
        return self._closed.get(lambda: self._submit(lambda: follow(self.protocol.closed)))

    async def close(self) -> None:
        """Close the connection; the layer then makes another. May be called again.

        Raises what ended the connection, if that was not us.
        """

        def close() -> asyncio.Future[None]:
            self.protocol.close()
            return follow(self.protocol.closed)

        await self._submit(close)

    # Publishing and consuming

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
        With ``mandatory`` the future fails with :class:`.MessageReturned` if no queue was there
        for it.

        Fails with :class:`.ServerSentNack` if a queue refused it. An error such as a missing
        exchange fails everything under way to that exchange, and nothing else. Reference:
        https://www.rabbitmq.com/docs/publishers
        """
        if not isinstance(message, (bytes, bytearray, memoryview)):
            raise TypeError(f"message must be bytes, not {type(message).__name__}")
        _require_short_string("exchange_name", exchange_name)
        _require_short_string("routing_key", routing_key)
        encoded = self._encode(properties) if properties else NO_PROPERTIES
        body = bytes(message)
        return self._submit(
            lambda: self._publisher(exchange_name).publish(
                exchange_name, routing_key, body, mandatory=mandatory, properties=encoded
            )
        )

    def acking_consumer(
        self,
        queue_name: str,
        *,
        prefetch_size: int = 0,
        prefetch_count: int = 1,
        arguments: Arguments | None = None,
    ) -> Consumer:
        """Consume a queue; RabbitMQ sends at most ``prefetch_count`` messages ahead of acks.

        0 is no limit, and refused for a stream. RabbitMQ has no ``prefetch_size``: it ends
        connections that ask for one. ``arguments`` are the consumer's, such as ``x-stream-offset``,
        where to begin in a stream, or ``x-priority``.

        References: https://www.rabbitmq.com/docs/consumer-prefetch,
        https://www.rabbitmq.com/docs/streams#consuming
        """
        if prefetch_size != 0:
            raise ValueError("prefetch_size must be 0: RabbitMQ does not implement it")
        if not 0 <= prefetch_count <= 65535:
            raise ValueError("prefetch_count must be between 0 and 65535")
        _require_short_string("queue_name", queue_name)
        _require_stream_offset(arguments)
        with _plain_errors("the consumer"):
            # pamqp checks the name too.
            consume = pamqp.commands.Basic.Consume(
                queue=queue_name, consumer_tag=self.protocol.consumer_tag, arguments=arguments
            )
            size = _METHOD_ID_SIZE + len(consume.marshal())
        self._require_fits("the consumer", size)
        return Consumer(
            self, lambda: QueueConsumer(self.protocol, consume, prefetch_count=prefetch_count)
        )

    # Queues and exchanges

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
        """Declare an exchange, or with ``passive`` fail unless it is there.

        An exchange that is there with other properties is an error (:class:`.PreconditionFailed`).
        Reference: https://www.rabbitmq.com/docs/exchanges
        """
        _require_short_string("exchange_name", exchange_name)
        return self._call(
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
        """Declare a queue, or with ``passive`` fail unless it is there.

        Reference: https://www.rabbitmq.com/docs/queues
        """
        _require_short_string("queue_name", queue_name)
        return self._call(
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
        return self._call(
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
        """Unbind a queue from an exchange. A binding that does not exist is no error."""
        _require_short_string("queue_name", queue_name)
        _require_short_string("exchange_name", exchange_name)
        _require_short_string("routing_key", routing_key)
        return self._call(
            lambda: pamqp.commands.Queue.Unbind(
                queue=queue_name,
                exchange=exchange_name,
                routing_key=routing_key,
                arguments=arguments,
            )
        )

    # Crossing to the protocol's loop. A Consumer uses these too.

    def _is_own_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self.protocol.loop
        except RuntimeError:  # none is running in this thread
            return False

    def _submit(self, start: Callable[[], asyncio.Future[_T]]) -> asyncio.Future[_T]:
        """Run ``start()`` on the protocol's loop; give its future, or one of the running loop.

        All errors are the future's, whichever loop runs.
        """

        def begin() -> asyncio.Future[_T]:
            try:
                return start()
            except AmqpError as err:
                return _fail_soon(self.protocol.loop, err)

        if self._is_own_loop():
            return begin()
        return asyncio.get_running_loop().create_task(self._cross(begin))

    async def _cross(
        self, start: Callable[[], Awaitable[_T]], give_back: Callable[[_T], None] | None = None
    ) -> _T:
        """Await ``start()`` on the protocol's loop, from another; ``start`` must not raise."""
        if self._portal is None:
            raise RuntimeError("the connection belongs to another event loop")
        try:
            return await self._portal.call(start, give_back)
        except LoopEnded:
            raise ConnectionClosed("the connection is closed") from None

    def _tell(self, callback: Callable[[], None]) -> None:
        """Run ``callback()`` on the protocol's loop: now, or after what was submitted before."""
        if self._is_own_loop():
            callback()
        elif self._portal is not None:
            self._portal.tell(lambda _: callback(), None)

    # On the protocol's loop

    def _publisher(self, exchange_name: str) -> Channel:
        channel = self._publishers.get(exchange_name)
        if channel is not None and channel.open:
            return channel
        if len(self._publishers) >= self.protocol.share_of_channels(MAX_PUBLISH_CHANNELS):
            for name, idle in list(self._publishers.items()):
                if not idle.busy:
                    del self._publishers[name]
                    idle.close()
        channel = self.protocol.open_channel(confirm=True, for_user=True)
        self._publishers[exchange_name] = channel
        return channel

    # Arguments, on whichever thread the caller is

    def _call(self, make: Callable[[], Method]) -> asyncio.Future[None]:
        """Start an operation on a queue or an exchange."""
        with _plain_errors("the operation"):
            method = make()
            size = _METHOD_ID_SIZE + len(method.marshal())
        self._require_fits("the operation", size)
        return self._submit(lambda: without_result(self._calls.run(method)))

    def _encode(self, properties: MessageProperties) -> bytes:
        """Encode properties as a content header has them."""
        for name, value in properties.items():
            if name not in MessageProperties.__annotations__:
                raise TypeError(f"publish() got an unexpected keyword argument {name!r}")
            if isinstance(value, str):
                _require_short_string(f"message property {name!r}", value)
            with _plain_errors(f"message property {name!r}"):
                alone = pamqp.commands.Basic.Properties()
                setattr(alone, name, value)
                alone.marshal()
        encoded = pamqp.commands.Basic.Properties(**properties).marshal()
        self._require_fits("the message's properties", _BEFORE_PROPERTIES_SIZE + len(encoded))
        return encoded

    def _require_fits(self, what: str, size: int) -> None:
        """Raise unless a frame can hold so many bytes: RabbitMQ ends connections over it."""
        if size > self.protocol.frame_max - FRAME_OVERHEAD:
            raise ValueError(f"{what} must fit into {self.protocol.frame_max} bytes")


class Consumer:
    """Receives the messages of one queue; :meth:`Connection.acking_consumer` makes it.

    Either iterate, and each message is acknowledged when the next one is asked for::

        async with connection.acking_consumer("jobs") as consumer:
            async for message in consumer:
                ...

    or take deliveries and acknowledge each yourself, with :meth:`next_delivery` and :meth:`ack`.
    What is not acknowledged goes to another consumer once this one is closed. Errors of the
    connection are raised where it is waited for, such as :meth:`next_delivery`.

    Reference: https://www.rabbitmq.com/docs/consumers
    """

    def __init__(self, connection: Connection, consume: Callable[[], QueueConsumer]) -> None:
        self._connection = connection
        #: Starts consuming. Raises AmqpError on a connection that is closed or has no free channel.
        self._consume = consume
        #: Made by the first callback to come to the protocol's loop, and used there only.
        self._queue_consumer: QueueConsumer | None = None
        #: The tags that :meth:`next_delivery` gave out and nobody has acknowledged.
        self._unacknowledged: set[int] = set()
        #: The tag of the message that iteration gave out last; None once that is acknowledged.
        self._held: int | None = None
        #: Set by :meth:`close`.
        self._closing = False
        #: What :attr:`closed` gave out.
        self._closed = _PerLoop()
        connection._tell(self._begin)

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done once the consumer is closed; fails with why, unless we closed it."""
        return self._closed.get(
            lambda: self._connection._submit(lambda: self._engine().wait_closed())
        )

    async def next_delivery(self) -> tuple[bytes, int]:
        """Wait for a message; give its body and its delivery tag for :meth:`ack`.

        Raises :class:`.ChannelClosed` once we closed the consumer,
        :class:`.ChannelClosedByServer` if RabbitMQ did, and :class:`.ConnectionClosed` when the
        connection ended. A wait that is cancelled leaves its message to the next.
        """
        if self._connection._is_own_loop():
            body, tag = await self._engine().next_delivery()
        else:
            body, tag = await self._connection._cross(self._next_delivery, self._give_back)
        self._unacknowledged.add(tag)
        return body, tag

    def ack(self, delivery_tag: int) -> None:
        """Acknowledge a delivery. Nothing happens on a closed consumer.

        Raises :class:`ValueError` for what was not delivered or was acknowledged before: RabbitMQ
        would close the channel over it.
        """
        if delivery_tag in self._unacknowledged:
            self._unacknowledged.remove(delivery_tag)
            self._tell(partial(QueueConsumer.ack, delivery_tag=delivery_tag))
        elif not self._is_over():
            raise ValueError(f"there is no unacknowledged delivery {delivery_tag}")

    def close(self) -> None:
        """Stop. Iteration ends, with what it gave out last acknowledged when it goes on.

        Called again, it leaves that message to another consumer.
        """
        self._tell(
            QueueConsumer.close if self._held is None or self._closing else QueueConsumer.stop
        )
        self._closing = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        held, self._held = self._held, None
        if held is not None:
            self.ack(held)
            if self._closing:
                self._tell(QueueConsumer.close)
        try:
            body, self._held = await self.next_delivery()
        except ChannelClosed:
            if not self._closing:
                raise  # no AMQP channel was free to begin with
            raise StopAsyncIteration from None
        return body

    async def __aenter__(self) -> Self:
        if self._connection._is_own_loop():
            self._engine()
        else:
            await self._connection._cross(self._start)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; what iteration gave out last goes to another consumer."""
        self._held = None
        self.close()
        await self.closed

    def _tell(self, callback: Callable[[QueueConsumer], None]) -> None:
        def tell() -> None:
            if self._queue_consumer is not None:
                callback(self._queue_consumer)

        self._connection._tell(tell)

    def _is_over(self) -> bool:
        # Other threads may read it: what they miss by a moment is as if they had come before.
        consumer = self._queue_consumer
        return self._closing or (consumer is not None and consumer.closed)

    def _give_back(self, delivery: Delivery) -> None:
        self._tell(lambda consumer: consumer.put_back(delivery))

    # On the protocol's loop

    def _begin(self) -> None:
        with contextlib.suppress(AmqpError):  # raised again where the consumer is waited for
            self._engine()

    def _engine(self) -> QueueConsumer:
        if self._queue_consumer is None:
            self._queue_consumer = self._consume()
        return self._queue_consumer

    async def _start(self) -> None:
        self._engine()

    async def _next_delivery(self) -> Delivery:
        return await self._engine().next_delivery()


class _PerLoop:
    """A future for each event loop that asks, and the same one whenever that asks again.

    So a program can ask ``closed.done()`` at any time, from any number of loops.
    """

    def __init__(self) -> None:
        self._futures: dict[asyncio.AbstractEventLoop, asyncio.Future[None]] = {}

    def get(self, start: Callable[[], asyncio.Future[None]]) -> asyncio.Future[None]:
        """Give the future of the running loop, which ``start()`` makes if there is none."""
        loop = asyncio.get_running_loop()
        future = self._futures.get(loop)
        if future is None or future.cancelled():
            # Each loop changes its own entry only, and is not closed while it does.
            for other in list(self._futures):
                if other.is_closed():
                    self._futures.pop(other, None)
            future = self._futures[loop] = start()
            future.add_done_callback(retrieve)  # who only asks whether it is done
        return future


def _fail_soon(loop: asyncio.AbstractEventLoop, error: Exception) -> asyncio.Future[Any]:
    """Make a future that fails in the next turn of the event loop.

    Awaiting one that has failed already does not yield, so a program that repeats a failed call
    until it succeeds would keep everything else from running, the reconnection included.
    """
    future: asyncio.Future[Any] = loop.create_future()

    def fail() -> None:
        if not future.done():
            future.set_exception(error)

    loop.call_soon(fail)
    return future


def _require_short_string(argument: str, value: str) -> str:
    """Raise unless AMQP's "short string" can hold the value: at most 255 bytes of UTF-8."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a str, not {type(value).__name__}")
    if len(value.encode()) > 255:
        raise ValueError(f"{argument} must have at most 255 bytes, not {len(value.encode())}")
    return value


def _require_stream_offset(arguments: Arguments | None) -> None:
    """Raise unless RabbitMQ knows the ``x-stream-offset``, if there is one.

    RabbitMQ 3.10 ends the connection over another (541), and it is the layer's.
    """
    if arguments is not None and not isinstance(arguments, dict):
        raise TypeError(f"arguments must be a dict, not of type {type(arguments).__name__}")
    if arguments is None or "x-stream-offset" not in arguments:
        return
    offset = arguments["x-stream-offset"]
    if isinstance(offset, bool) or not isinstance(offset, (int, str, datetime)):
        raise TypeError(f"x-stream-offset must be a {_OFFSETS}, not a {type(offset).__name__}")
    if (isinstance(offset, int) and not 0 <= offset < 2**63) or (
        isinstance(offset, str) and not _OFFSET.fullmatch(offset)
    ):
        raise ValueError(f"x-stream-offset must be a {_OFFSETS}")


@contextlib.contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Turn whatever pamqp raises into TypeError or ValueError, without the values it may quote.

    pamqp 3 and 4 differ in what they raise for the same value.
    """
    try:
        yield
    except (AttributeError, TypeError):
        raise TypeError(f"{what} has a value that AMQP cannot carry") from None
    except (ArithmeticError, RecursionError, struct.error):
        raise ValueError(f"{what} has a value that is out of range") from None
