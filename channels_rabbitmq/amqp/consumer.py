"""A consumer with acknowledgements, with the interface of carehare's."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

import pamqp.commands
from carehare import ChannelClosed

from .channel import Channel
from .futures import retrieve
from .protocol import Protocol


class Consumer:
    """Receives the messages of one queue, on an AMQP channel of its own.

    Either iterate, and each message is acknowledged when the next one is asked for::

        async with connection.acking_consumer("jobs") as consumer:
            async for message in consumer:
                ...

    or take deliveries and acknowledge each yourself, with :meth:`next_delivery` and :meth:`ack`.
    What is not acknowledged goes to another consumer once this one is closed.

    Reference: https://www.rabbitmq.com/docs/consumers
    """

    def __init__(
        self, protocol: Protocol, queue_name: str, *, prefetch_size: int, prefetch_count: int
    ) -> None:
        self._deliveries: deque[tuple[bytes, int]] = deque()
        #: Those who wait in ``next_delivery``.
        self._waiters: deque[asyncio.Future[None]] = deque()
        #: What iteration gave out last and has not acknowledged.
        self._held: int | None = None
        self._stopping = False
        self._closed: asyncio.Future[None] = protocol.loop.create_future()
        self._closed.add_done_callback(retrieve)
        self._loop = protocol.loop
        self._channel: Channel = protocol.open_channel(
            on_delivery=self._handle_delivery, on_closed=self._handle_closed
        )
        for method in (
            pamqp.commands.Basic.Qos(prefetch_size, prefetch_count),
            pamqp.commands.Basic.Consume(queue=queue_name, consumer_tag="carehare"),
        ):
            # Why it failed, if it does, is what ``closed`` tells.
            self._channel.call(method).add_done_callback(retrieve)

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done once the consumer is closed; fails with why, unless we closed it."""
        return self._closed

    async def next_delivery(self) -> tuple[bytes, int]:
        """Wait for a message; give its body and its delivery tag for :meth:`ack`.

        Raises :class:`carehare.ChannelClosed` once we closed the consumer,
        :class:`carehare.ChannelClosedByServer` if RabbitMQ did, and
        :class:`carehare.ConnectionClosed` when the connection ended.
        """
        while not self.closed.done() and not self._stopping:
            if self._deliveries:
                return self._deliveries.popleft()
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                # Woken and cancelled at once: the message belongs to the next in line.
                if waiter.done() and not waiter.cancelled() and self._deliveries:
                    self._wake()
                raise
        if self.closed.done():
            self.closed.result()
        raise ChannelClosed("the consumer is closed")

    def ack(self, delivery_tag: int) -> None:
        """Acknowledge a delivery. Never raises; on a closed channel nothing happens."""
        self._channel.ack(delivery_tag)

    def close(self) -> None:
        """Stop. Iteration ends, with what it gave out last acknowledged when it goes on."""
        self._stopping = True
        if self._held is None:
            self._channel.close()
        self._wake_all()

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> bytes:
        held, self._held = self._held, None
        if held is not None:
            self._channel.ack(held)
            if self._stopping:
                self._channel.close()
        try:
            body, self._held = await self.next_delivery()
        except ChannelClosed:
            raise StopAsyncIteration from None
        return body

    async def __aenter__(self) -> Consumer:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held = None
        self.close()
        await asyncio.shield(self.closed)

    def _handle_delivery(self, delivery_tag: int, redelivered: bool, body: bytes) -> None:
        self._deliveries.append((body, delivery_tag))
        self._wake()

    def _handle_closed(self, channel: Channel, reason: Exception | None) -> None:
        if not self.closed.done():
            if reason is None:
                self.closed.set_result(None)
            else:
                self.closed.set_exception(reason)
        self._deliveries.clear()
        self._wake_all()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._waiters:
            self._wake()
