"""The channel layer: the Channel Layer Specification's methods, and the connection for jobs.

https://channels.readthedocs.io/en/latest/channel_layer_spec.html

Each method checks its arguments and runs the one operation that it is about on the event loop
that owns the connection: see :meth:`.Owner.run`.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Generator, Mapping, Sequence
from typing import Any, ClassVar, Unpack

from channels import exceptions
from channels.layers import BaseChannelLayer, get_channel_layer
from django.core.exceptions import ImproperlyConfigured

from .amqp.futures import retrieve
from .amqp.log import NamedLogger
from .config.options import DEFAULT_HOST, Config, Options, OtherOptions
from .connection import Connection
from .errors import (
    AmqpError,
    ChannelClosed,
    ChannelClosedByServer,
    LoopEnded,
    NotConnected,
    PreconditionFailed,
    ServerSentNack,
    describe,
)
from .events import EventKind
from .layer import receiving
from .layer.loop_layer import LoopLayer
from .layer.owner import Owner
from .log import RateLimitedWarning
from .statistics import Statistics
from .wire.messages import CHANNEL_KEY, GROUP_KEY
from .wire.names import (
    MAX_LENGTH,
    group_key,
    random_name,
    require_address,
    require_channel,
    require_group,
)
from .wire.serializers import Codec, make_codec

__all__ = ["Config", "RabbitmqChannelLayer", "get_layer"]

logger = logging.getLogger(__name__)

#: The part of a health check's time after which what is known decides.
_CHECK_PART = 0.9

#: How a publish fails. What is raised for a message that cannot be sent is none of these.
_NOT_SENT = (AmqpError, LoopEnded, NotConnected, TimeoutError)


def get_layer(alias: str = "default") -> RabbitmqChannelLayer:
    """The channel layer of an alias in ``CHANNEL_LAYERS``: Channels' own, and typed.

    Raises :class:`django.core.exceptions.ImproperlyConfigured` if there is none, or it is of
    another backend.
    """
    layer = get_channel_layer(alias)
    if isinstance(layer, RabbitmqChannelLayer):
        return layer
    found = "is missing" if layer is None else f"is of class {type(layer).__name__}"
    raise ImproperlyConfigured(
        f"CHANNEL_LAYERS[{alias!r}] {found}; its BACKEND must be "
        f"'{RabbitmqChannelLayer.__module__}.{RabbitmqChannelLayer.__qualname__}'"
    )


#: How a message is refused that cannot be sent.
_NOT_ENCODED = (TypeError, ValueError, exceptions.MessageTooLarge)


def _take_frames_off(error: BaseException) -> None:
    """Leave nothing on an error but itself: the variables of the frames below hold the message."""
    error.__traceback__ = error.__context__ = error.__cause__ = None


class RabbitmqChannelLayer(BaseChannelLayer):  # type: ignore[misc]  # Channels has no types
    """A Django Channels layer on RabbitMQ: one connection and one exclusive queue per process.

    ``CONFIG`` is described in the README; a wrong one raises
    :class:`django.core.exceptions.ImproperlyConfigured`. Making the layer does no I/O; the first
    call that needs RabbitMQ connects, and from then on the layer stays connected, until
    :meth:`close`. Every method raises :class:`channels.exceptions.StopConsumer` after that.

    Names that break the specification's rules raise :class:`TypeError`. Names with an exclamation
    mark that :meth:`new_channel` of no process can have given raise :class:`ValueError`: what they
    have before it would be another program's queue.
    """

    MAX_NAME_LENGTH = MAX_LENGTH

    extensions: ClassVar[list[str]] = ["groups", "flush"]

    #: The exceptions that the specification wants to be found here.
    ChannelFull: ClassVar[type[Exception]] = exceptions.ChannelFull
    MessageTooLarge: ClassVar[type[Exception]] = exceptions.MessageTooLarge

    def __init__(
        self,
        host: str | list[str] | tuple[str, ...] = DEFAULT_HOST,
        **config: Unpack[OtherOptions],
    ) -> None:
        try:
            self.options = Options.from_config({"host": host, **config})
            codec = self._make_codec()
        finally:
            # Debug pages and error trackers show the variables of this frame; see Options.
            del host, config
        super().__init__(expiry=self.options.expiry, capacity=self.options.capacity)
        #: For Channels' own ``get_capacity()``: patterns and capacities.
        self.channel_capacity = list(self.options.channel_capacity)
        #: Seconds from the latest ``group_add()`` to the end of a membership; 0 is none.
        self.group_expiry = self.options.group_expiry
        self._owner = Owner(self.options, codec)
        self._encode = codec.encode
        self._log = NamedLogger(logger, self.options.connection_name)
        self._warn_group_send = RateLimitedWarning(self._log)
        #: What :attr:`current_connection` gave last: one object for each connection, whoever asks.
        self._connection: Connection | None = None
        # The owner must not refer to the layer, which would never be collected then.
        weakref.finalize(self, self._owner.drop).atexit = False

    def _make_codec(self) -> Codec:
        """What makes messages bytes, and bytes messages."""
        return make_codec(self.options)

    def __repr__(self) -> str:
        # Debug pages show a layer that could not be made, too.
        owner = getattr(self, "_owner", None)
        if owner is None:
            return f"<{type(self).__name__} with a wrong option>"
        return f"<{type(self).__name__} {self.connection_name} {owner}>"

    @property
    def queue_name(self) -> str:
        """The process's queue: what its channel names have before the exclamation mark."""
        return self._owner.names.newest

    @property
    def connection_name(self) -> str:
        """What log lines, RabbitMQ's management and its list of consumers call the connection."""
        return str(self.options.connection_name)

    # Channels

    async def new_channel(self, prefix: str = "") -> str:
        """A new channel name that only this process can receive from. Does no I/O.

        ``prefix`` is there for the specification; the name begins with the queue's.
        """
        self._owner.require_open()
        return f"{self._owner.names.newest}!{random_name()}"

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Send a message to one channel; return once RabbitMQ has it.

        A normal channel (one without ``!``) keeps it for whichever process receives first.

        Raises :class:`channels.exceptions.ChannelFull` if the receiving process, or the normal
        channel, stores no more, or its queue is not reached,
        :class:`~channels_rabbitmq.errors.NotConnected` (a ChannelFull) if RabbitMQ did not confirm
        the message within ``send_timeout``, :class:`channels.exceptions.MessageTooLarge`, and
        :class:`TypeError` or :class:`ValueError` for a message that cannot be sent.
        """
        queue_name, mark, _ = require_address(channel).partition("!")
        try:
            body = self._encode(CHANNEL_KEY, channel, message, self.options.max_message_size)
        except _NOT_ENCODED as err:
            del message
            raise self._without_payload(err) from None
        del message
        try:
            if mark:
                await self._owner.run(LoopLayer.publish, "", queue_name, body, repeat=False)
            else:
                await self._owner.run(LoopLayer.send_normal, channel, body, repeat=False)
        except ServerSentNack as err:
            del body
            _take_frames_off(err)
            self._owner.counts.events.tell(EventKind.REFUSED, name=channel)
            # The nack is the same where the node is down that has the queue.
            raise exceptions.ChannelFull(
                f"Queue {queue_name} is full (remote_capacity {self.options.remote_capacity}), "
                "or not reached"
            ) from None
        except _NOT_SENT as err:
            size = len(body)
            del body
            _take_frames_off(err)
            self._require_taken_size(err, size)
            refused = isinstance(err, ChannelClosedByServer) and _size_limit(err) is None
            if refused and not mark:
                raise err  # RabbitMQ refuses the queue of a normal channel: that is no outage
            error = self._not_connected(err)
            self._owner.counts.fail(channel, error.sent, str(error))
            raise error from None
        except exceptions.ChannelFull:  # of a normal channel
            self._owner.counts.events.tell(EventKind.REFUSED, name=channel)
            raise

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message of a channel of this process, or of a normal channel.

        Several may wait on one channel: each message goes to one of them. Cancelling loses no
        message. Raises :class:`ValueError` for a channel of another process.
        """
        if self._owner.find(channel) is None:
            self._require_receivable(channel)
        loop_layer = self._owner.here()
        if loop_layer is not None:
            # Thousands of channels wait in here: the frame of run() would take 300 bytes of each.
            try:
                return await receiving.receive(loop_layer, channel)
            except LoopEnded:
                self._owner.require_open()
        return await self._owner.run(receiving.receive, channel, give_back=receiving.take_back)

    async def receive_many(
        self, channels: Sequence[str], block: bool = False
    ) -> tuple[str, dict[str, Any]] | tuple[None, None]:
        """Give a channel that has a message, out of several, and the message.

        Without ``block``, that is ``(None, None)`` if none has one (for normal channels, after a
        moment in which RabbitMQ may send one). With it, wait. Which channel comes first is left to
        chance, so that a busy one does not starve the others. Cancelling loses no message. Raises
        :class:`ValueError` for a channel of another process, and for waiting for no channel.
        """
        names = list(dict.fromkeys(channels))
        for name in names:
            self._require_receivable(name)
        if not names:
            if block:
                raise ValueError("there is no channel to wait for")
            return None, None
        received = await self._owner.run(
            receiving.receive_many, names, block, give_back=receiving.take_back_any
        )
        return (None, None) if received is None else received

    async def receive_many_blocking(self, channels: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """The same as :meth:`receive_many` with ``block=True``."""
        channel, message = await self.receive_many(channels, block=True)
        if channel is None or message is None:
            raise RuntimeError("receive_many() did not wait")
        return channel, message

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; return once the group's messages reach it.

        While RabbitMQ is away it returns after ``send_timeout``, which an outage costs once; the
        membership takes effect when RabbitMQ is back. A call that is cancelled adds nothing.

        A channel of another process is added by that process, on being asked; nothing happens if
        the process has gone. Raises :class:`~channels_rabbitmq.errors.NotAnswered` if it does not
        answer within ``send_timeout`` (version 4.0.1 never does), and
        :class:`~channels_rabbitmq.errors.NotConnected` while RabbitMQ is away. A call that fails or
        is cancelled after that process was asked may have added the channel.
        """
        require_group(group)
        require_address(channel)
        loop_layer = self._owner.here()
        if loop_layer is not None:
            try:  # as Owner.run() does, without what other loops need
                joining = loop_layer.join(group, channel)
                if joining is not None:
                    await joining
                return
            except LoopEnded:
                pass
        # A membership that was asked for from another loop is only claimed until that has heard
        # of it: cancelled as the answer is on its way, it must leave nothing behind.
        while True:
            claim = await self._owner.run(
                LoopLayer.group_add,
                group,
                channel,
                asyncio.get_running_loop(),
                give_back=LoopLayer.undo_group_add,
            )
            if claim is None:
                return
            if not claim.given_up:
                self._owner.post(LoopLayer.confirm_group_add, group, channel)
                return
            # Another loop took over meanwhile. Its binding is to be waited for, too.

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group, at once; nothing happens if it is not in it.

        For a channel of another process, it is as with :meth:`group_add`.
        """
        require_group(group)
        require_address(channel)
        loop_layer = self._owner.here()
        if loop_layer is not None:
            try:
                leaving = loop_layer.leave(group, channel)
                if leaving is not None:
                    await leaving
                return
            except LoopEnded:
                pass
        await self._owner.run(LoopLayer.group_discard, group, channel)

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Send a message to every channel in a group; return once RabbitMQ has it.

        Processes that store no more miss it, as do all while RabbitMQ is away; a warning says so.
        Raises what :meth:`send` raises for a message that cannot be sent, and no ChannelFull; but
        with ``group_send_raises`` :class:`~channels_rabbitmq.errors.NotConnected`, where RabbitMQ
        did not confirm the message.
        """
        require_group(group)
        options = self.options
        try:
            body = self._encode(GROUP_KEY, group, message, options.max_message_size)
        except _NOT_ENCODED as err:
            del message
            raise self._without_payload(err) from None
        del message
        key = group_key(options.prefix, group)
        try:
            await self._owner.run(
                LoopLayer.publish, options.groups_exchange, key, body, repeat=False
            )
        except ServerSentNack:
            self._owner.counts.events.tell(EventKind.REFUSED, name=group)
            self._warn_group_send(
                "Message to group %s not taken for at least one process: its queue is full "
                "(remote_capacity %d), or not reached",
                group,
                options.remote_capacity,
            )
        except _NOT_SENT as err:
            size = len(body)
            del body
            _take_frames_off(err)
            self._require_taken_size(err, size)
            error = self._not_connected(err)
            self._owner.counts.fail(group, error.sent, str(error))
            if options.group_send_raises:
                raise error from None
            if error.sent:
                self._warn_group_send("Message to group %s not confirmed: %s", group, error)
            else:
                self._warn_group_send("Message to group %s dropped: %s", group, error)

    async def send_group(self, group: str, message: Mapping[str, Any]) -> None:
        """The same as :meth:`group_send`."""
        await self.group_send(group, message)

    async def group_members(self, group: str, timeout: float = 1.0) -> list[str]:
        """The channels in a group, of all processes on the same broker and prefix, by name.

        Every process is asked; the call ends once all that are known to be there have answered,
        and after ``timeout`` seconds at the latest, with what was answered so far. By then
        members may have come and gone: it is a snapshot. Version 4.0.1 does not answer. Raises
        :class:`~channels_rabbitmq.errors.NotAnswered` where RabbitMQ does not let processes ask
        each other: see Operations, permissions.
        """
        require_group(group)
        seconds = _require_seconds(timeout)
        return await self._owner.run(LoopLayer.group_members, group, seconds)

    # Flush

    async def flush(self) -> None:
        """Empty all channels and groups of every process on the same broker and prefix.

        Normal channels that any of these processes has used are purged as well. Members must join
        again. It returns once every process that is known to be there has done its part. Raises
        :class:`~channels_rabbitmq.errors.NotAnswered` if one did not within ``send_timeout``, or
        could not be asked, and
        :class:`~channels_rabbitmq.errors.NotConnected` while RabbitMQ is away. Processes of
        version 4.0.1 take no part.
        """
        await self._owner.run(LoopLayer.flush)

    # Beyond the specification

    @property
    def current_connection(self) -> Awaitable[Connection]:
        """Awaitable for the open AMQP connection, for publishing jobs and consuming queues.

        It waits while RabbitMQ is away. A connection may end at any time; what is under way on it
        then raises :class:`~channels_rabbitmq.errors.ConnectionClosed`, and the next
        ``await layer.current_connection`` gives the one after it. Asking without awaiting does
        nothing.
        """
        return _CurrentConnection(self)

    @property
    def carehare_connection(self) -> asyncio.Future[Connection]:
        """The same as :attr:`current_connection`, as a future: for ``asyncio.wait()``.

        It connects whether it is awaited or not. Raises :class:`RuntimeError` where no event loop
        is running.
        """
        future = asyncio.get_running_loop().create_task(self._wait_connection())
        future.add_done_callback(retrieve)  # whoever does not ask for an error need not have it
        return future

    async def _wait_connection(self) -> Connection:
        return await self._owner.run(self._connection_on)

    async def _connection_on(self, loop_layer: LoopLayer) -> Connection:
        # On the owning loop, so that two who ask at once get the same object without a lock.
        protocol = await loop_layer.protocol()
        if self._connection is None or self._connection.protocol is not protocol:
            self._connection = Connection(protocol, loop_layer.portal)
        return self._connection

    def statistics(self) -> Statistics:
        """The layer's numbers, at once: no I/O, from any thread, also after :meth:`close`."""
        return self._owner.statistics()

    async def health_check(self, timeout: float = 5.0) -> bool:
        """Whether a message to oneself comes back by the process's queue in ``timeout`` seconds.

        Also true where the queue is full, or the message waits behind what the process has yet to
        read: a process that is merely behind is not sick. False while RabbitMQ is away, silent, or
        takes no publishes, and after :meth:`close`. It connects, if nothing has before.

        Raises nothing but :class:`ValueError`, for a timeout that is no number of seconds. Cheap
        enough for every second: one small message.
        """
        seconds = _require_seconds(timeout)
        healthy = False
        try:
            # The outer limit is for an event loop that owns the connection and stands still.
            async with asyncio.timeout(seconds):
                healthy = await self._owner.run(
                    LoopLayer.health_check, seconds * _CHECK_PART, repeat=False
                )
        except Exception as err:
            self._log.debug("health_check(): %s: %s", type(err).__name__, describe(err))
        if not healthy:
            await asyncio.sleep(0)  # or a plain loop of checks would never let RabbitMQ be back
        return healthy

    async def close(self) -> None:
        """Close the connection and end everything; calling it again does nothing."""
        await self._owner.close()

    def _require_receivable(self, channel: str) -> None:
        """Raise unless a channel is of this process or normal."""
        queue_name, mark, _ = require_channel(channel).partition("!")
        if mark and not self._owner.names.own(queue_name):
            raise ValueError("the channel belongs to another process or another layer")

    @staticmethod
    def _require_taken_size(error: BaseException, size: int) -> None:
        """Raise if a publish failed because its body is larger than RabbitMQ takes."""
        limit = _size_limit(error)
        if limit is not None and size > limit:
            raise exceptions.MessageTooLarge(
                f"the message has {size} bytes; RabbitMQ's max_message_size is {limit}"
            ) from None

    def _without_payload(self, error: Exception) -> Exception:
        """Take the frames off an error whose variables hold the message: error trackers show them.

        What a serializer of the user's own raised keeps them: they tell what is wrong with it.
        """
        if self.options.serializer_format in ("msgpack", "json"):
            _take_frames_off(error)
        return error

    def _not_connected(self, error: BaseException) -> NotConnected:
        """Say why RabbitMQ has not confirmed a message: one of ``_NOT_SENT``."""
        if isinstance(error, NotConnected):
            return error
        if isinstance(error, TimeoutError):
            return NotConnected(
                f"RabbitMQ is away: no connection within send_timeout "
                f"({self.options.send_timeout:g} s)"
            )
        if isinstance(error, LoopEnded):
            return NotConnected(
                "the event loop of the connection ended meanwhile", sent=error.started
            )
        if _size_limit(error) is not None:
            return NotConnected(
                "RabbitMQ closed the AMQP channel over another message, which was too large",
                sent=True,
            )
        return NotConnected(
            "the connection to RabbitMQ ended meanwhile", sent=not isinstance(error, ChannelClosed)
        )


def _require_seconds(timeout: object) -> float:
    """Raise :class:`ValueError` for what is no number of seconds."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise ValueError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    if not timeout >= 0:
        raise ValueError(f"timeout must be a number of seconds from 0 up, not {timeout:g}")
    return float(timeout)


def _size_limit(error: BaseException) -> int | None:
    """RabbitMQ's limit, if a publish failed because it, or another, was larger than that."""
    return error.max_message_size if isinstance(error, PreconditionFailed) else None


class _CurrentConnection:
    """Waits for the connection only when awaited, so that asking in vain leaves nothing behind."""

    def __init__(self, layer: RabbitmqChannelLayer) -> None:
        self._layer = layer

    def __await__(self) -> Generator[object, None, Connection]:
        return self._layer._wait_connection().__await__()
