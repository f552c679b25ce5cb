"""One AMQP channel: replies in order, publishes and their confirms, deliveries and their acks."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import pamqp.commands

from .acknowledgements import ConsumerAcks, PublisherConfirms
from .counts import PublishCounts
from .errors import (
    BadBytesFromServer,
    ChannelClosed,
    MessageReturned,
    NotFound,
    ServerSentNack,
    channel_closed_by_server,
)
from .frames import (
    NO_PROPERTIES,
    Method,
    encode_bind,
    encode_method,
    encode_publish,
    encode_unbind,
)
from .text import printable

#: Called with the channel to acknowledge on, the delivery tag, ``redelivered``, and the body.
OnDelivery = Callable[["Channel", int, bool, bytes], None]
#: Called with the channel to acknowledge on, the delivery tag, and the size of a body larger
#: than the channel's limit.
OnOversized = Callable[["Channel", int, int], None]
#: Called once with why the channel ended; None if we closed it.
OnClosed = Callable[["Channel", "Exception | None"], None]

#: Most seconds that an acknowledgement waits for others, where these may wait at all.
_ACK_DELAY = 0.005
#: Acknowledgements wait while so many batches of deliveries are held, at most.
_HELD = 4

#: A limit of bytes that no body reaches.
NO_LIMIT = sys.maxsize


class Wire(Protocol):
    """What a channel needs of its connection; tests put something simpler in its place."""

    loop: asyncio.AbstractEventLoop
    #: The greatest whole frame that either side may send.
    frame_max: int

    def write(self, data: bytes) -> None:
        """Send bytes at the end of this turn of the event loop."""

    def write_late(self, produce: Callable[[], bytes]) -> None:
        """Send what ``produce()`` returns at the end of this turn, after all else."""

    def forget(self, channel: Channel) -> None:
        """Free the channel's number for another channel."""

    def routing(self) -> tuple[str, str]:
        """The exchange and routing key of the delivery that is being handled."""

    def properties(self) -> bytes:
        """Flags and values of the properties of the delivery that is being handled."""


class Channel:
    """An open AMQP channel. Calls are pipelined: the server answers them in order.

    AMQP closes a channel over any error on it: everything that waits on the channel then fails with
    :class:`.ChannelClosedByServer`. What must not fail together needs channels of its own. When the
    connection ends, all of it fails with :class:`.ConnectionClosed`.
    """

    def __init__(
        self,
        wire: Wire,
        number: int,
        *,
        confirm: bool = False,
        on_delivery: OnDelivery | None = None,
        on_closed: OnClosed | None = None,
        max_body: int = NO_LIMIT,
        on_oversized: OnOversized | None = None,
        counts: PublishCounts | None = None,
        ack_batch: int = 1,
    ) -> None:
        #: What tells channels of one connection apart. Another channel may have it after this one.
        self.number = number
        self._wire = wire
        self._on_delivery = on_delivery
        self._on_closed = on_closed
        #: The most bytes of a delivery; ``_on_oversized`` is told of larger ones.
        self._max_body = max_body
        self._on_oversized = on_oversized
        #: Calls without a reply so far, oldest first; None for a call that nobody waits for.
        self._replies: deque[asyncio.Future[Method] | None] = deque()
        #: How many calls the server has answered.
        self.answered = 0
        #: Publishes without a confirm so far.
        self.confirms = PublisherConfirms(counts)
        #: Deliveries that are done with and not acknowledged yet.
        self._acks = ConsumerAcks(number)
        #: At so many of them they are acknowledged at the end of this turn of the event loop.
        self._ack_batch = ack_batch
        #: Whether a timer runs for fewer.
        self._ack_timer = False
        #: The latest delivery tag. (A ``basic.get`` would count too; none is sent.)
        self._delivered = 0
        #: Mandatory publishes that may still be returned, by delivery tag, in publishing order.
        self._mandatory: dict[int, tuple[str, str, bytes]] = {}
        #: The size of the largest mandatory publish so far: nothing larger can be returned.
        self._max_mandatory = 0
        #: What operations fail with; None while the channel is open. Set once, by :meth:`_end`.
        self._error: Exception | None = None
        #: We sent ``channel.close``: the number stays ours until ``channel.close-ok`` comes.
        self._close_sent = False
        #: Whether the server confirms publishes.
        self._confirming = False
        self._send(pamqp.commands.Channel.Open())
        if confirm:
            self.select_confirms()

    def __repr__(self) -> str:
        state = "open" if self._error is None else "closed"
        return (
            f"<Channel {self.number} {state}, {len(self._replies)} calls and "
            f"{len(self.confirms)} publishes waiting>"
        )

    @property
    def open(self) -> bool:
        """Whether operations may be started."""
        return self._error is None

    @property
    def busy(self) -> bool:
        """Whether an operation waits for the server."""
        return bool(self._replies) or len(self.confirms) > 0

    @property
    def delivered(self) -> int:
        """How many messages were delivered so far."""
        return self._delivered

    @property
    def unacknowledged(self) -> int:
        """How many of them are not acknowledged."""
        return self._delivered - self._acks.count

    # Operations

    def call(self, method: Method) -> asyncio.Future[Method]:
        """Send a method that has a reply; the future gives the reply.

        Raises what pamqp raises for a method that cannot be encoded; nothing is sent then.
        """
        future: asyncio.Future[Method] = self._wire.loop.create_future()
        if self._error is not None:
            future.set_exception(self._error)
            return future
        data = encode_method(self.number, method)
        self._replies.append(future)
        self._wire.write(data)
        return future

    def bind(self, queue: str, exchange: str, keys: Sequence[str]) -> asyncio.Future[Method]:
        """Bind a queue for one routing key or more; the future gives the answer for the last.

        The others are bound by then. RabbitMQ does not answer for each, which is faster.
        """
        names = [key.encode() for key in keys]
        return self._call_many(encode_bind(self.number, queue.encode(), exchange.encode(), names))

    def unbind(self, queue: str, exchange: str, keys: Sequence[str]) -> asyncio.Future[Method]:
        """Unbind a queue for one routing key or more; the future gives the answer for the last."""
        names = [key.encode() for key in keys]
        frames = encode_unbind(self.number, queue.encode(), exchange.encode(), names)
        return self._call_many(frames, len(names) - 1)

    def _call_many(self, frames: bytes, others: int = 0) -> asyncio.Future[Method]:
        """Send methods; give the reply to the last, after those that nobody waits for."""
        future: asyncio.Future[Method] = self._wire.loop.create_future()
        if self._error is not None:
            future.set_exception(self._error)
            return future
        self._replies.extend([None] * others)
        self._replies.append(future)
        self._wire.write(frames)
        return future

    def select_confirms(self) -> None:
        """Have the server confirm publishes; :meth:`publish` needs that."""
        if not self._confirming and self._error is None:
            self._confirming = True
            self._send(pamqp.commands.Confirm.Select())

    def _send(self, method: Method) -> None:
        """Send a method whose reply nobody waits for."""
        self._replies.append(None)
        self._wire.write(encode_method(self.number, method))

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        mandatory: bool = False,
        properties: bytes = NO_PROPERTIES,
    ) -> asyncio.Future[None]:
        """Publish; the future is done once the server confirmed it.

        ``properties`` are as in a content header: flags, then values.
        It fails with :class:`.ServerSentNack` when a queue refused the message, and with
        :class:`~channels_rabbitmq.errors.MessageReturned` when a mandatory one met no queue.
        """
        wire = self._wire
        future: asyncio.Future[None] = wire.loop.create_future()
        if self._error is not None:
            future.set_exception(self._error)
            return future
        data = encode_publish(
            self.number,
            exchange.encode(),
            routing_key.encode(),
            body,
            wire.frame_max,
            mandatory,
            properties,
        )
        tag = self.confirms.add(future)
        if mandatory:
            self._mandatory[tag] = (exchange, routing_key, body)
            self._max_mandatory = max(self._max_mandatory, len(body))
            future.add_done_callback(partial(self._forget_mandatory, tag))
        wire.write(data)
        return future

    def _forget_mandatory(self, tag: int, future: asyncio.Future[None]) -> None:
        self._mandatory.pop(tag, None)
        if future.cancelled():
            self.confirms.forget(tag)

    def ack(self, delivery_tag: int) -> None:
        """Acknowledge a delivery, soon. Nothing happens on a closed channel."""
        if self._error is not None:
            return
        noted = self._acks.add(delivery_tag)
        if noted > 1 and noted != self._ack_batch:
            return
        # Where deliveries are held, the window may be all but closed: none waits then.
        if noted == self._ack_batch or self.unacknowledged > _HELD * self._ack_batch:
            self._wire.write_late(self._acks.flush)
        elif not self._ack_timer:
            self._ack_timer = True
            self._wire.loop.call_later(_ACK_DELAY, self._ack_in_time)

    def _ack_in_time(self) -> None:
        self._ack_timer = False
        self.flush_acks()

    def flush_acks(self) -> None:
        """Send the acknowledgements that wait for others."""
        if self._error is None and self._acks.noted:
            self._wire.write(self._acks.flush())

    def routing(self) -> tuple[str, str]:
        """The exchange and routing key of a delivery, within ``on_delivery()``."""
        return self._wire.routing()

    def properties(self) -> bytes:
        """Flags and values of the properties of a delivery, within ``on_delivery()``."""
        return self._wire.properties()

    def close(self) -> None:
        """Close the channel; what waits on it fails with :class:`.ChannelClosed`."""
        if self._error is None:
            # Acknowledgements first: what has none when the channel ends is delivered again.
            self._wire.write(self._acks.flush())
            self._send_close()
            self._end(None)

    def _send_close(self) -> None:
        self._close_sent = True
        self._wire.write(encode_method(self.number, pamqp.commands.Channel.Close(200, "", 0, 0)))

    # What the server sends

    def body_limit(self, method: Method | None) -> int:
        """Give the most bytes that the body of a method may have to be of use.

        ``method`` is None for a ``basic.deliver``.
        """
        if self._error is not None:
            return 0
        if method is None:
            return 0 if self._on_delivery is None else self._max_body
        return self._max_mandatory

    def handle_oversized(self, delivery_tag: int, size: int) -> None:
        """Handle a delivery that was not collected."""
        self._count_delivery(delivery_tag)
        if self._error is None and self._on_oversized is not None:
            self._on_oversized(self, delivery_tag, size)

    def _count_delivery(self, delivery_tag: int) -> None:
        if delivery_tag != self._delivered + 1:
            raise BadBytesFromServer("deliveries are not numbered in order")
        self._delivered = delivery_tag

    def handle_delivery(self, delivery_tag: int, redelivered: bool, body: bytes) -> None:
        """Handle a message for the channel's consumer.

        :class:`.ConsumerAcks` relies on tags without gaps, so one that is skipped ends the
        connection.
        """
        if delivery_tag != self._delivered + 1:
            raise BadBytesFromServer("deliveries are not numbered in order")
        self._delivered = delivery_tag
        if self._error is None and self._on_delivery is not None:
            if len(body) <= self._max_body:
                self._on_delivery(self, delivery_tag, redelivered, body)
            elif self._on_oversized is not None:
                self._on_oversized(self, delivery_tag, len(body))

    def handle_content(self, method: Method, body: bytes) -> None:
        """Handle a message that came back (``basic.return``); any other was not asked for."""
        if isinstance(method, pamqp.commands.Basic.Return):
            self._handle_return(method, body)

    def handle_method(self, method: Method) -> None:
        """Handle any method but ``basic.ack`` and those with content."""
        if isinstance(method, pamqp.commands.Channel.Close):
            self._wire.write(encode_method(self.number, pamqp.commands.Channel.CloseOk()))
            # If both sides close at once, the server still answers our close. The number stays
            # taken until then, or that close-ok would end the next channel that has it.
            if not self._close_sent:
                self._wire.forget(self)
            self._end(channel_closed_by_server(method.reply_code or 0, method.reply_text))
        elif isinstance(method, pamqp.commands.Channel.CloseOk):
            # Its number would be given to another channel while this one still counts on it.
            if not self._close_sent:
                raise BadBytesFromServer("a channel.close-ok that answers no channel.close")
            self._wire.forget(self)
        elif self._error is not None:
            return  # on its way before the server saw our channel.close
        elif isinstance(method, pamqp.commands.Basic.Nack):
            error = ServerSentNack("RabbitMQ did not store the message")
            self.confirms.nack(method.delivery_tag, method.multiple, error)
        elif isinstance(method, pamqp.commands.Basic.Cancel):
            # The consumer's queue is gone: https://www.rabbitmq.com/docs/consumer-cancel. Channels
            # with a consumer have no other use, so the channel ends too.
            self._send_close()
            self._end(NotFound(404, "the queue of the consumer was deleted"))
        elif isinstance(method, pamqp.commands.Channel.Flow):
            self._wire.write(encode_method(self.number, pamqp.commands.Channel.FlowOk(True)))
        elif self._replies:
            self.answered += 1
            future = self._replies.popleft()
            if future is not None and not future.done():
                future.set_result(method)

    def handle_connection_lost(self, error: Exception) -> None:
        """Fail everything: the connection ended."""
        self._end(error)

    def _handle_return(self, method: pamqp.commands.Basic.Return, body: bytes) -> None:
        # RabbitMQ sends a basic.return before the basic.ack for the same message, and returns in
        # publishing order (https://www.rabbitmq.com/docs/publishers#unroutable). It names no
        # delivery tag, so it is for the oldest unconfirmed publish with the same content: of two
        # that are equal in all that the return shows, either may be the one that fails first.
        returned = (method.exchange, method.routing_key, body)
        for tag, published in self._mandatory.items():
            future = self.confirms.get(tag)
            if published == returned and future is not None and not future.done():
                error = MessageReturned(
                    f"RabbitMQ returned the message: {printable(method.reply_text)}"
                )
                self.confirms.refuse(tag, error)
                del self._mandatory[tag]
                return

    def _end(self, reason: Exception | None) -> None:
        if self._error is not None:
            return
        self._error = ChannelClosed("the channel is closed") if reason is None else reason
        replies, self._replies = self._replies, deque()
        for future in replies:
            if future is not None and not future.done():
                future.set_exception(self._error)
        self.confirms.fail_all(self._error)
        if self._on_closed is not None:
            self._on_closed(self, reason)
