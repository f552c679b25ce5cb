"""Joins the mailboxes to the link, on one event loop: the layer's methods as seen from there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import NoReturn, TypeVar

from channels.exceptions import ChannelFull, StopConsumer

from ..amqp.futures import in_time
from ..amqp.protocol import Protocol
from ..broker.groups import Groups
from ..broker.normal_channels import NormalChannels
from ..broker.peers import MARK, Peers, control_key
from ..broker.recovery import Recovery
from ..broker.topology import Topology
from ..config.options import Options
from ..errors import (
    ChannelClosed,
    ChannelClosedByServer,
    ConnectionClosed,
    LoopEnded,
    NotConnected,
    ServerSentNack,
)
from ..local.housekeeping import Housekeeping
from ..local.mailboxes import NOWHERE, Delivery, Mailbox, Source
from ..local.state import LocalState
from ..log import RateLimitedWarning
from ..wire.messages import CHANNEL_KEY, GROUP_KEY, BadMessage, Message
from ..wire.names import group_key, is_channel_of
from ..wire.serializers import Codec
from .hooks import Hooks

logger = logging.getLogger(__name__)

#: Seconds in which RabbitMQ may send a message to who does not want to wait for one.
_FETCH_TIME = 0.1

#: How publishing fails, in :meth:`LoopLayer.sending`.
PUBLISH_ERRORS = (
    asyncio.TimeoutError,
    ChannelClosed,
    ChannelClosedByServer,
    ConnectionClosed,
    NotConnected,
    ServerSentNack,
)

_T = TypeVar("_T")


class LoopLayer:
    """The process's side of the channel layer. All of it runs on one event loop.

    ``memory`` outlives it: the next hub, on another loop, goes on with it.
    """

    def __init__(
        self,
        options: Options,
        codec: Codec,
        queue_name: str,
        state: LocalState,
        on_end: Callable[[LoopLayer], None],
        on_late: Callable[[bytes], None],
    ) -> None:
        self._options = options
        self._codec = codec
        self._decrypt = codec.decrypt
        self._decode = codec.decode
        self._queue_name = queue_name
        self._state = state
        self._mailboxes = mailboxes = state.mailboxes
        #: The local channels in a group.
        self._members_of: Callable[[str], Collection[str]] = state.memberships.members
        #: The mailbox of a channel that was received from before: its name needs no check.
        self.find: Callable[[str], Mailbox | None] = mailboxes.find
        self.loop = asyncio.get_running_loop()
        self._closed = False
        #: Called when the loop cancels all that it has: another hub goes on with the mailboxes.
        self._on_end = on_end
        #: That has happened.
        self._moved = False
        #: Called with what RabbitMQ still delivers here then.
        self._on_late = on_late
        #: One for each kind of error.
        self._warn_bad_message: dict[type, RateLimitedWarning] = {}
        self._warn_group_dropped = RateLimitedWarning(logger)
        self.recovery = Recovery(options, queue_name, self)
        self.normal = NormalChannels(options, codec, self.recovery, state, self._warn_bad)
        self._hooks = Hooks(options)
        self._housekeeping = Housekeeping(options, state, self.loop)
        self.groups = Groups(options, state, self.recovery, self.loop)
        self._peers = Peers(
            options, codec, queue_name, self.recovery, state, self.groups, self.normal
        )

    def __repr__(self) -> str:
        return f"<LoopLayer: {self.recovery!r}, {self._mailboxes!r}>"

    # Sending

    async def send(self, queue_name: str, body: bytes) -> None:
        """Publish to one process's queue.

        Raises :class:`channels.exceptions.ChannelFull` when it is full, and
        :class:`~channels_rabbitmq.errors.NotConnected` when RabbitMQ does not answer in time.
        """
        try:
            await self._publish("", queue_name, body)
        except PUBLISH_ERRORS as err:
            raise send_error(err) from None

    async def send_group(self, group: str, body: bytes) -> None:
        """Publish to every process that has a member; drop, with a warning, where it cannot."""
        try:
            await self.sending_group(group, body)
        except PUBLISH_ERRORS as err:
            warn_group_dropped(self._warn_group_dropped, group, err)

    def sending(self, queue_name: str, body: bytes) -> Awaitable[None]:
        """What :meth:`send` awaits: it raises :data:`PUBLISH_ERRORS`."""
        return self._publish("", queue_name, body)

    def sending_group(self, group: str, body: bytes) -> Awaitable[None]:
        """What :meth:`send_group` awaits: it raises :data:`PUBLISH_ERRORS`."""
        key = group_key(self._options.prefix, group)
        return self._publish(self._options.groups_exchange, key, body)

    def _publish(self, exchange: str, routing_key: str, body: bytes) -> Awaitable[None]:
        topology = self.recovery.topology
        if topology is not None and topology.usable:
            return topology.publish(exchange, routing_key, body)
        return self._publish_later(exchange, routing_key, body)

    async def _publish_later(self, exchange: str, routing_key: str, body: bytes) -> None:
        await self._in_time(self._publish_when_ready(exchange, routing_key, body))

    async def _publish_when_ready(self, exchange: str, routing_key: str, body: bytes) -> None:
        while True:
            topology = await self.recovery.wait_topology()
            if topology.blocked is not None:
                raise NotConnected(f"RabbitMQ takes no messages: {topology.blocked}")
            if topology.usable:
                await topology.publish(exchange, routing_key, body)
                return
            await topology.wait_writable()

    # Receiving

    async def receive(self, channel: str) -> Message:
        """Wait for the oldest message of a local channel, through outages; cancellation is safe."""
        mailboxes = self._mailboxes
        box = mailboxes.find(channel) or mailboxes.box(channel)
        while not box.queue:
            if self._closed:
                self._refuse()
            waiter: asyncio.Future[None] = self.loop.create_future()
            box.waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                box.give_up(waiter)
                raise
            if not box.queue:  # another reader was faster, and the box may be gone
                box = mailboxes.box(channel)
        return mailboxes.take(box)

    async def receive_any(self, channel: str) -> Message:
        """Receive from a channel of this process, or from a normal one."""
        return await (self.receive(channel) if "!" in channel else self.normal.receive(channel))

    async def receive_many(
        self, channels: Sequence[str], block: bool
    ) -> tuple[str, Message] | None:
        """Give a message of any of the channels; None if none has one and ``block`` is false."""
        normal = [name for name in channels if "!" not in name]
        fetched = not normal
        while True:
            ready = [name for name in channels if self._is_ready(name)]
            if ready:
                return self._take_one(ready)
            if block:
                await self._wait_for_any(channels, None)
            elif fetched:
                return None
            else:
                await self._wait_for_any(normal, _FETCH_TIME)
                fetched = True

    def _is_ready(self, channel: str) -> bool:
        if "!" in channel:
            return bool(self._mailboxes.box(channel).queue)
        return self.normal.ready(channel)

    def _take_one(self, ready: list[str]) -> tuple[str, Message]:
        name = ready.pop(random.randrange(len(ready)))
        message = (
            self._mailboxes.take(self._mailboxes.box(name))
            if "!" in name
            else self.normal.take(name)
        )
        # A message that woke us and that we leave is for the next in line.
        for other in ready:
            self._any_box(other).wake()
        return name, message

    async def _wait_for_any(self, channels: Sequence[str], timeout: float | None) -> None:
        """Wait until one of the channels may have a message, or for so many seconds."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        timer = None if timeout is None else self.loop.call_later(timeout, _wake, waiter)
        try:
            for name in channels:
                if self._closed:
                    self._refuse()
                self._any_box(name).waiters.append(waiter)
                self.normal.update(name)
            await waiter
        except asyncio.CancelledError:
            for name in channels:
                self._any_box(name).give_up(waiter)
            raise
        finally:
            for name in channels:
                box = self._any_box(name)
                if waiter in box.waiters:
                    box.waiters.remove(waiter)
                self.normal.update(name)
            if timer is not None:
                timer.cancel()

    def _any_box(self, channel: str) -> Mailbox:
        return (self._mailboxes if "!" in channel else self._state.normal).box(channel)

    def take_back(self, channel: str, message: Message) -> None:
        """A message that was read for a caller who was cancelled before it got it."""
        if "!" not in channel:
            body = self._codec.encode(CHANNEL_KEY, channel, message, self._options.max_message_size)
            self.normal.take_back(channel, message, body)
            return
        self._mailboxes.put_back(channel, message, self.loop.time())
        self._housekeeping.message_held()

    def deliver_late(self, body: bytes) -> None:
        """A message that came while another loop was home and about to end."""
        self.deliver(NOWHERE, 0, False, body)

    def deliver(self, source: Source, tag: int, redelivered: bool, body: bytes) -> None:
        """Put a message into the mailboxes of its receivers."""
        if self._closed:
            if self._moved and not redelivered:
                self._on_late(body)
            return
        if redelivered:
            source.ack(tag)  # at most once
            return
        plain = body
        try:
            if self._decrypt is not None:
                plain = self._decrypt(body)
            kind, name, message = self._decode(plain)
        except BadMessage as err:
            self._warn_bad(body, err)
            source.ack(tag)
            return
        mailboxes = self._mailboxes
        channels: Collection[str] = (name,)
        if kind == GROUP_KEY:
            channels = self._members_of(name)
            if not channels and name.startswith(MARK):
                source.ack(tag)
                self._peers.handle(name, message)
                return
        elif mailboxes.find(name) is None and not is_channel_of(self._queue_name, name):
            self._warn_bad(body, BadMessage("it is for a channel that this process cannot have"))
            source.ack(tag)
            return
        mailboxes.put(Delivery(source, tag, self.loop.time(), plain, message), channels)
        self._housekeeping.message_held()

    def _warn_bad(self, body: bytes, error: BadMessage) -> None:
        warn = self._warn_bad_message.setdefault(type(error), RateLimitedWarning(logger))
        why = self._codec.explain(body, error)
        warn("Dropped %d bytes that are no message: %s", len(body), why)

    # Groups

    def routing_keys(self) -> Iterator[str]:
        """The routing keys to bind: of every group, and of what processes ask each other."""
        yield control_key(self._options.prefix)
        yield from self.groups.routing_keys()

    # What other processes take part in

    async def group_members(self, group: str, timeout: float) -> list[str]:
        """All channels in a group, as far as the processes answer in time."""
        return await self._peers.group_members(group, timeout)

    async def flush(self) -> None:
        """Empty all channels and groups, of every process."""
        await self._peers.flush()

    async def group_add_elsewhere(self, process: str, group: str, channel: str) -> None:
        """Have another process add its channel to a group; nothing happens if it has gone."""
        await self._peers.group_add(process, group, channel)

    async def group_discard_elsewhere(self, process: str, group: str, channel: str) -> None:
        """Have another process take its channel out of a group."""
        await self._peers.group_discard(process, group, channel)

    # The connection, and the end

    async def protocol(self) -> Protocol:
        """Wait for the open connection."""
        return (await self.recovery.wait_topology()).protocol

    async def close(self) -> None:
        """Close the connection; ``receive()`` raises StopConsumer from now on."""
        self._closed = True
        self._mailboxes.fail_waiters(StopConsumer("the channel layer is closed"))
        self._housekeeping.stop()
        self.groups.stop(StopConsumer("the channel layer is closed"))
        await self.normal.close()
        self._peers.cancel()
        self._hooks.cancel()
        await self.recovery.close()

    def topology_started(self, topology: Topology) -> None:
        """Go on with what needs RabbitMQ."""
        self.normal.topology_started(topology)
        self._peers.topology_started(topology)
        self._hooks.topology_started()

    def topology_ended(self) -> None:
        """Wait for the next one."""
        self.normal.topology_ended()
        self._hooks.topology_ended()

    def recovery_ended(self) -> None:
        """End as well: the loop cancels all that it has."""
        self.retire()
        self._stop_work()
        self._on_end(self)

    def retire(self) -> None:
        """This loop has ended, and another hub takes over the memory. On any thread.

        Calls that wait here fail with :class:`~channels_rabbitmq.errors.LoopEnded`.
        """
        if self._moved:
            return
        self._closed = self._moved = True
        self.groups.retire()
        self.normal.stop()
        with contextlib.suppress(RuntimeError):  # it is closed, and nobody waits
            self.loop.call_soon_threadsafe(self._stop_work)

    def _stop_work(self) -> None:
        """End what this loop does by itself."""
        self._housekeeping.stop()
        self.groups.stop(LoopEnded(started=False))
        self.normal.cancel()
        self._peers.cancel()
        self._hooks.cancel()
        self.recovery.cancel()
        self._state.fail_waiters(LoopEnded(started=False))

    def _refuse(self) -> NoReturn:
        """Nothing is received here any more."""
        if self._moved:
            raise LoopEnded(started=False)
        raise StopConsumer("the channel layer is closed")

    async def _in_time(self, work: Awaitable[_T]) -> _T:
        return await in_time(work, self._options.send_timeout)


def send_error(error: Exception) -> Exception:
    """What ``send()`` raises for one of :data:`PUBLISH_ERRORS`, or when home ended meanwhile."""
    raised: Exception = error
    if isinstance(error, ServerSentNack):
        raised = ChannelFull("the receiving process stores no more messages")
    elif isinstance(error, asyncio.TimeoutError):
        raised = NotConnected("RabbitMQ is away")
    elif isinstance(error, LoopEnded):
        raised = NotConnected("the event loop of the connection ended meanwhile")
    elif not isinstance(error, NotConnected):
        raised = NotConnected("the connection to RabbitMQ ended meanwhile")
    return raised


def warn_group_dropped(warn: RateLimitedWarning, group: str, error: Exception) -> None:
    """The same for ``group_send()``, which raises nothing."""
    if isinstance(error, ServerSentNack):
        warn("Message to group %s dropped for at least one process that stores no more", group)
    elif isinstance(error, LoopEnded):
        warn("Message to group %s perhaps dropped: its event loop ended meanwhile", group)
    else:
        warn("Message to group %s dropped: %s", group, send_error(error))


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
