"""The channel layer of one event loop: what its methods do where the connection lives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator
from functools import partial
from typing import Protocol as Interface

from ..amqp.log import NamedLogger
from ..amqp.protocol import Protocol
from ..broker.earlier_queues import EarlierQueues
from ..broker.groups import Groups
from ..broker.normal_channels import NormalChannels
from ..broker.peers import Peers
from ..broker.recovery import Recovery
from ..broker.topology import Topology
from ..config.options import Options
from ..errors import ConnectionClosed, LoopEnded, NotConnected
from ..local.counts import BAD_MESSAGE, REDELIVERED, TOO_LARGE
from ..local.housekeeping import Housekeeping
from ..local.mailbox import NOWHERE, Delivery, Source
from ..local.queue_names import QueueNames
from ..local.state import LocalState
from ..log import RateLimitedWarning
from ..wire.messages import CHANNEL_KEY, GROUP_KEY, BadMessage, Message
from ..wire.requests import MARK, PROBE
from ..wire.serializers import Codec
from .health import HealthChecks
from .hooks import Hooks, find_event_hook
from .loop_thread import LoopThread
from .portal import Portal

logger = logging.getLogger(__name__)


class Origin(Source, Interface):
    """Where a delivery came from: an AMQP channel, or nowhere."""

    def routing(self) -> tuple[str, str]:
        """The exchange and routing key of the delivery that is being handled."""

    def properties(self) -> bytes:
        """Flags and values of the properties of that delivery."""


class Claim:
    """A membership that a call from another loop asked for, until that loop has heard of it."""

    __slots__ = ("_loop_layer",)

    def __init__(self, loop_layer: LoopLayer) -> None:
        self._loop_layer = loop_layer

    @property
    def given_up(self) -> bool:
        """Whether the loop it was made on owns the layer no more, so that it does not stand."""
        return self._loop_layer.ended


class LoopLayer:
    """What the channel layer does on the loop that owns it. All of it runs there.

    ``local`` outlives it: the next LoopLayer, on another loop, goes on with that. It is made in
    ``thread``, if that is our own. When the loop ends ``on_end`` is called, on any thread, and
    ``on_late`` with what RabbitMQ still delivers here after that.

    :mod:`~channels_rabbitmq.layer.receiving` has the waiting for messages. It listens to its
    :class:`~channels_rabbitmq.broker.recovery.Recovery`.
    """

    def __init__(
        self,
        options: Options,
        codec: Codec,
        names: QueueNames,
        local: LocalState,
        thread: LoopThread | None,
        *,
        on_end: Callable[[LoopLayer], None],
        on_late: Callable[[bytes], None],
    ) -> None:
        self._options = options
        self._codec = codec
        self._decrypt = codec.decrypt
        self._annotate = codec.annotate
        self._decode = codec.decode
        self._names = names
        self.local = local
        self.mailboxes = local.mailboxes
        self._counts = local.counts
        self._counts.events.hook = find_event_hook(options.on_event)
        #: The local channels in a group.
        self._members_of: Callable[[str], Collection[str]] = local.memberships.members
        self.loop = asyncio.get_running_loop()
        #: The thread of the loop; None if that is the user's.
        self.thread = thread
        #: The way to this loop from others.
        self.portal = Portal(self.loop, partial(on_end, self))
        #: Nothing is received here any more: the layer was closed, or ``local`` is another's.
        self.ended = False
        self._on_end = on_end
        self._on_late = on_late
        #: One for each kind of error.
        self._warn_bad_message: dict[type, RateLimitedWarning] = {}
        self._log = NamedLogger(logger, options.connection_name)
        self._warn_oversized = RateLimitedWarning(self._log)
        # First what may raise: recovery runs from the start.
        self._hooks = Hooks(options)
        self.recovery = Recovery(options, names, self, local.counts)
        self._probe_body = self.recovery.probe.body
        self._health = HealthChecks(codec, self.recovery)
        self.normal = NormalChannels(
            options, codec, self.recovery, local, self._warn_bad, self.drop_oversized
        )
        #: Held while a costly message is copied for a reader: one in each turn of the loop.
        self.copying = asyncio.Lock()
        self.housekeeping = Housekeeping(options, local, self.loop)
        self._groups = Groups(options, local, self.recovery, self.loop)
        self.earlier = EarlierQueues(options, names, local, self.recovery, self.loop)
        self._peers = Peers(options, codec, names, self.recovery, local, self._groups, self.normal)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.recovery!r}, {self.mailboxes!r}>"

    # Sending

    def publish(self, exchange: str, routing_key: str, body: bytes) -> Awaitable[None]:
        """Publish once; what this gives is done when RabbitMQ confirmed it.

        It raises what :meth:`.Topology.publish` raises, and
        :class:`~channels_rabbitmq.errors.NotConnected` or :class:`TimeoutError` where there was
        no connection that took it.
        """
        topology = self.recovery.topology
        if topology is not None and topology.usable:
            if routing_key in self._names.away and not exchange:
                return self._publish_when_ready(exchange, routing_key, body)
            published = topology.publish(exchange, routing_key, body)
            if not published.done():
                return published
            # Refused at once: the connection is lost, and nothing was sent. A future that is done
            # does not suspend who awaits it, so a plain loop of sends would never let the event
            # loop find that out. The next topology has it.
            published.exception()
        return self._publish_when_ready(exchange, routing_key, body)

    async def _publish_when_ready(self, exchange: str, routing_key: str, body: bytes) -> None:
        timeout = self._options.send_timeout
        sent = False
        waited: Topology | None = None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    topology = await self.recovery.wait_publishing()
                    if topology.ended.done():
                        await asyncio.sleep(0)  # recovery learns of it in a turn of its own
                    elif topology.blocked is not None:
                        await asyncio.sleep(0)  # or a plain loop of sends never hears of the end
                        raise NotConnected(f"RabbitMQ takes no messages: {topology.blocked}")
                    elif topology.usable:
                        if routing_key in self._names.away and not exchange:
                            await self._wait_back(routing_key, topology)
                            continue
                        if exchange and topology not in (waited, self.recovery.topology):
                            waited = topology
                            await topology.wait_own(routing_key)
                            continue  # it may have ended meanwhile, or be blocked
                        sent = True
                        await topology.publish(exchange, routing_key, body)
                        return
                    else:
                        await topology.wait_writable()
        except TimeoutError:
            if sent:
                raise NotConnected(
                    f"RabbitMQ did not confirm the message within send_timeout ({timeout:g} s)",
                    sent=True,
                ) from None
            live = self.recovery.publishing
            if live is not None and routing_key in self._names.away and not exchange:
                raise NotConnected(
                    f"RabbitMQ did not release queue {routing_key} within send_timeout "
                    f"({timeout:g} s)"
                ) from None
            if live is not None and not live.usable:
                raise NotConnected(
                    f"RabbitMQ did not read from the socket within send_timeout ({timeout:g} s)"
                ) from None
            raise

    async def _wait_back(self, queue_name: str, topology: Topology) -> None:
        """Wait until a queue of the process's is there; what is sent before would be lost."""
        if queue_name != self._names.newest:
            await self.earlier.wait_back(queue_name)
            return
        try:
            await topology.wait_declared()
        except ConnectionClosed:
            await asyncio.sleep(0)  # the next topology declares it

    def send_normal(self, channel: str, body: bytes) -> Awaitable[None]:
        """Publish to the queue of a normal channel."""
        return self.normal.send(channel, body)

    def encode(self, channel: str, message: Message) -> bytes:
        """The body of a message to a channel."""
        return self._codec.encode(CHANNEL_KEY, channel, message, self._options.max_message_size)

    # Groups

    def join(self, group: str, channel: str) -> Awaitable[object] | None:
        """Do what :meth:`group_add` does for a caller on this loop: None if that is done.

        So it is for a channel of this process and a group that is bound.
        """
        queue_name, mark, _ = channel.partition("!")
        if mark and queue_name == self._names.newest:
            return self._groups.join(group, channel)
        return self.group_add(group, channel, self.loop)

    def leave(self, group: str, channel: str) -> Awaitable[None] | None:
        """Do what :meth:`group_discard` does: None if that is done, as for a channel from here."""
        queue_name, mark, _ = channel.partition("!")
        if mark and queue_name == self._names.newest:
            self._groups.discard(group, channel)
            return None
        return self.group_discard(group, channel)

    def group_add(
        self, group: str, channel: str, caller: asyncio.AbstractEventLoop
    ) -> Awaitable[Claim | None]:
        """Add a channel to a group: one of this process, a normal one, or one of another process.

        A result that is not None is a claim, where ``caller`` is another loop: a membership that
        stands only from :meth:`confirm_group_add` on, as this result may cross with a
        cancellation there. Given back to :meth:`undo_group_add`, it leaves nothing behind.
        """
        queue_name, mark, _ = channel.partition("!")
        if mark and queue_name != self._names.newest:
            if not self._names.own(queue_name):
                return self._peers.group_add(queue_name, group, channel)
            self.earlier.note_use(channel)
        if caller is not self.loop:
            return self._claim(group, channel)
        return (self._groups.add if mark else self.normal.group_add)(group, channel)

    async def _claim(self, group: str, channel: str) -> Claim:
        claim = Claim(self)
        await (self._groups.add if "!" in channel else self.normal.group_add)(group, channel, claim)
        return claim

    def confirm_group_add(self, group: str, channel: str) -> None:
        """Establish a membership: the result of :meth:`group_add` arrived on the caller's loop."""
        (self._groups if "!" in channel else self.normal).confirm_add(group, channel)

    def undo_group_add(
        self, group: str, channel: str, caller: asyncio.AbstractEventLoop, claim: Claim | None
    ) -> None:
        """End a claim: whoever called :meth:`group_add` for it was cancelled."""
        if claim is not None:
            (self._groups if "!" in channel else self.normal).undo_add(group, channel, claim)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group, as :meth:`group_add` puts it in."""
        queue_name, mark, _ = channel.partition("!")
        if not mark:
            await self.normal.group_discard(group, channel)
        elif not self._names.own(queue_name):
            await self._peers.group_discard(queue_name, group, channel)
        else:
            self._groups.discard(group, channel)

    def group_members(self, group: str, timeout: float) -> Awaitable[list[str]]:
        """All channels in a group, as far as the processes answer in time."""
        return self._peers.group_members(group, timeout)

    def all_group_members(self, group: str, timeout: float) -> Awaitable[list[str]]:
        """The same; raises :class:`.NotAnswered` if there may be more."""
        return self._peers.all_group_members(group, timeout)

    def bound_members(self, group: str, timeout: float) -> Awaitable[list[str]]:
        """Those that messages of the group reach, as far as the processes answer in time."""
        return self._peers.bound_members(group, timeout)

    def flush(self) -> Awaitable[None]:
        """Empty all channels and groups, of every process."""
        return self._peers.flush()

    def health_check(self, timeout: float) -> Awaitable[bool]:
        """Whether a message to oneself comes back; see :meth:`.HealthChecks.check`."""
        return self._health.check(timeout)

    # What recovery tells

    def deliver(self, source: Origin, tag: int, redelivered: bool, body: bytes) -> None:
        """Put a message into the mailboxes of its receivers."""
        if body == self._probe_body:
            source.ack(tag)
            self.recovery.probe.end()
            return
        if self.ended:
            if not redelivered:
                self._on_late(body)
            return
        if redelivered:
            source.ack(tag)  # at most once
            self._counts.drop_whole(REDELIVERED)
            return
        plain = body
        try:
            if self._decrypt is not None:
                plain = self._decrypt(body)
            if self._annotate is not None:
                plain = self._annotate(plain, source.properties())
            kind, name, message = self._decode(plain)
        except BadMessage as err:
            source.ack(tag)
            self._warn_bad(body, err)
            return
        mailboxes = self.mailboxes
        channels: Collection[str] = (name,)
        if kind == GROUP_KEY:
            channels = self._members_of(name)
            if not channels:
                source.ack(tag)
                if name.startswith(MARK):
                    self._handle_request(source, body, name, message)
                else:
                    self._groups.note_vain(name)
                return
        elif mailboxes.find(name) is None and not self._names.is_channel(name):
            source.ack(tag)
            self._warn_bad(body, BadMessage("it is for a channel that this process cannot have"))
            return
        self._counts.received += 1
        mailboxes.put(Delivery(source, tag, self.loop.time(), plain, message), channels)
        self.housekeeping.message_held()

    def _handle_request(self, source: Origin, body: bytes, name: str, message: Message) -> None:
        """Handle what another process asks, if it came by the way that requests come."""
        exchange, _ = source.routing()
        if name == PROBE and not exchange:
            self._health.arrived(message)
        elif exchange == self._peers.exchange:
            self._peers.handle(name, message)
        elif source is not NOWHERE and name != PROBE:  # a late one is asked again
            self._warn_bad(
                body, BadMessage(f"a request that did not come by {self._peers.exchange}")
            )

    def deliver_late(self, body: bytes) -> None:
        """Take a message that came on the loop that owned the layer before, as that ended."""
        self.deliver(NOWHERE, 0, False, body)

    def drop_oversized(self, source: Origin, tag: int, size: int) -> None:
        """Drop a message that was too large to be collected."""
        self._warn_oversized(
            "Dropped a message of %d bytes: max_message_size allows %d",
            size,
            self._options.max_message_size,
        )
        source.ack(tag)
        self._counts.drop_whole(TOO_LARGE)

    def _warn_bad(self, body: bytes, error: BadMessage) -> None:
        warn = self._warn_bad_message.setdefault(type(error), RateLimitedWarning(self._log))
        why = self._codec.explain(body, error)
        self._counts.drop_whole(BAD_MESSAGE, why)
        warn("Dropped %d bytes that are no message: %s", len(body), why)

    def routing_keys(self) -> Iterator[str]:
        """The routing keys to bind: of every group."""
        yield from self._groups.routing_keys()

    async def topology_starting(self, topology: Topology) -> None:
        """Have other processes find this one, before anybody knows that it is there."""
        await self._peers.topology_starting(topology)

    def topology_started(self, topology: Topology) -> None:
        """Go on with what needs RabbitMQ."""
        self.normal.topology_started(topology)
        self.earlier.topology_started(topology)
        self._hooks.topology_started()

    def topology_ended(self) -> None:
        """Wait for the next one."""
        self.normal.topology_ended()
        self.earlier.topology_ended()
        self._peers.topology_ended()
        self._hooks.topology_ended()

    def recovery_ended(self) -> None:
        """The loop is cancelling all tasks that it has, and recovery's with them."""
        self.retire()
        self._stop_work()
        self._on_end(self)

    # The connection, and the end

    async def protocol(self) -> Protocol:
        """Wait for the open connection, however long."""
        while True:
            topology = await self.recovery.wait_topology(patient=True)
            if not topology.ended.done():
                return topology.protocol
            await asyncio.sleep(0)  # recovery learns of it in a turn of its own

    async def close(self) -> None:
        """Close the connection. May be called again, also at the same time.

        Calls that wait fail with LoopEnded, which the owner, being closed, answers by
        StopConsumer.
        """
        self.ended = True
        self.local.fail_waiters(LoopEnded(started=False))
        self.housekeeping.stop()
        self._groups.stop(LoopEnded(started=False))
        try:
            await self.normal.close()
        except BaseException:
            self.recovery.cancel()  # it cannot be finished here: leave RabbitMQ all the same
            raise
        finally:
            self._peers.cancel()
            self.earlier.cancel()
            self._hooks.cancel()
        await self.recovery.close()

    def retire(self) -> None:
        """Leave ``local`` to another: this loop has ended, or is not to own the layer any more.

        On any thread, while this loop may run or not. So what only it may touch (futures of those
        who wait, tasks) is left to its next turn, should it have one.
        """
        if self.ended:
            return
        self.ended = True
        self._groups.retire()
        self.normal.stop()
        with contextlib.suppress(RuntimeError):  # it is closed, and nobody waits
            self.loop.call_soon_threadsafe(self._stop_work)

    def _stop_work(self) -> None:
        """End what this loop does by itself, and let those who wait here ask the next owner."""
        self.housekeeping.stop()
        self._groups.stop(LoopEnded(started=False))
        self.normal.cancel()
        self._peers.cancel()
        self.earlier.cancel()
        self._hooks.cancel()
        self.recovery.cancel()
        self.local.fail_waiters(LoopEnded(started=False))
