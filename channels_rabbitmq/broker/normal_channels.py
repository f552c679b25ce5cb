"""Sending to, receiving from, and grouping normal channels: those without ``!`` in their names.

https://channels.readthedocs.io/en/latest/channel_layer_spec.html#channels

A queue is consumed exactly as long as somebody waits for its channel, one message at a time. What
is delivered is acknowledged before anybody gets it, and what was delivered before is dropped, so
no message is received twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import sys
from collections.abc import Callable
from functools import partial

import pamqp.commands
from channels.exceptions import ChannelFull

from ..amqp.channel import Channel, OnOversized
from ..amqp.frames import Method
from ..amqp.futures import retrieve
from ..amqp.log import NamedLogger
from ..config.options import Options
from ..errors import (
    AmqpError,
    ChannelClosed,
    ChannelClosedByServer,
    ConnectionClosed,
    LoopEnded,
    MessageReturned,
    NotConnected,
    NotFound,
    ServerSentNack,
    describe,
)
from ..local.background import Background
from ..local.counts import REDELIVERED
from ..local.state import LocalState
from ..log import RateLimitedWarning
from ..wire.encryption import OutOfPlace
from ..wire.messages import CHANNEL_KEY, BadMessage, Message
from ..wire.names import group_key
from ..wire.serializers import Codec
from .normal_queues import NormalQueues, queue_name, renewal_interval
from .on_demand_consumer import OnDemandConsumer
from .recovery import Recovery
from .topology import LEAST_CHANNELS, Topology

logger = logging.getLogger(__name__)

#: Seconds to wait before consuming again a queue that was deleted under its consumer, and one
#: that RabbitMQ lets nobody consume.
_GONE_RETRY = 0.1
_REFUSED_RETRY = 1.0
#: Seconds for which a refused message is taken to mean that the queue is full, without a look.
_LOOK_AFTER_NACK = 1.0
#: Most seconds for giving messages back when the layer is closed.
_GIVE_BACK_TIMEOUT = 2.0
#: At so many consumers, the idle ones are closed: a connection has few AMQP channels.
_MANY_CONSUMERS = 256

#: How operations fail as the connection ends, or where it has no AMQP channel left.
_ENDED = (ConnectionClosed, ChannelClosed)


class _Phase(enum.Enum):
    """How much of its work a :class:`NormalChannels` still does."""

    #: All of it.
    OPEN = "open"
    #: Nothing more is consumed; what is under way completes.
    CLOSING = "closing"
    #: Deliveries are ignored.
    CLOSED = "closed"


class NormalChannels:
    """The normal channels that one event loop uses. What it holds of them outlives it."""

    def __init__(
        self,
        options: Options,
        codec: Codec,
        recovery: Recovery,
        state: LocalState,
        on_bad_message: Callable[[bytes, BadMessage], None],
        on_oversized: OnOversized,
    ) -> None:
        self._options = options
        self._codec = codec
        self._recovery = recovery
        self._mailboxes = state.normal
        self._counts = state.counts
        self._memberships = state.normal_memberships
        self._on_bad_message = on_bad_message
        self._on_oversized = on_oversized
        self._loop = asyncio.get_running_loop()
        self._phase = _Phase.OPEN
        self._queues = NormalQueues(options, self._loop)
        self._consumers: dict[str, OnDemandConsumer] = {}
        #: Channels whose consumer is being made.
        self._starting: set[str] = set()
        self._background = Background(self._loop, options.connection_name)
        #: Whether a timer runs for binding again what is in groups.
        self._renews_groups = False
        log = NamedLogger(logger, options.connection_name)
        self._warn_refused = RateLimitedWarning(log)
        self._warn_not_bound = RateLimitedWarning(log)
        self._warn_still_bound = RateLimitedWarning(log)
        self._warn_binding_refused = RateLimitedWarning(log)

    # The topology comes and goes

    def topology_started(self, topology: Topology) -> None:
        """Consume for those who wait, and bind what is in groups."""
        for name in self._mailboxes.waited_for:
            self.update(name)
        if self._memberships.groups:
            self._background.spawn(self._bind_all())
            self._renew_groups()

    def topology_ended(self) -> None:
        """Forget what was there: nothing is consumed until the next one starts."""
        self._queues.forget_all()
        self._consumers.clear()

    # Sending

    async def send(self, name: str, body: bytes) -> None:
        """Publish to a channel's queue.

        Raises :class:`channels.exceptions.ChannelFull`,
        :class:`~channels_rabbitmq.errors.NotConnected`, and
        :class:`.ChannelClosedByServer` if RabbitMQ refuses to make the queue.
        """
        self._note_use(name)
        sent = False
        try:
            async with asyncio.timeout(self._options.send_timeout):
                topology = await self._recovery.run(partial(self._prepare_to_publish, name))
                sent = True
                await self._publish(topology, name, body)
        except MessageReturned:
            raise NotConnected(f"the queue of channel {name} is deleted again and again") from None
        except ServerSentNack:
            # The nack is the same where the node is down that has the queue.
            raise ChannelFull(
                f"Channel {name} is full ({self._queues.limit(name)}), or not reached"
            ) from None
        except TimeoutError:
            self._queues.forget(name)  # its node may be down: declaring it tells
            timeout = self._options.send_timeout
            raise NotConnected(
                f"RabbitMQ did not answer within send_timeout ({timeout:g} s)", sent=sent
            ) from None
        except ChannelClosed:
            raise NotConnected("the connection has no free AMQP channel") from None
        except ConnectionClosed:
            raise NotConnected("the connection to RabbitMQ ended meanwhile", sent=sent) from None

    async def _publish(self, topology: Topology, name: str, body: bytes) -> None:
        queue = queue_name(self._options.prefix, name)
        try:
            await topology.publish_mandatory("", queue, body)
        except ServerSentNack as err:
            if not isinstance(err, MessageReturned):
                # It is full, or its node is down.
                await self._queues.ensure(topology, name, _LOOK_AFTER_NACK)
                raise
            # Deleted, or expired after long idleness, so this message was never stored.
            self._queues.forget(name)
            await self._queues.ensure(topology, name)
            await topology.publish_mandatory("", queue, body)

    async def _prepare_to_publish(self, name: str, topology: Topology) -> Topology:
        """Wait until a topology takes publishes and has the channel's queue."""
        if topology.blocked is not None:
            await asyncio.sleep(0)  # or a plain loop of sends never hears of the end
            raise NotConnected(f"RabbitMQ takes no messages: {topology.blocked}")
        await topology.wait_writable()
        await self._queues.ensure(topology, name)
        topology.require_live()  # else the publish would fail, and is not to be repeated
        return topology

    # Receiving

    def ready(self, name: str) -> bool:
        """Whether a message of the channel is held, so that :meth:`take` may be called."""
        return self._mailboxes.ready(self._mailboxes.box(name), self._loop.time())

    def take(self, name: str) -> Message:
        """Give the message of a channel that is ready."""
        return self._mailboxes.take(self._mailboxes.box(name))

    def take_back(self, name: str, message: Message, body: bytes) -> None:
        """Hold a message again whose reader was cancelled before it got it."""
        self._mailboxes.put_back(name, message, body, self._loop.time())
        self.update(name)

    def update(self, name: str) -> None:
        """Consume a normal channel while somebody waits, and only then. Of others, do nothing."""
        topology = self._recovery.topology
        if topology is None or self._phase is not _Phase.OPEN or "!" in name:
            return
        wanted = bool(self._mailboxes.box(name).waiters)
        if wanted:
            self._note_use(name)
        consumer = self._consumers.get(name)
        if consumer is not None:
            consumer.want(wanted)
        elif wanted and name not in self._starting:
            self._starting.add(name)
            self._background.spawn(self._start(topology, name))

    async def _start(self, topology: Topology, name: str) -> None:
        retry = None
        try:
            await self._queues.ensure(topology, name)
            if topology is self._recovery.topology:
                self._consumers[name] = self._make_consumer(topology, name)
        except _ENDED:
            retry = _REFUSED_RETRY  # unless the next topology starts before
        except NotConnected as err:
            self._warn_refused("Cannot receive from %s: %s", name, err)
            retry = _REFUSED_RETRY
        except ChannelClosedByServer as err:
            self._mailboxes.fail_waiters(err, name)
        finally:
            self._starting.discard(name)
        if retry is None:
            self.update(name)
        else:
            self._background.call_later(retry, partial(self.update, name))

    def _make_consumer(self, topology: Topology, name: str) -> OnDemandConsumer:
        most = topology.protocol.channel_max - LEAST_CHANNELS + 1
        if len(self._consumers) >= min(_MANY_CONSUMERS, most):
            for idle, consumer in list(self._consumers.items()):
                if consumer.idle:
                    del self._consumers[idle]
                    consumer.amqp_channel.close()
        if len(self._consumers) >= most:
            raise ChannelClosed("no AMQP channel is free for another consumer")
        amqp_channel = topology.protocol.open_channel(
            on_delivery=partial(self._deliver, name),
            on_closed=partial(self._consumer_closed, name),
            max_body=self._options.max_message_size,
            on_oversized=self._on_oversized,
        )
        queue = queue_name(self._options.prefix, name)
        return OnDemandConsumer(amqp_channel, queue, topology.protocol.consumer_tag)

    def _consumer_closed(self, name: str, amqp_channel: Channel, reason: Exception | None) -> None:
        consumer = self._consumers.get(name)
        if consumer is None or consumer.amqp_channel is not amqp_channel:
            return
        del self._consumers[name]
        self._queues.forget(name)
        if isinstance(reason, ChannelClosedByServer):
            gone = isinstance(reason, NotFound)
            if not gone:
                self._warn_refused("Cannot receive from %s: %s", name, describe(reason))
            retry = _GONE_RETRY if gone else _REFUSED_RETRY
            self._background.call_later(retry, partial(self.update, name))

    def _deliver(
        self, name: str, amqp_channel: Channel, tag: int, redelivered: bool, body: bytes
    ) -> None:
        consumer = self._consumers.get(name)
        if consumer is None or self._phase is _Phase.CLOSED:
            return
        message, bad = None, None
        if not redelivered:
            try:
                message = self._decode(name, amqp_channel, body)
            except BadMessage as err:
                bad = err
        if message is not None:
            waiting = sum(not waiter.done() for waiter in self._mailboxes.box(name).waiters)
            if waiting <= 1:
                # Before the acknowledgement: that would let the next message come, for nobody.
                consumer.want(False)
        # Before anybody has the message: if the process dies here, it is lost, not repeated.
        amqp_channel.ack(tag)
        if redelivered:
            self._counts.drop_whole(REDELIVERED)
        if bad is not None:
            self._on_bad_message(body, bad)
        if message is not None:
            self._counts.received += 1
            self._mailboxes.hold(name, message, body, self._loop.time())

    def _decode(self, name: str, amqp_channel: Channel, body: bytes) -> Message:
        codec = self._codec
        plain = body if codec.decrypt_normal is None else codec.decrypt_normal(body)
        if codec.annotate is not None:
            plain = codec.annotate(plain, amqp_channel.properties())
        kind, receiver, message = codec.decode(plain)
        if kind == CHANNEL_KEY:
            if receiver != name:
                raise BadMessage("it is for another channel")
        elif codec.decrypt_normal is not None:
            self._require_sent_to_group(receiver, amqp_channel)
        return message

    def _require_sent_to_group(self, group: str, amqp_channel: Channel) -> None:
        """Raise unless an encrypted message to a group came by that group's binding.

        Whether the channel is in the group, only RabbitMQ knows. A copy that was published to the
        queue, or to a group that the channel is in, has another route.
        """
        options = self._options
        if amqp_channel.routing() != (options.groups_exchange, group_key(options.prefix, group)):
            raise OutOfPlace("it was encrypted for a group, and sent to something else")

    # Groups

    async def group_add(self, group: str, name: str, claim: object = None) -> None:
        """Bind the channel's queue for a group; return once that is done.

        While RabbitMQ is away it returns after ``send_timeout``, and binds on reconnection. A
        ``claim`` is for calls from other loops, and :class:`~channels_rabbitmq.errors.LoopEnded`
        raised, as in :meth:`.Groups.add`.
        """
        self._note_use(name)
        mine = claim or object()
        self._memberships.claim(group, name, mine, self._loop.time())
        self._renew_groups()
        try:
            async with asyncio.timeout(self._options.send_timeout):
                await self._recovery.run(partial(self._bind_member, group, name))
        except TimeoutError:
            if self._recovery.topology is None:
                self._warn_not_bound("Group %s is not bound yet: RabbitMQ is away", group)
            else:
                self._warn_not_bound("Group %s is not bound yet: RabbitMQ is slow", group)
        except NotConnected as err:
            self._warn_binding_refused("Cannot bind %s for group %s: %s", name, group, err)
        except BaseException:  # cancelled, or refused by RabbitMQ
            self.undo_add(group, name, mine)
            raise
        if self._phase is _Phase.CLOSED:
            raise LoopEnded(started=False)  # the claim is given up: see stop()
        if claim is None and name in self._memberships.members(group):
            self._memberships.establish(group, name, self._loop.time())

    def confirm_add(self, group: str, name: str) -> None:
        """Establish a membership, as the call that claimed it has returned."""
        self._memberships.establish(group, name, self._loop.time())
        self._renew_groups()

    def undo_add(self, group: str, name: str, claim: object) -> None:
        """End a claim, as the call that made it was cancelled or failed."""
        topology = self._recovery.topology
        if self._memberships.withdraw(group, name, claim) and topology is not None:
            self._unbind(group, name, topology).add_done_callback(retrieve)

    async def group_discard(self, group: str, name: str) -> None:
        """Unbind, whichever process did the binding; wait for it, at most ``send_timeout``."""
        self._memberships.leave(group, name)
        try:
            async with asyncio.timeout(self._options.send_timeout):
                await self._recovery.run(partial(self._unbind, group, name))
        except TimeoutError:
            self._warn_still_bound(
                "%s may still be in group %s: RabbitMQ did not answer", name, group
            )

    async def _bind_member(self, group: str, name: str, topology: Topology) -> None:
        if name not in self._memberships.members(group):
            return  # it left meanwhile
        await self._queues.ensure(topology, name)
        try:
            await self._bind(group, name, topology)
        except NotFound:
            self._queues.forget(name)
            await self._queues.ensure(topology, name)
            await self._bind(group, name, topology)

    def _bind(self, group: str, name: str, topology: Topology) -> asyncio.Future[Method]:
        return topology.calls.run(
            pamqp.commands.Queue.Bind(
                queue=queue_name(self._options.prefix, name),
                exchange=self._options.groups_exchange,
                routing_key=group_key(self._options.prefix, group),
            )
        )

    def _unbind(self, group: str, name: str, topology: Topology) -> asyncio.Future[Method]:
        return topology.calls.run(
            pamqp.commands.Queue.Unbind(
                queue=queue_name(self._options.prefix, name),
                exchange=self._options.groups_exchange,
                routing_key=group_key(self._options.prefix, group),
            )
        )

    def _renew_groups(self) -> None:
        """Bind again, now and then, what is in groups: an idle queue expires with its bindings."""
        if self._memberships.groups and not self._renews_groups:
            self._renews_groups = True
            self._background.call_later(renewal_interval(self._options), self._renew_now)

    def _renew_now(self) -> None:
        self._renews_groups = False
        self._background.spawn(self._bind_all())
        self._renew_groups()

    async def _bind_all(self) -> None:
        topology = self._recovery.topology
        if topology is None:
            return  # the next one begins with this
        for group, name in self._memberships.pairs:
            try:
                await self._bind_member(group, name, topology)
            except _ENDED:
                return
            except (ChannelClosedByServer, NotConnected) as err:
                self._warn_binding_refused(
                    "Cannot bind %s for group %s: %s", name, group, describe(err)
                )

    # Flush, and the end

    async def flush(self, topology: Topology) -> None:
        """Empty all channels that this process used, in memory and on RabbitMQ."""
        self._mailboxes.clear()
        pairs = self._memberships.pairs
        unbinding = [self._unbind(group, name, topology) for group, name in pairs]
        await asyncio.gather(*unbinding, return_exceptions=True)
        topology.require_live()  # else the next one begins with what is still in groups
        for group, name in pairs:
            self._memberships.leave(group, name)
        for name in list(self._mailboxes.used):
            purge = pamqp.commands.Queue.Purge(queue=queue_name(self._options.prefix, name))
            with contextlib.suppress(NotFound):  # deleted meanwhile: as good as empty
                await topology.calls.run(purge)

    async def close(self) -> None:
        """Consume no more, and give back what nobody here received: nobody waits any more."""
        self._phase = _Phase.CLOSING
        topology = self._recovery.topology
        if topology is not None and (self._consumers or not self._mailboxes.unused):
            with contextlib.suppress(TimeoutError, AmqpError, NotConnected):
                async with asyncio.timeout(_GIVE_BACK_TIMEOUT):
                    await self._give_back(topology)
        self.stop()
        self.cancel()

    async def _give_back(self, topology: Topology) -> None:
        """Publish what is held again, to the end of its queue; a requeued one would be dropped."""
        for consumer in self._consumers.values():
            consumer.want(False)
        for consumer in list(self._consumers.values()):
            await consumer.stopped()
        if topology.blocked is not None:
            return
        for name, delivery in self._mailboxes.take_all(self._loop.time()):
            await self._queues.ensure(topology, name)
            queue = queue_name(self._options.prefix, name)
            body = delivery.body
            if self._codec.decrypt_normal is not None and delivery.message is not None:
                # What was sent to a group is refused where it comes by another way.
                body = self._codec.encode(CHANNEL_KEY, name, delivery.message, sys.maxsize)
            with contextlib.suppress(ServerSentNack):  # full, which others need not be
                await topology.publish_mandatory("", queue, body)

    def stop(self) -> None:
        """Touch nothing any more: it is over here, or another loop takes over. On any thread."""
        self._phase = _Phase.CLOSED
        self._memberships.give_up()

    def cancel(self) -> None:
        """Cancel all tasks and timers."""
        self._background.cancel()

    def _note_use(self, name: str) -> None:
        self._mailboxes.note_use(name, self._loop.time(), 3 * self._options.expiry + 60)
