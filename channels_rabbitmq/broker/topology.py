"""What the layer has on one connection: its exchange, queue, bindings, consumer and publishers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

import pamqp.commands

from ..amqp.acknowledgements import PublisherConfirms
from ..amqp.calls import Calls
from ..amqp.channel import NO_LIMIT, Channel, OnDelivery, OnOversized
from ..amqp.counts import PublishCounts
from ..amqp.frames import NO_PROPERTIES, Method
from ..amqp.futures import retrieve
from ..amqp.headers import PropertiesBody
from ..amqp.log import NamedLogger
from ..amqp.protocol import Protocol
from ..config.options import Options
from ..errors import (
    ChannelClosed,
    ChannelClosedByServer,
    ConnectionClosed,
    MessageReturned,
    NotConnected,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
    describe,
)
from ..local.background import Background
from ..local.pace import Pace
from ..local.queue_names import QueueNames
from .bindings import Bindings
from .probe import Probe

logger = logging.getLogger(__name__)

#: Seconds between attempts to declare a queue that the server still keeps for a connection of
#: ours that died: first, and at most.
_LOCKED_RETRY = (0.1, 0.25)
#: Seconds of such attempts, after which the process takes a queue of another name.
_LOCKED_PATIENCE = 1.0
#: Seconds from the start to the first look whether the queue still lives; each next one comes
#: after twice as long, up to the second number.
_VERIFY = (1.0, 20.0)
#: Seconds between looks whether a probe has arrived.
_PROBE_LOOK = 1.0
#: Late confirms are looked for every ``send_timeout / 20`` seconds, so that ``send()`` fails
#: before ``send_timeout``.
_WATCH_PART = 20

#: Seconds for RabbitMQ to answer a look after the queue, or one of the calls before it.
_LOOK_TIMEOUT = 30.0
#: After so many times ``send_timeout`` without a confirm for anything, and at least so many
#: seconds, the connection is given up; after once, if a call that every node can answer by itself
#: brings nothing at all.
_SILENT_TIMEOUTS = 3
_LEAST_SILENCE = 5.0

#: Seconds for each answer of RabbitMQ while a topology starts.
_START_TIMEOUT = 30.0
#: Most seconds that a start waits for the bindings, and a publish for that of its group if that
#: has local members: what is sent as soon as RabbitMQ is back then reaches these too, and neither a
#: locked queue nor ten thousands of groups hold anybody up.
_BINDING_PATIENCE = 1.0

#: Acknowledgements wait for each other up to this part of the window and up to so many, and none
#: while half of the window is held: it must not close for them.
_ACK_PART = 8
_MOST_ACKS = 64

#: The AMQP channels that a connection must have: for publishing in two ways, for bindings, for
#: deliveries, and one each for calls, for a normal channel's consumer and for users' publishes.
LEAST_CHANNELS = 7
#: AMQP channels that users cannot take, where there are more than the least: for what the layer
#: opens later, or again, such as the channels of its calls.
_RESERVED_CHANNELS = 4


class Topology:
    """The layer's AMQP objects on one connection, from :meth:`start` until :attr:`ended`.

    Publishes, bindings and deliveries have an AMQP channel each, as AMQP keeps order per channel.
    An error on any of them ends the topology: there is no mending of parts, and
    :class:`~.recovery.Recovery` makes another on a new connection. The one exception is a message
    that is too large for RabbitMQ, which must not cost others the connection: it costs the AMQP
    channel for publishing, which is replaced. Nothing is published twice.
    """

    def __init__(
        self,
        protocol: Protocol,
        options: Options,
        names: QueueNames,
        on_delivery: OnDelivery,
        on_oversized: OnOversized,
        probe: Probe | None = None,
        counts: PublishCounts | None = None,
        pace: Pace | None = None,
    ) -> None:
        if protocol.channel_max < LEAST_CHANNELS:
            raise ChannelClosed(
                f"channel_max {protocol.channel_max} allows too few AMQP channels: a connection of "
                f"the layer needs {LEAST_CHANNELS}"
            )
        self.protocol = protocol
        protocol.reserved = min(_RESERVED_CHANNELS, protocol.channel_max - LEAST_CHANNELS)
        #: For what concerns other queues than the process's own: an error stays with its call.
        self.calls = Calls(protocol)
        self._options = options
        self._log = NamedLogger(logger, options.connection_name)
        self._names = names
        #: What is sent through the groups exchange to hear whether anything comes. None where the
        #: user may not publish there.
        self._probe = probe
        #: Deliveries per connection are counted, so a probe of the last one is of no use.
        if probe is not None:
            probe.end()
        #: The newest of them, and the one that groups are bound to, from the start on.
        self._queue_name = names.newest
        #: The queues of earlier names that are consumed, too, with the tags of their consumers.
        self._earlier: dict[str, str] = {}
        #: The number of consumers so far, which tells their tags apart.
        self._consumers = 1
        self._loop = protocol.loop
        #: Done once the topology is of no more use; gives why, or None if the user closed it.
        self.ended: asyncio.Future[Exception | None] = self._loop.create_future()
        self._timers = Background(self._loop, options.connection_name)
        #: Whether a timer runs for late confirms.
        self._watches_confirms = False
        #: How many bytes the server had sent, at the last look for late confirms.
        self._received = 0
        #: Whether a timer runs for the answer to a ping.
        self._pinging = False
        #: The largest message that RabbitMQ takes, once it has refused a larger one.
        self._max_body = NO_LIMIT
        #: Of what users send.
        self._counts = PublishCounts() if counts is None else counts
        self._publisher = self._open_publisher()
        #: For what may come back. Opened when it is first used.
        self._mandatory_publisher: Channel | None = None
        #: For what the process sends to itself. Opened when it is first used.
        self._own_publisher: Channel | None = None
        self._binder = self._open_channel()
        self._consumer = self._open_channel(
            on_delivery=on_delivery,
            max_body=options.max_message_size,
            on_oversized=on_oversized,
            ack_batch=max(1, min(options.local_capacity // _ACK_PART, _MOST_ACKS)),
        )
        #: When publishing began.
        self._opened_at = 0.0
        #: Set once the process's queue is declared, or will not be.
        self._declared = asyncio.Event()
        #: The bindings of the process's queue.
        self.bindings = Bindings(
            protocol,
            options.groups_exchange,
            self._binder,
            lambda: protocol.open_channel(on_closed=self._binding_channel_closed),
            pace or Pace(),
            self._bindings_silent,
            _LOOK_TIMEOUT,
        )

    def __repr__(self) -> str:
        state = "ended" if self.ended.done() else "live"
        return f"<Topology {self._queue_name} {state}, {len(self.bindings)} bindings>"

    def _open_publisher(self) -> Channel:
        return self.protocol.open_channel(
            confirm=True, on_closed=self._channel_closed, counts=self._counts
        )

    def _open_channel(
        self,
        *,
        on_delivery: OnDelivery | None = None,
        max_body: int = NO_LIMIT,
        on_oversized: OnOversized | None = None,
        ack_batch: int = 1,
    ) -> Channel:
        return self.protocol.open_channel(
            on_delivery=on_delivery,
            on_closed=self._channel_closed,
            max_body=max_body,
            on_oversized=on_oversized,
            ack_batch=ack_batch,
        )

    # Beginning and end

    async def open(self, routing_keys: Iterable[str]) -> None:
        """Declare the exchange: then publishes can go out, whatever becomes of the queue.

        The queue will be bound for ``routing_keys``.

        Whatever it raises, the connection is of no use to the layer then.
        """
        # What is sent to the process's own queue before that is declared would be lost.
        self._names.lose_all()
        self._names.away.add(self._queue_name)
        await self._declare_exchange()
        self._opened_at = self._loop.time()
        await self.bindings.bind_all(routing_keys)

    async def start(self) -> None:
        """Declare the queue, consume it, and begin to bind, after :meth:`open`.

        It waits a short while for the bindings, and no longer: they may take minutes, in which the
        process receives what is bound already, and sends. Bindings that come to a stand end the
        topology.

        Whatever it raises, the connection is of no use to the layer then.
        """
        await self._declare_queue()
        self._names.away.discard(self._queue_name)
        self._declared.set()
        prefetched = self._consumer.call(self._prefetch())
        consume = pamqp.commands.Basic.Consume(
            queue=self._queue_name, consumer_tag=self.protocol.consumer_tag, exclusive=True
        )
        consumes = self._consumer.call(consume)
        consumes.add_done_callback(retrieve)  # the first that fails is enough to know
        if self._probe is not None:
            exchange = self._options.groups_exchange
            probed = self._binder.bind(self._queue_name, exchange, [self._probe.routing_key])
            probed.add_done_callback(retrieve)
        self.bindings.open(self._queue_name)
        await self._answer(prefetched)
        await self._answer(consumes)
        await self.bindings.wait_settled(_BINDING_PATIENCE)
        self._verify_later(_VERIFY[0])

    async def _declare_exchange(self) -> None:
        """Declare the groups exchange as version 4.0.1 does; use one that is there as it is."""
        name = self._options.groups_exchange
        look = pamqp.commands.Exchange.Declare(exchange=name, exchange_type="direct", passive=True)
        try:
            await self._answer(self.calls.run(look))
        except NotFound:
            declare = pamqp.commands.Exchange.Declare(exchange=name, exchange_type="direct")
            # PreconditionFailed: another process was faster, with other properties.
            with contextlib.suppress(PreconditionFailed):
                await self._answer(self.calls.run(declare))

    async def _declare_queue(self) -> None:
        """Declare the exclusive queue; wait while RabbitMQ keeps that of the last connection.

        Channel names are in users' hands, so the queue's name stays the same. But not for ever:
        in a cluster the name may be locked until the node that was lost is back.
        """
        delay, longest = _LOCKED_RETRY
        due = self._loop.time() + _LOCKED_PATIENCE
        while True:
            try:
                await self._answer(self.calls.run(self._declaration(self._queue_name)))
                return
            except ResourceLocked:
                if self._loop.time() >= due:
                    break
                self._log.info("Waiting for RabbitMQ to release queue %s", self._queue_name)
            await asyncio.sleep(delay)
            delay = min(2 * delay, longest)
        locked = self._queue_name
        self._queue_name = self._names.take_another(self._loop.time())
        self._log.info("RabbitMQ keeps queue %s locked; using %s too", locked, self._queue_name)
        await self._answer(self.calls.run(self._declaration(self._queue_name)))

    def _declaration(self, queue_name: str) -> Method:
        """Make the method that declares an exclusive queue of the process."""
        return pamqp.commands.Queue.Declare(
            queue=queue_name,
            exclusive=True,
            arguments={
                "x-max-length": self._options.remote_capacity,
                "x-overflow": "reject-publish",
                "x-message-ttl": self._options.expiry_ms,
            },
        )

    async def _answer(self, answer: asyncio.Future[Method]) -> Method:
        """Wait for an answer, at most :data:`_START_TIMEOUT` seconds."""
        async with asyncio.timeout(_START_TIMEOUT):
            return await answer

    def _look(self) -> Method:
        """Make the method that asks for the queue and its consumers."""
        return pamqp.commands.Queue.Declare(queue=self._queue_name, passive=True)

    def _prefetch(self) -> Method:
        """Make the method that sets the window of unacknowledged deliveries."""
        return pamqp.commands.Basic.Qos(prefetch_count=self._options.local_capacity)

    async def wait_declared(self) -> None:
        """Wait until the process's queue is declared; raise :class:`.ConnectionClosed` if it ended.

        Another name may be that of the queue by then.
        """
        await self._declared.wait()
        self.require_live()

    async def wait_own(self, routing_key: str) -> None:
        """Wait until the process hears of a group, if it is to, as what is sent now is lost to it.

        But no longer than :data:`_BINDING_PATIENCE` since publishing began, and never more than
        once: other processes wait for the message.
        """
        if self.bindings.is_wanted(routing_key) and not self.bindings.is_bound(routing_key):
            left = self._opened_at + _BINDING_PATIENCE - self._loop.time()
            if left > 0:
                bound = self.bindings.join(routing_key)
                bound.add_done_callback(retrieve)
                await asyncio.wait({bound}, timeout=left)
                bound.cancel()

    def require_live(self) -> None:
        """Raise :class:`.ConnectionClosed` if it has ended."""
        if self.ended.done():
            raise ConnectionClosed("the connection to RabbitMQ ended")

    def _channel_closed(self, channel: Channel, reason: Exception | None) -> None:
        if not isinstance(reason, ConnectionClosed):
            if not self._replace_publisher(channel, reason):
                self._end(reason)
        elif channel is self._publisher:
            # All channels end with their connection, and this one stands for all. The reason is
            # the connection's own error, or None if it was closed on our side.
            self._end(self.protocol.error)

    def _binding_channel_closed(self, channel: Channel, reason: Exception | None) -> None:
        """Handle the end of a channel that was opened for a burst of bindings."""
        if reason is not None:
            self._channel_closed(channel, reason)

    def _bindings_silent(self) -> None:
        self._end(ConnectionClosed(f"RabbitMQ did not answer for {_LOOK_TIMEOUT:g} s"))

    def _replace_publisher(self, channel: Channel, reason: Exception | None) -> bool:
        """Publish on another channel, if this one was closed over the size of a message.

        What was under way on it failed, and is not published again.
        """
        limit = reason.max_message_size if isinstance(reason, PreconditionFailed) else None
        if limit is None or not self.protocol.open:
            return False
        if channel is self._publisher:
            self._publisher = self._open_publisher()
        elif channel is self._mandatory_publisher:
            self._mandatory_publisher = None
        else:
            return False
        self._max_body = min(self._max_body, limit)
        self._log.warning(
            "RabbitMQ refused a message: its max_message_size is %d; that of the layer is %d",
            limit,
            self._options.max_message_size,
        )
        return True

    def _end(self, reason: Exception | None) -> None:
        self._timers.cancel()
        self.bindings.end(reason)
        self._declared.set()
        if not self.ended.done():  # errors on two channels may come at once
            self.ended.set_result(reason)

    # Is the queue still there?

    def _verify_later(self, delay: float) -> None:
        self._timers.call_later(delay, lambda: self._verify(delay))

    def _verify(self, delay: float) -> None:
        """Look whether queue and consumer are still there.

        After a quick reconnection RabbitMQ can delete the new queue in place of the old one, and
        does not tell its consumer (before 4.1.8 and 4.2.3).
        """

        def verified(answer: asyncio.Future[Method]) -> None:
            if answer.exception() is not None:
                return  # an error closes the AMQP channel, and so ends the topology
            declared = answer.result()
            if isinstance(declared, pamqp.commands.Queue.DeclareOk):
                if declared.consumer_count:
                    self._send_probe()
                    self._verify_later(min(2 * delay, _VERIFY[1]))
                else:
                    self._end(ConnectionClosed("RabbitMQ lost the consumer"))

        answer = self._binder.call(self._look())
        answer.add_done_callback(verified)
        self._expect(answer)
        self._ping()

    def _send_probe(self) -> None:
        """Publish a message to oneself: a group's messages come only while the exchange is there.

        Each has an AMQP channel of its own, as a missing exchange, or a missing permission, closes
        it. A nack is a sign of life: the message was routed to the queue, which is full.
        """
        probe = self._probe
        if probe is None or probe.under_way or not self.usable:
            return
        try:
            publisher = self.protocol.open_channel(confirm=True)
        except ConnectionClosed:
            return
        except ChannelClosed:
            return  # users need all of them; perhaps there is one the next time

        def published(answer: asyncio.Future[None]) -> None:
            error = answer.exception()
            publisher.close()
            if self.ended.done():
                return
            if error is None:
                probe.confirm(self._loop.time(), self._consumer.delivered)
                self._timers.call_later(_PROBE_LOOK, self._look_for_probe)
                return
            probe.end()
            if isinstance(error, (MessageReturned, NotFound)):
                self._end(ConnectionClosed(f"no group's messages arrive: {describe(error)}"))
            elif isinstance(error, ChannelClosedByServer):
                self._probe = None  # a user who may not publish to groups

        probe.send()
        answer = publisher.publish(
            self._options.groups_exchange, probe.routing_key, probe.body, mandatory=True
        )
        answer.add_done_callback(published)

    def _look_for_probe(self) -> None:
        probe = self._probe
        if probe is None or not probe.under_way:
            return
        if self._earlier:
            probe.end()  # deliveries from several queues tell nothing of one
            return
        if probe.is_lost(self._loop.time(), self._consumer.delivered, full=self.window_full):
            self._end(ConnectionClosed("no group's messages arrive: a message to oneself was lost"))
        else:
            self._timers.call_later(_PROBE_LOOK, self._look_for_probe)

    def _expect(self, answer: asyncio.Future[Method]) -> None:
        """End unless the look after the queue is answered, or what was called before it.

        A broker may hang and still send heartbeats. One with an alarm reads nothing, and cannot
        answer.
        """
        answered = self._binder.answered

        def look() -> None:
            if answer.done():
                return
            if self.blocked is None and self._binder.answered == answered:
                self._give_up(f"RabbitMQ did not answer for {_LOOK_TIMEOUT:g} s")
            else:
                self._expect(answer)

        self._timers.call_later(_LOOK_TIMEOUT, look)

    def _ping(self) -> None:
        """End unless RabbitMQ sends anything, as it should at once: one that stands still does not.

        Bindings, and confirms of messages to other nodes' queues, may wait for a node that is lost.
        To set the window again needs none but this one. What is large may take its time on the way
        there: while the socket takes no more, silence says nothing.
        """
        if self._pinging:
            return
        self._pinging = True
        received = self.protocol.received
        longest = max(self._options.send_timeout, _LEAST_SILENCE)

        def listen() -> None:
            self._pinging = False
            if self.usable and self.protocol.received == received:
                self._give_up(f"RabbitMQ sent nothing for {longest:g} s")

        self._consumer.call(self._prefetch()).add_done_callback(retrieve)
        self._timers.call_later(longest, listen)

    def _give_up(self, why: str) -> None:
        """End, as RabbitMQ hangs: closing the connection in good order would take time."""
        error = ConnectionClosed(why)
        self._end(error)
        self.protocol.reset(error)

    # Publishing

    @property
    def usable(self) -> bool:
        """Whether a publish would go out at once."""
        return self.protocol.usable

    @property
    def blocked(self) -> str | None:
        """Why RabbitMQ takes no publishes; None while it does."""
        return self.protocol.blocked

    async def wait_writable(self) -> None:
        """Wait until the socket takes more, or the connection ended."""
        await self.protocol.wait_writable()

    def publish(self, exchange: str, routing_key: str, body: bytes) -> asyncio.Future[None]:
        """Publish; the future is done once confirmed, and fails within ``send_timeout``.

        It fails with :class:`.PreconditionFailed` for a body that is larger than RabbitMQ takes,
        or if such a one was under way at the same time.
        """
        if len(body) > self._max_body:
            return self._refuse_size(body)
        properties = body.properties if isinstance(body, PropertiesBody) else NO_PROPERTIES
        future = self._publisher.publish(exchange, routing_key, body, properties=properties)
        if not self._watches_confirms:
            self._watch_confirms()
        return future

    def publish_mandatory(
        self, exchange: str, routing_key: str, body: bytes
    ) -> asyncio.Future[None]:
        """Publish what must reach a queue; the future is done once confirmed, however late.

        It fails with :class:`.MessageReturned` if there was no queue. These publishes have an AMQP
        channel of their own, so that a late confirm holds up no other.
        """
        if len(body) > self._max_body:
            return self._refuse_size(body)
        publisher = self._mandatory_publisher
        if publisher is None:
            publisher = self._mandatory_publisher = self._open_publisher()
        properties = body.properties if isinstance(body, PropertiesBody) else NO_PROPERTIES
        return publisher.publish(exchange, routing_key, body, mandatory=True, properties=properties)

    def publish_to_itself(self, body: bytes) -> asyncio.Future[None]:
        """Publish to the process's own queue, apart from what users send, and not counted.

        It fails as :meth:`publish_mandatory`. Where no AMQP channel is free, it goes along with
        what users send. Raises :class:`.ConnectionClosed`.
        """
        publisher = self._own_publisher
        if publisher is None or not publisher.open:
            try:
                publisher = self._own_publisher = self.protocol.open_channel(confirm=True)
            except ChannelClosed:
                publisher = self._publisher
        return publisher.publish("", self._queue_name, body, mandatory=True)

    @property
    def delivered(self) -> int:
        """How many messages were delivered from the process's queue."""
        return self._consumer.delivered

    @property
    def window_full(self) -> bool:
        """Whether RabbitMQ delivers no more until something is acknowledged."""
        return self._consumer.unacknowledged >= self._options.local_capacity

    def _refuse_size(self, body: bytes) -> asyncio.Future[None]:
        """Fail as RabbitMQ would let it fail, without costing an AMQP channel."""
        future: asyncio.Future[None] = self._loop.create_future()
        text = f"message size {len(body)} is larger than RabbitMQ's max size {self._max_body}"
        future.set_exception(PreconditionFailed(406, text))
        return future

    def _watch_confirms(self) -> None:
        """Fail publishes that are not confirmed in time, with one timer for all of them."""
        interval = self._options.send_timeout / _WATCH_PART
        confirms = self._publisher.confirms
        if self.blocked is not None:
            confirms.unanswered_since = None  # it cannot confirm what it does not read
        waiting = bool(confirms) or confirms.unanswered_since is not None
        self._watches_confirms = waiting and not self.ended.done()
        if self._watches_confirms:
            timeout = self._options.send_timeout
            confirms.expire(
                self._loop.time(),
                timeout - 2 * interval,
                NotConnected(
                    f"RabbitMQ did not confirm the message within send_timeout ({timeout:g} s)",
                    sent=True,
                ),
            )
            self._require_confirms(confirms)
            self._timers.call_later(interval, self._watch_confirms)

    def _require_confirms(self, confirms: PublisherConfirms) -> None:
        """End if RabbitMQ has confirmed nothing for long, though it was asked to."""
        if self.protocol.received == self._received:
            self._ping()
        self._received = self.protocol.received
        longest = max(_SILENT_TIMEOUTS * self._options.send_timeout, _LEAST_SILENCE)
        since = confirms.unanswered_since
        if since is not None and self._loop.time() - since >= longest:
            self._give_up(f"RabbitMQ confirmed nothing for {longest:g} s")

    # The process's queues

    async def purge(self) -> None:
        """Purge the process's queue; once done, nothing of it is on its way either."""
        for queue_name in [self._queue_name, *self._earlier]:
            await self._binder.call(pamqp.commands.Queue.Purge(queue=queue_name))
        # What was delivered before the purge comes before this answer.
        await self._consumer.call(self._prefetch())

    async def consume_earlier(self, queue_name: str) -> None:
        """Declare a queue of an earlier name, and consume it unless that is done.

        May be called again, to see that it is still there. Raises :class:`.ResourceLocked`.
        """
        declared = await self._answer(self.calls.run(self._declaration(queue_name)))
        if isinstance(declared, pamqp.commands.Queue.DeclareOk) and not declared.consumer_count:
            self._consumers += 1
            tag = self._earlier[queue_name] = f"{self.protocol.consumer_tag}.{self._consumers}"
            consume = pamqp.commands.Basic.Consume(
                queue=queue_name, consumer_tag=tag, exclusive=True
            )
            await self._answer(self._consumer.call(consume))

    async def delete_earlier(self, queue_name: str) -> None:
        """Delete a queue that :meth:`consume_earlier` made, with its consumer."""
        # The consumer first: if RabbitMQ cancelled it, that would be the loss of the queue.
        cancel = pamqp.commands.Basic.Cancel(consumer_tag=self._earlier.pop(queue_name))
        await self._answer(self._consumer.call(cancel))
        await self._answer(self.calls.run(pamqp.commands.Queue.Delete(queue=queue_name)))
