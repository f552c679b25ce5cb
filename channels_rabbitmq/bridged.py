"""The open connection as seen from an event loop that is not home: carehare's interface again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from .amqp import carehare
from .connection import Connection, MessageProperties
from .consumer import Consumer
from .errors import ConnectionClosed, LoopEnded
from .layer.portal import Portal

if TYPE_CHECKING:
    from pamqp.common import Arguments
    from typing_extensions import Unpack

_T = TypeVar("_T")


class BridgedConnection(carehare.Connection):
    """Stands for the connection on other loops; each operation runs on the connection's own.

    It does what :class:`~channels_rabbitmq.connection.Connection` does, from whichever loop
    is running when it is called.
    """

    def __init__(self, connection: Connection, portal: Portal) -> None:
        # carehare's __init__ only stores what its own engine needs.
        self._connection = connection
        self._portal = portal

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._connection!r}>"

    async def connect(self) -> None:
        """There is nothing to do: the layer connected it."""

    async def __aenter__(self) -> BridgedConnection:
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
        return self._start(lambda connection: asyncio.shield(connection.closed))

    async def close(self) -> None:
        """Close the connection; the layer then makes another."""
        await self._start(lambda connection: connection.close())

    def publish(
        self,
        message: bytes,
        *,
        exchange_name: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        **properties: Unpack[MessageProperties],
    ) -> asyncio.Future[None]:
        """See :meth:`~channels_rabbitmq.connection.Connection.publish`."""
        return self._start(
            lambda connection: connection.publish(
                message,
                exchange_name=exchange_name,
                routing_key=routing_key,
                mandatory=mandatory,
                **properties,
            )
        )

    def acking_consumer(
        self, queue_name: str, *, prefetch_size: int = 0, prefetch_count: int = 1
    ) -> BridgedConsumer:
        """See :meth:`~channels_rabbitmq.connection.Connection.acking_consumer`."""

        async def make() -> Consumer:
            return self._connection.acking_consumer(
                queue_name, prefetch_size=prefetch_size, prefetch_count=prefetch_count
            )

        return BridgedConsumer(self._portal, make)

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
        """See :meth:`~channels_rabbitmq.connection.Connection.exchange_declare`."""
        return self._start(
            lambda connection: connection.exchange_declare(
                exchange_name,
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
        """See :meth:`~channels_rabbitmq.connection.Connection.queue_declare`."""
        return self._start(
            lambda connection: connection.queue_declare(
                queue_name,
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
        """See :meth:`~channels_rabbitmq.connection.Connection.queue_bind`."""
        return self._start(
            lambda connection: connection.queue_bind(
                queue_name, exchange_name, routing_key=routing_key, arguments=arguments
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
        """See :meth:`~channels_rabbitmq.connection.Connection.queue_unbind`."""
        return self._start(
            lambda connection: connection.queue_unbind(
                queue_name, exchange_name, routing_key=routing_key, arguments=arguments
            )
        )

    def _start(self, operation: Callable[[Connection], Awaitable[_T]]) -> asyncio.Future[_T]:
        connection = self._connection

        async def run() -> _T:
            return await operation(connection)

        async def cross() -> _T:
            try:
                return await self._portal.call(run)
            except LoopEnded:
                raise ConnectionClosed("the connection is closed") from None

        return asyncio.ensure_future(cross())


class BridgedConsumer:
    """Stands for a consumer on other loops; made on the connection's loop at its first use."""

    def __init__(self, portal: Portal, make: Callable[[], Awaitable[Consumer]]) -> None:
        self._portal = portal
        self._make = make
        #: Read and set on the connection's loop only.
        self._consumer: Consumer | None = None

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done once the consumer is closed; fails with why, unless we closed it."""

        async def wait(consumer: Consumer) -> None:
            await asyncio.shield(consumer.closed)

        return asyncio.ensure_future(self._run(wait))

    async def next_delivery(self) -> tuple[bytes, int]:
        """See :meth:`~channels_rabbitmq.consumer.Consumer.next_delivery`."""
        return await self._run(Consumer.next_delivery)

    def ack(self, delivery_tag: int) -> None:
        """Acknowledge a delivery. Never raises; on a closed channel nothing happens."""
        self._tell(lambda consumer: consumer.ack(delivery_tag))

    def close(self) -> None:
        """Stop. Iteration ends, with what it gave out last acknowledged when it goes on."""
        self._tell(Consumer.close)

    def __aiter__(self) -> BridgedConsumer:
        return self

    async def __anext__(self) -> bytes:
        # StopAsyncIteration cannot be an asyncio result, so it is made on this side.
        async def step(consumer: Consumer) -> bytes | None:
            try:
                return await consumer.__anext__()
            except StopAsyncIteration:
                return None

        body = await self._run(step)
        if body is None:
            raise StopAsyncIteration
        return body

    async def __aenter__(self) -> BridgedConsumer:
        await self._run(Consumer.__aenter__)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._run(lambda consumer: consumer.__aexit__(None, None, None))

    async def _run(self, operation: Callable[[Consumer], Awaitable[_T]]) -> _T:
        async def run() -> _T:
            if self._consumer is None:
                self._consumer = await self._make()
            return await operation(self._consumer)

        try:
            return await self._portal.call(run)
        except LoopEnded:
            raise ConnectionClosed("the connection is closed") from None

    def _tell(self, operation: Callable[[Consumer], None]) -> None:
        def tell(bridged: BridgedConsumer) -> None:
            if bridged._consumer is not None:
                operation(bridged._consumer)

        self._portal.tell(tell, self)
