"""A consumer with acknowledgements, with the interface of carehare's."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

import pamqp.commands

from .amqp.channel import Channel
from .amqp.futures import follow, retrieve
from .amqp.protocol import Protocol
from .errors import ChannelClosed


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

    def __init__(self, protocol: Protocol, queue_name: str, *, prefetch_count: int) -> None:
        #: Messages that came and were not asked for yet.
        self._deliveries: deque[tuple[bytes, int]] = deque()
        #: The delivery tags of all messages that came and are not acknowledged.
        self._unacknowledged: set[int] = set()
        #: Those who wait in ``next_delivery``.
        self._waiters: deque[asyncio.Future[None]] = deque()
        #: What iteration gave out last and has not acknowledged.
        self._held: int | None = None
        self._stopping = False
        #: Done once the channel ended; fails with why, unless we closed it.
        self._ended: asyncio.Future[None] = protocol.loop.create_future()
        self._ended.add_done_callback(retrieve)
        #: What :attr:`closed` gave out last.
        self._closed: asyncio.Future[None] | None = None
        self._loop = protocol.loop
        # Made first: a name that cannot be sent raises, and should leave no channel behind.
        methods = (
            pamqp.commands.Basic.Qos(prefetch_count=prefetch_count),
            pamqp.commands.Basic.Consume(queue=queue_name, consumer_tag="carehare"),
        )
        self._channel: Channel = protocol.open_channel(
            on_delivery=self._handle_delivery, on_closed=self._handle_closed
        )
        for method in methods:
            # Why it failed, if it does, is what ``closed`` tells.
            self._channel.call(method).add_done_callback(retrieve)

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done once the consumer is closed; fails with why, unless we closed it."""
        if self._closed is None or self._closed.cancelled():
            self._closed = follow(self._ended)
        return self._closed

    async def next_delivery(self) -> tuple[bytes, int]:
        """Wait for a message; give its body and its delivery tag for :meth:`ack`.

        Raises :class:`.ChannelClosed` once we closed the consumer,
        :class:`.ChannelClosedByServer` if RabbitMQ did, and
        :class:`.ConnectionClosed` when the connection ended.
        """
        while not self._ended.done() and not self._stopping:
            if self._deliveries:
                return self._deliveries.popleft()
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                elif self._deliveries:
                    self._wake()  # woken and cancelled at once: the next in line gets the message
                raise
        if self._ended.done():
            self._ended.result()
        raise ChannelClosed("the consumer is closed")

    def ack(self, delivery_tag: int) -> None:
        """Acknowledge a delivery. Nothing happens on a closed channel.

        Raises :class:`ValueError` for what was not delivered or was acknowledged before: RabbitMQ
        would close the channel over it.
        """
        if self._ended.done():
            return
        if delivery_tag not in self._unacknowledged:
            raise ValueError(f"there is no unacknowledged delivery {delivery_tag}")
        self._unacknowledged.remove(delivery_tag)
        self._channel.ack(delivery_tag)

    def close(self) -> None:
        """Stop. Iteration ends, with what it gave out last acknowledged when it goes on.

        Called again, it leaves that message to another consumer.
        """
        if self._held is None or self._stopping:
            self._channel.close()
        self._stopping = True
        self._wake_all()

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> bytes:
        held, self._held = self._held, None
        if held is not None:
            self.ack(held)
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
        self._ended.result()

    def _handle_delivery(
        self, channel: Channel, delivery_tag: int, redelivered: bool, body: bytes
    ) -> None:
        self._deliveries.append((body, delivery_tag))
        self._unacknowledged.add(delivery_tag)
        self._wake()

    def _handle_closed(self, channel: Channel, reason: Exception | None) -> None:
        if reason is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(reason)
        self._deliveries.clear()
        self._unacknowledged.clear()
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
