"""What the layer has on one connection: its queue, its bindings, its consumer, its publishes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import pamqp.commands

from ..amqp.channel import Channel, OnDelivery
from ..amqp.frames import Method
from ..amqp.futures import Shared, in_time, retrieve
from ..config.options import Options
from ..connection import Connection
from ..errors import ConnectionClosed, NotConnected, NotFound, PreconditionFailed, ResourceLocked

if TYPE_CHECKING:
    from pamqp.common import Arguments

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

#: Seconds between attempts to declare a queue that the server still keeps for a connection of
#: ours that died: first, and at most.
_LOCKED_RETRY = (0.1, 1.0)
#: Seconds from the start of a session to the first look whether its queue still lives; each next
#: one comes after twice as long, up to the second number.
_VERIFY = (1.0, 30.0)
#: A confirm that is late is noticed within this part of ``send_timeout``, ahead of time.
_WATCH_PART = 20

#: Seconds for each answer while a session starts.
_START_TIMEOUT = 30.0


class Topology:
    """The layer's AMQP objects on one connection, from :meth:`start` until :attr:`ended`.

    Publishes, bindings and deliveries have an AMQP channel each. An error on any of these three
    is an error of the session: it ends, and the link makes another. Never is anything published
    twice.
    """

    def __init__(
        self, connection: Connection, options: Options, queue_name: str, on_delivery: OnDelivery
    ) -> None:
        self.connection = connection
        self._options = options
        self._queue_name = queue_name
        self._protocol = connection.protocol
        self._loop = self._protocol.loop
        #: Done once the session is of no more use; gives why, or None if the user closed it.
        self.ended: asyncio.Future[Exception | None] = self._loop.create_future()
        # Before the first channel: if the connection has just ended, that raises.
        self._watch: asyncio.TimerHandle | None = None
        self._verify_timer: asyncio.TimerHandle | None = None
        self._protocol.closed.add_done_callback(self._connection_closed)
        self._publisher = self._open_channel(confirm=True)
        #: For what may come back. Opened when it is first used.
        self._mandatory_publisher: Channel | None = None
        self._binder = self._open_channel()
        self._consumer = self._open_channel(on_delivery=on_delivery)
        #: The routing keys that are bound, or on the way to it, with RabbitMQ's answer.
        self._bindings: dict[str, Shared[Method]] = {}

    def _open_channel(
        self,
        *,
        confirm: bool = False,
        on_delivery: OnDelivery | None = None,
    ) -> Channel:
        return self._protocol.open_channel(
            confirm=confirm, on_delivery=on_delivery, on_closed=self._channel_closed
        )

    # Beginning and end

    async def start(self, keys: Callable[[], Iterable[str]]) -> None:
        """Declare the exchange and the queue, bind ``keys()``, and consume.

        Raises what :data:`~channels_rabbitmq.errors.CONNECTION_ERRORS` names.
        """
        await self._declare_exchange()
        await self._declare_queue()
        for key in list(keys()):
            self.bind(key)
        # Replies come in order: when this one is there, all bindings are.
        await self._in_time(
            self._binder.call(pamqp.commands.Queue.Declare(queue=self._queue_name, passive=True))
        )
        await self._in_time(
            self._consumer.call(
                pamqp.commands.Basic.Qos(prefetch_count=self._options.local_capacity)
            )
        )
        await self._in_time(
            self._consumer.call(
                pamqp.commands.Basic.Consume(
                    queue=self._queue_name, consumer_tag="channels_rabbitmq", exclusive=True
                )
            )
        )
        self._verify_later(_VERIFY[0])

    async def _in_time(self, answer: asyncio.Future[_T]) -> _T:
        """Wait for an answer; a server that gives none is none to stay with."""
        return await in_time(answer, _START_TIMEOUT)

    async def _declare_exchange(self) -> None:
        """Make the groups exchange as version 4.0.1 does; one that is there is used as it is."""
        name = self._options.groups_exchange
        try:
            await self._in_time(self.connection.exchange_declare(name, passive=True))
        except NotFound:
            # PreconditionFailed: another process was faster, with other properties.
            with contextlib.suppress(PreconditionFailed):
                await self._in_time(self.connection.exchange_declare(name, exchange_type="direct"))

    async def _declare_queue(self) -> None:
        """Make the exclusive queue; wait while the server keeps the last connection's.

        Channel names are in users' hands, so the name cannot change.
        """
        delay, longest = _LOCKED_RETRY
        arguments: Arguments = {
            "x-max-length": self._options.remote_capacity,
            "x-overflow": "reject-publish",
            "x-message-ttl": self._options.expiry_ms,
        }
        while True:
            try:
                await self._in_time(
                    self.connection.queue_declare(
                        self._queue_name, exclusive=True, arguments=arguments
                    )
                )
                return
            except ResourceLocked:
                logger.info("Waiting for RabbitMQ to release queue %s", self._queue_name)
            await asyncio.sleep(delay)
            delay = min(2 * delay, longest)

    def stop(self) -> None:
        """Cancel the timers. The connection is closed by whoever made it."""
        for timer in (self._watch, self._verify_timer):
            if timer is not None:
                timer.cancel()

    def require_live(self) -> None:
        """Raise :class:`.ConnectionClosed` if it has ended."""
        if self.ended.done():
            raise ConnectionClosed("the connection to RabbitMQ ended")

    def _end(self, reason: Exception | None) -> None:
        self.stop()
        if not self.ended.done():
            self.ended.set_result(reason)

    def _connection_closed(self, closed: asyncio.Future[None]) -> None:
        self._end(self._protocol.error)

    def _channel_closed(self, channel: Channel, reason: Exception | None) -> None:
        if isinstance(reason, ConnectionClosed):
            self._end(self._protocol.error)  # that is why, or None if we closed it
        elif reason is not None:
            self._end(reason)

    # Is the queue still there?

    def _verify_later(self, delay: float) -> None:
        self._verify_timer = self._loop.call_later(delay, self._verify, delay)

    def _verify(self, delay: float) -> None:
        """Look whether queue and consumer live: some versions lose them without a word.

        After a quick reconnection RabbitMQ can delete the new queue in place of the old one
        (before 4.1.8 and 4.2.3).
        """
        if self.ended.done():
            return

        def verified(reply: asyncio.Future[Method]) -> None:
            # An error closes the channel, and by that the session.
            if reply.exception() is None:
                declared = reply.result()
                if isinstance(declared, pamqp.commands.Queue.DeclareOk):
                    if declared.consumer_count:
                        self._verify_later(min(2 * delay, _VERIFY[1]))
                    else:
                        self._end(ConnectionClosed("RabbitMQ lost the consumer"))

        self._binder.call(
            pamqp.commands.Queue.Declare(queue=self._queue_name, passive=True)
        ).add_done_callback(verified)

    # Publishing

    @property
    def usable(self) -> bool:
        """Whether a publish would go out at once."""
        return self._protocol.usable

    @property
    def blocked(self) -> str | None:
        """Why RabbitMQ takes no publishes; None while it does."""
        return self._protocol.blocked

    async def wait_writable(self) -> None:
        """Wait until the socket takes more, or the connection ended."""
        await self._protocol.wait_writable()

    def publish(self, exchange: str, routing_key: str, body: bytes) -> asyncio.Future[None]:
        """Publish; the future is done once confirmed, and fails within ``send_timeout``."""
        future = self._publisher.publish(exchange, routing_key, body)
        if self._watch is None:
            self._watch_confirms()
        return future

    def publish_mandatory(
        self, exchange: str, routing_key: str, body: bytes
    ) -> asyncio.Future[None]:
        """Publish what must reach a queue; the future is done once confirmed, however late.

        It fails with :class:`~channels_rabbitmq.errors.MessageReturned` if there was no queue.
        Such publishes have an AMQP channel of their own.
        """
        publisher = self._mandatory_publisher
        if publisher is None:
            publisher = self._mandatory_publisher = self._open_channel(confirm=True)
        return publisher.publish(exchange, routing_key, body, mandatory=True)

    def _watch_confirms(self) -> None:
        interval = self._options.send_timeout / _WATCH_PART
        self._watch = None
        confirms = self._publisher.confirms
        if confirms and not self.ended.done():
            confirms.expire(
                self._loop.time(),
                self._options.send_timeout - 2 * interval,
                NotConnected("RabbitMQ did not confirm the message in time"),
            )
            self._watch = self._loop.call_later(interval, self._watch_confirms)

    # Bindings

    async def purge(self) -> None:
        """Empty the process's queue; once done, nothing of it is on its way either."""
        await self._binder.call(pamqp.commands.Queue.Purge(queue=self._queue_name))
        # What was delivered before the purge comes before this answer.
        await self._consumer.call(
            pamqp.commands.Basic.Qos(prefetch_count=self._options.local_capacity)
        )

    def is_bound(self, routing_key: str) -> bool:
        """Whether RabbitMQ confirmed the binding for a routing key."""
        binding = self._bindings.get(routing_key)
        return binding is not None and binding.done()

    def bind(self, routing_key: str) -> Shared[Method]:
        """Bind the queue for a routing key, once; the answer is for all who ask."""
        binding = self._bindings.get(routing_key)
        if binding is None:
            binding = self._bindings[routing_key] = Shared(
                self._binder.call(
                    pamqp.commands.Queue.Bind(
                        queue=self._queue_name,
                        exchange=self._options.groups_exchange,
                        routing_key=routing_key,
                    )
                )
            )
        return binding

    def unbind(self, routing_key: str) -> None:
        """Take a binding away. An error ends the session."""
        if self._bindings.pop(routing_key, None) is not None:
            self._binder.call(
                pamqp.commands.Queue.Unbind(
                    queue=self._queue_name,
                    exchange=self._options.groups_exchange,
                    routing_key=routing_key,
                )
            ).add_done_callback(retrieve)

    def bind_only(self, keys: Iterable[str]) -> None:
        """Start to bind what is not bound of ``keys``, and to unbind all others."""
        wanted = set(keys)
        for key in self._bindings.keys() - wanted:
            self.unbind(key)
        for key in wanted:
            self.bind(key)
