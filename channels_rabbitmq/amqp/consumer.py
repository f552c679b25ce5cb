"""A consumer of one queue, on an AMQP channel of its own.

Reference: https://www.rabbitmq.com/docs/consumers
"""

from __future__ import annotations

import asyncio
from collections import deque

import pamqp.commands

from .channel import Channel
from .errors import ChannelClosed
from .futures import follow, retrieve
from .protocol import Protocol

__all__ = ["Delivery", "QueueConsumer"]

#: A message's body, and the delivery tag to acknowledge it by.
Delivery = tuple[bytes, int]


class QueueConsumer:
    """Holds what the server delivers until somebody asks for it; use it on the protocol's loop.

    ``consume`` says which queue, and with which arguments. What is not acknowledged goes to another
    consumer once this one is closed.
    """

    def __init__(
        self, protocol: Protocol, consume: pamqp.commands.Basic.Consume, *, prefetch_count: int
    ) -> None:
        #: Messages that came and were not asked for yet, oldest first.
        self._deliveries: deque[Delivery] = deque()
        #: Those who wait in :meth:`next_delivery`, first come first served.
        self._waiters: deque[asyncio.Future[None]] = deque()
        #: Set by :meth:`stop`: nothing more is given out, though the channel is open.
        self._stopped = False
        #: Done once the channel ended; fails with why, unless we closed it.
        self._ended: asyncio.Future[None] = protocol.loop.create_future()
        self._ended.add_done_callback(retrieve)
        self._loop = protocol.loop
        self._channel: Channel = protocol.open_channel(
            on_delivery=self._handle_delivery, on_closed=self._handle_closed, for_user=True
        )
        for method in (
            pamqp.commands.Basic.Qos(prefetch_count=prefetch_count),
            consume,
        ):
            # Why it failed, if it does, is what wait_closed() tells.
            self._channel.call(method).add_done_callback(retrieve)

    @property
    def closed(self) -> bool:
        """Whether the channel ended, by whomever."""
        return self._ended.done()

    def wait_closed(self) -> asyncio.Future[None]:
        """A future that is done once the consumer is closed; it fails unless we closed it."""
        return follow(self._ended)

    async def next_delivery(self) -> Delivery:
        """Wait for a message.

        Raises :class:`.ChannelClosed` once we closed or stopped the consumer,
        :class:`.ChannelClosedByServer` if RabbitMQ did, and :class:`.ConnectionClosed` when the
        connection ended.
        """
        while not self._ended.done() and not self._stopped:
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

    def put_back(self, delivery: Delivery) -> None:
        """Take back a message that whoever asked for it did not get."""
        if not self._ended.done():
            self._deliveries.appendleft(delivery)
            self._wake()

    def ack(self, delivery_tag: int) -> None:
        """Acknowledge a delivery. Nothing happens on a closed channel."""
        self._channel.ack(delivery_tag)

    def stop(self) -> None:
        """Give out no more messages; those given out can still be acknowledged."""
        self._stopped = True
        self._wake_all()

    def close(self) -> None:
        """Close the channel: what is not acknowledged goes to another consumer."""
        self._channel.close()
        self.stop()

    def _handle_delivery(
        self, channel: Channel, delivery_tag: int, redelivered: bool, body: bytes
    ) -> None:
        self._deliveries.append((body, delivery_tag))
        self._wake()

    def _handle_closed(self, channel: Channel, reason: Exception | None) -> None:
        if reason is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(reason)
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
