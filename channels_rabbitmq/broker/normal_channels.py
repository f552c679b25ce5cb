"""Sends to and receives from the queues of normal channels, beside the process's own queue.

A message is fetched only for a ``receive()`` that waits: there is a consumer with a prefetch
count of 1 exactly as long as somebody waits for the channel. What comes is acknowledged before
anybody gets it, and what was delivered before is dropped, so no message is received twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from functools import partial

import pamqp.commands
from channels.exceptions import ChannelFull, StopConsumer

from ..amqp.channel import Channel
from ..amqp.futures import in_time, retrieve
from ..config.options import Options
from ..errors import (
    CONNECTION_ERRORS,
    ChannelClosed,
    ChannelClosedByServer,
    ConnectionClosed,
    MessageReturned,
    NotConnected,
    NotFound,
    ServerSentNack,
    describe,
)
from ..local.normal_channels import NormalState, queue_name, renewal_interval
from ..log import RateLimitedWarning
from ..wire.messages import CHANNEL_KEY, BadMessage, Message
from ..wire.names import group_key
from ..wire.serializers import Codec
from .normal_queues import NormalQueues
from .on_demand_consumer import OnDemandConsumer
from .recovery import Recovery
from .topology import Topology

logger = logging.getLogger(__name__)

#: Seconds to wait before consuming again a queue that was deleted under its consumer, and one
#: that RabbitMQ lets nobody consume.
_GONE_RETRY = 0.1
_REFUSED_RETRY = 1.0
#: Most seconds for giving messages back when the layer is closed.
_GIVE_BACK_TIMEOUT = 2.0

#: At so many fetchers, those that do not consume are closed: AMQP channels are limited.
_MANY_CONSUMERS = 256


_ENDED = (ConnectionClosed, ChannelClosed)


class NormalChannels:
    """The normal channels of one hub. ``boxes`` outlive it."""

    def __init__(
        self,
        options: Options,
        codec: Codec,
        recovery: Recovery,
        boxes: NormalState,
        on_bad_message: Callable[[bytes, BadMessage], None],
    ) -> None:
        self._options = options
        self._codec = codec
        self._recovery = recovery
        self._boxes = boxes
        self._on_bad_message = on_bad_message
        self._loop = asyncio.get_running_loop()
        #: No call begins any more; what is on its way still counts.
        self._closed = False
        #: Nothing counts any more.
        self._stopped = False
        self._queues = NormalQueues(options, self._loop)
        self._consumers: dict[str, OnDemandConsumer] = {}
        #: Channels whose fetcher is being made.
        self._starting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._keeping_groups = False
        self._warn_refused = RateLimitedWarning(logger)
        self._warn_groups = RateLimitedWarning(logger)

    # The session comes and goes

    def topology_started(self, topology: Topology) -> None:
        """Go on: fetch for those who wait, and bind what is in groups."""
        self._queues.clear()
        self._consumers.clear()
        for name in self._boxes.waited_for:
            self.update(name)
        if self._boxes.groups:
            self._spawn(self._bind_all())
            self._keep_groups()

    def topology_ended(self) -> None:
        """Nothing can be fetched until the next one starts."""
        self._queues.clear()
        self._consumers.clear()

    # Sending

    async def send(self, name: str, body: bytes) -> None:
        """Publish to a channel's queue.

        Raises :class:`channels.exceptions.ChannelFull`,
        :class:`~channels_rabbitmq.errors.NotConnected`, and
        :class:`.ChannelClosedByServer` if RabbitMQ refuses to make the queue.
        """
        self._note_use(name)
        try:
            await in_time(self._send(name, body), self._options.send_timeout)
        except MessageReturned:
            raise NotConnected("the channel's queue is deleted all the time") from None
        except ServerSentNack:
            raise ChannelFull("the channel holds no more messages") from None
        except asyncio.TimeoutError:
            raise NotConnected("RabbitMQ is away") from None
        except _ENDED:
            raise NotConnected("the connection to RabbitMQ ended meanwhile") from None

    async def _send(self, name: str, body: bytes) -> None:
        topology = await self._ready_topology(name)
        queue = queue_name(self._options.prefix, name)
        try:
            await topology.publish_mandatory("", queue, body)
        except MessageReturned:
            # Deleted, or expired after long idleness, so this message was never stored.
            self._queues.forget(name)
            await self._queues.ensure(topology, name)
            await topology.publish_mandatory("", queue, body)

    async def _ready_topology(self, name: str) -> Topology:
        """Wait for a session that takes publishes and has the channel's queue."""
        while True:
            topology = await self._recovery.wait_topology()
            if topology.blocked is not None:
                raise NotConnected(f"RabbitMQ takes no messages: {topology.blocked}")
            await topology.wait_writable()
            try:
                await self._queues.ensure(topology, name)
            except _ENDED:
                await asyncio.shield(topology.ended)
                await asyncio.sleep(0)
                continue
            if topology is self._recovery.topology:
                return topology

    # Receiving

    async def receive(self, name: str) -> Message:
        """Wait for the oldest message of a channel, through outages; cancellation is safe."""
        boxes = self._boxes
        self._note_use(name)
        box = boxes.box(name)
        while not boxes.ready(box, self._loop.time()):
            if self._closed:
                raise StopConsumer("the channel layer is closed")
            waiter: asyncio.Future[None] = self._loop.create_future()
            box.waiters.append(waiter)
            self.update(name)
            try:
                await waiter
            except asyncio.CancelledError:
                box.give_up(waiter)
                raise
            finally:
                self.update(name)
            box = boxes.box(name)
        return boxes.take(box)

    def ready(self, name: str) -> bool:
        """Whether a message is here already."""
        return self._boxes.ready(self._boxes.box(name), self._loop.time())

    def take(self, name: str) -> Message:
        """Give the message of a channel that is ready."""
        return self._boxes.take(self._boxes.box(name))

    def update(self, name: str) -> None:
        """Consume a normal channel while somebody waits, and only then. Of others, do nothing."""
        topology = self._recovery.topology
        if topology is None or self._closed or "!" in name:
            return
        wanted = bool(self._boxes.box(name).waiters)
        if wanted:
            self._note_use(name)
        consumer = self._consumers.get(name)
        if consumer is None:
            if wanted and name not in self._starting:
                self._starting.add(name)
                self._spawn(self._start(topology, name))
        else:
            consumer.want(wanted)

    async def _start(self, topology: Topology, name: str) -> None:
        retry = None
        try:
            await self._queues.ensure(topology, name)
            if topology is self._recovery.topology:
                self._consumers[name] = self._make_consumer(topology, name)
        except _ENDED:
            retry = _REFUSED_RETRY  # unless the next session starts before
        except ChannelClosedByServer as err:
            self._boxes.fail_waiters(err, name)
        finally:
            self._starting.discard(name)
        if retry is None:
            self.update(name)
        else:
            self._later(retry, partial(self.update, name))

    def _make_consumer(self, topology: Topology, name: str) -> OnDemandConsumer:
        if len(self._consumers) >= _MANY_CONSUMERS:
            for idle, consumer in list(self._consumers.items()):
                if consumer.idle:
                    del self._consumers[idle]
                    consumer.amqp_channel.close()
        amqp_channel = topology.connection.protocol.open_channel(
            on_delivery=partial(self._deliver, name),
            on_closed=partial(self._consumer_closed, name),
        )
        return OnDemandConsumer(amqp_channel, queue_name(self._options.prefix, name))

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
            self._later(_GONE_RETRY if gone else _REFUSED_RETRY, partial(self.update, name))

    def _deliver(
        self, name: str, amqp_channel: Channel, tag: int, redelivered: bool, body: bytes
    ) -> None:
        consumer = self._consumers.get(name)
        if consumer is None or self._stopped:
            return
        message = None if redelivered else self._decode(name, body)
        if message is not None:
            waiting = sum(not waiter.done() for waiter in self._boxes.box(name).waiters)
            if waiting <= 1:
                consumer.want(False)  # ahead of the acknowledgement, which would bring the next one
        amqp_channel.ack(tag)
        if message is not None:
            self._boxes.hold(name, message, body, self._loop.time())

    def _decode(self, name: str, body: bytes) -> Message | None:
        codec = self._codec
        try:
            plain = body if codec.decrypt is None else codec.decrypt(body)
            kind, receiver, message = codec.decode(plain)
            if kind == CHANNEL_KEY and receiver != name:
                raise BadMessage("it is for another channel")
        except BadMessage as err:
            self._on_bad_message(body, err)
            return None
        return message

    def take_back(self, name: str, message: Message, body: bytes) -> None:
        """A message that was read for a caller who was cancelled before it got it."""
        self._boxes.put_back(name, message, body, self._loop.time())
        self.update(name)

    # Groups

    async def group_add(self, group: str, name: str) -> None:
        """Bind the channel's queue for a group; return once that is done.

        While RabbitMQ is away it returns after ``send_timeout``, and binds on reconnection.
        """
        self._note_use(name)
        joined = self._boxes.join(group, name)
        self._keep_groups()
        try:
            await in_time(self._bind(group, name), self._options.send_timeout)
        except asyncio.TimeoutError:
            self._warn_groups("Group %s is not bound yet: RabbitMQ is away", group)
        except (asyncio.CancelledError, ChannelClosedByServer):
            if joined:
                self._boxes.leave(group, name)
                topology = self._recovery.topology
                if topology is not None:
                    self._unbind(topology, group, name).add_done_callback(retrieve)
            raise

    async def _bind(self, group: str, name: str) -> None:
        while name in self._boxes.members(group):
            topology = await self._recovery.wait_topology()
            try:
                await self._bind_now(topology, group, name)
                return
            except _ENDED:
                await asyncio.shield(topology.ended)
                await asyncio.sleep(0)

    async def _bind_now(self, topology: Topology, group: str, name: str) -> None:
        await self._queues.ensure(topology, name)
        queue = queue_name(self._options.prefix, name)
        exchange = self._options.groups_exchange
        bind = partial(topology.connection.queue_bind, queue, exchange)
        try:
            await bind(routing_key=group_key(self._options.prefix, group))
        except NotFound:
            self._queues.forget(name)
            await self._queues.ensure(topology, name)
            await bind(routing_key=group_key(self._options.prefix, group))

    async def group_discard(self, group: str, name: str) -> None:
        """Unbind, whichever process did the binding; wait for it, at most ``send_timeout``."""
        self._boxes.leave(group, name)
        try:
            await in_time(self._unbind_later(group, name), self._options.send_timeout)
        except asyncio.TimeoutError:
            self._warn_groups("%s may still be in group %s: RabbitMQ is away", name, group)

    async def _unbind_later(self, group: str, name: str) -> None:
        while True:
            topology = await self._recovery.wait_topology()
            try:
                await self._unbind(topology, group, name)
                return
            except _ENDED:
                await asyncio.shield(topology.ended)
                await asyncio.sleep(0)

    def _unbind(self, topology: Topology, group: str, name: str) -> asyncio.Future[None]:
        return topology.connection.queue_unbind(
            queue_name(self._options.prefix, name),
            self._options.groups_exchange,
            routing_key=group_key(self._options.prefix, group),
        )

    def _keep_groups(self) -> None:
        """Now and then, bind again what is in groups: an idle queue expires, bindings and all."""

        def keep() -> None:
            self._keeping_groups = False
            self._spawn(self._bind_all())
            self._keep_groups()

        if self._boxes.groups and not self._keeping_groups:
            self._keeping_groups = True
            self._later(renewal_interval(self._options), keep)

    async def _bind_all(self) -> None:
        topology = self._recovery.topology
        if topology is None:
            return
        for group, name in self._boxes.memberships:
            try:
                await self._bind_now(topology, group, name)
            except _ENDED:
                return
            except ChannelClosedByServer as err:
                self._warn_groups("Cannot bind %s for group %s: %s", name, group, describe(err))

    # Flush, and the end

    async def flush(self) -> None:
        """Empty all channels that this process used, in memory and on RabbitMQ."""
        names = list(self._boxes.used)
        memberships = self._boxes.clear()
        topology = await self._recovery.wait_topology()
        for group, name in memberships:
            self._unbind(topology, group, name).add_done_callback(retrieve)
        protocol = topology.connection.protocol
        for name in names:
            # A queue that is gone is as good as empty, and its error stays on this AMQP channel.
            amqp_channel = protocol.open_channel()
            try:
                await amqp_channel.call(
                    pamqp.commands.Queue.Purge(queue=queue_name(self._options.prefix, name))
                )
            except NotFound:
                pass  # deleted meanwhile
            finally:
                amqp_channel.close()

    async def close(self) -> None:
        """Fetch no more, and give back what nobody here received."""
        self._closed = True
        self._boxes.fail_waiters(StopConsumer("the channel layer is closed"))
        topology = self._recovery.topology
        if topology is not None and (self._consumers or not self._boxes.unused):
            with contextlib.suppress(asyncio.TimeoutError, *CONNECTION_ERRORS, ServerSentNack):
                await in_time(self._give_back(topology), _GIVE_BACK_TIMEOUT)
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
        for name, delivery in self._boxes.take_all(self._loop.time()):
            await self._queues.ensure(topology, name)
            queue = queue_name(self._options.prefix, name)
            await topology.publish_mandatory("", queue, delivery.body)

    def stop(self) -> None:
        """The loop has ended: touch nothing any more. On any thread."""
        self._closed = self._stopped = True
        for timer in list(self._timers):
            timer.cancel()

    def cancel(self) -> None:
        """Cancel all that is still under way."""
        self._queues.cancel()
        for task in self._tasks:
            task.cancel()

    # Small things

    def _note_use(self, name: str) -> None:
        self._boxes.note_use(name, self._loop.time(), 3 * self._options.expiry + 60)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _later(self, delay: float, callback: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            if not self._closed:
                callback()

        timer = self._loop.call_later(delay, run)
        self._timers.add(timer)
