"""The channel layer: the Channel Layer Specification's methods, and nothing else.

https://channels.readthedocs.io/en/latest/channel_layer_spec.html
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import ClassVar, Unpack

from channels import exceptions
from channels.layers import BaseChannelLayer

from .config.options import DEFAULT_HOST, Options, OtherOptions
from .connection import Connection
from .errors import LoopEnded
from .layer.loop_layer import LoopLayer
from .layer.owner import Owner
from .wire.messages import CHANNEL_KEY, GROUP_KEY, Message
from .wire.names import MAX_LENGTH, random_name, require_channel, require_group

logger = logging.getLogger(__name__)


class RabbitmqChannelLayer(BaseChannelLayer):  # type: ignore[misc]  # Channels has no types
    """A Django Channels layer on RabbitMQ: one connection and one exclusive queue per process.

    ``CONFIG`` is described in the README; a wrong one raises
    :class:`django.core.exceptions.ImproperlyConfigured`. Making the layer does no I/O; the first
    call that needs RabbitMQ connects, and from then on the layer stays connected, until
    :meth:`close`. Every method raises :class:`channels.exceptions.StopConsumer` after that.

    Names that break the specification's rules raise :class:`TypeError`.
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
        self.options = Options.from_config({"host": host, **config})
        super().__init__(expiry=self.options.expiry, capacity=self.options.capacity)
        #: For Channels' own ``get_capacity()``: patterns and capacities.
        self.channel_capacity = list(self.options.channel_capacity)
        #: Seconds from the latest ``group_add()`` to the end of a membership; 0 is none.
        self.group_expiry = self.options.group_expiry
        self._owner = Owner(self.options)
        self._encode = self._owner.codec.encode
        #: What :attr:`current_connection` gave last: one object for each connection, whoever asks.
        self._connection: Connection | None = None
        self._connection_lock = threading.Lock()
        weakref.finalize(self, self._owner.drop).atexit = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._owner!r}>"

    @property
    def queue_name(self) -> str:
        """The process's queue: what its channel names have before the exclamation mark."""
        return self._owner.queue_name

    # Channels

    async def new_channel(self, prefix: str = "") -> str:
        """A new channel name that only this process can receive from. Does no I/O.

        ``prefix`` is there for the specification; the name begins with the queue's.
        """
        self._owner.require_open()
        return f"{self._owner.queue_name}!{random_name()}"

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to one channel; return once RabbitMQ has it.

        A normal channel (one without ``!``) keeps it for whichever process receives first.

        Raises :class:`channels.exceptions.ChannelFull` if the receiving process, or the normal
        channel, stores no more,
        :class:`~channels_rabbitmq.errors.NotConnected` (a ChannelFull) if RabbitMQ did not answer
        within ``send_timeout``, :class:`channels.exceptions.MessageTooLarge`, and
        :class:`TypeError` or :class:`ValueError` for a message that cannot be sent.
        """
        queue_name, mark, _ = require_channel(channel).partition("!")
        body = self._encode(CHANNEL_KEY, channel, message, self.options.max_message_size)
        if not mark:
            await self._owner.send_normal(channel, body)
            return
        loop_layer = self._owner.loop_layer_here()
        if loop_layer is not None:
            try:
                await loop_layer.send(queue_name, body)
                return
            except LoopEnded:
                pass  # not sent yet: the link lives elsewhere now
        await self._owner.send(queue_name, body)

    async def receive(self, channel: str) -> Message:
        """Wait for the next message of a channel of this process, or of a normal channel.

        Several may wait on one channel: each message goes to one of them. Cancelling loses no
        message. Raises :class:`ValueError` for a channel of another process.
        """
        loop_layer = self._owner.loop_layer_here()
        if loop_layer is not None:
            own = loop_layer.find(channel) is not None or self._is_own(require_channel(channel))
            try:
                return await (
                    loop_layer.receive(channel) if own else loop_layer.normal.receive(channel)
                )
            except LoopEnded:
                pass  # the link lives elsewhere now, and so do the messages
        self._is_own(require_channel(channel))
        return await self._owner.receive(channel)

    async def receive_many(
        self, channels: Sequence[str], block: bool = False
    ) -> tuple[str, Message] | tuple[None, None]:
        """Give a channel that has a message, out of several, and the message.

        Without ``block``, that is ``(None, None)`` if none has one (for normal channels, after a
        moment in which RabbitMQ may send one). With it, wait. Which channel comes first is left to
        chance, so that a busy one does not starve the others. Cancelling loses no message. Raises
        :class:`ValueError` for a channel of another process, and for waiting for no channel.
        """
        names = list(dict.fromkeys(channels))
        for name in names:
            self._is_own(require_channel(name))
        if not names:
            if block:
                raise ValueError("there is no channel to wait for")
            return None, None
        received = await self._owner.receive_many(names, block)
        return (None, None) if received is None else received

    async def receive_many_blocking(self, channels: Sequence[str]) -> tuple[str, Message]:
        """The same as :meth:`receive_many` with ``block=True``."""
        channel, message = await self.receive_many(channels, block=True)
        if channel is None or message is None:
            raise RuntimeError("receive_many() did not wait")
        return channel, message

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; return once the group's messages reach it.

        While RabbitMQ is away it returns after ``send_timeout``; the membership takes effect
        when RabbitMQ is back. A call that is cancelled adds nothing.

        A channel of another process is added by that process, on being asked; nothing happens if
        the process has gone. Raises :class:`~channels_rabbitmq.errors.NotAnswered` if it does not
        answer within ``send_timeout`` (version 4.0.1 never does).
        """
        require_group(group)
        queue_name, mark, _ = require_channel(channel).partition("!")
        if not mark:
            await self._owner.call(_group_add_normal, group, channel)
            return
        if queue_name != self._owner.queue_name:
            await self._owner.call(LoopLayer.group_add_elsewhere, queue_name, group, channel)
            return
        loop_layer = self._owner.loop_layer_here()
        if loop_layer is not None:
            try:
                await loop_layer.groups.add(group, channel)
                return
            except LoopEnded:
                pass  # the link lives elsewhere now
        await self._owner.group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group, at once; nothing happens if it is not in it.

        For a channel of another process, it is as with :meth:`group_add`.
        """
        require_group(group)
        queue_name, mark, _ = require_channel(channel).partition("!")
        if mark and queue_name != self._owner.queue_name:
            await self._owner.call(LoopLayer.group_discard_elsewhere, queue_name, group, channel)
        else:
            await self._owner.call(_group_discard, group, channel)

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to every channel in a group; return once RabbitMQ has it.

        Processes that store no more miss it, as do all while RabbitMQ is away; a warning says so.
        Raises what :meth:`send` raises for a message that cannot be sent, and never ChannelFull.
        """
        require_group(group)
        body = self._encode(GROUP_KEY, group, message, self.options.max_message_size)
        loop_layer = self._owner.loop_layer_here()
        if loop_layer is not None:
            try:
                await loop_layer.send_group(group, body)
                return
            except LoopEnded:
                pass  # not sent yet: the link lives elsewhere now
        await self._owner.send_group(group, body)

    async def send_group(self, group: str, message: Message) -> None:
        """The same as :meth:`group_send`."""
        await self.group_send(group, message)

    async def group_members(self, group: str, timeout: float = 1.0) -> list[str]:
        """The channels in a group, of all processes on the same broker and prefix, by name.

        Every process is asked; the call ends once all that are known to be there have answered,
        and after ``timeout`` seconds at the latest, with what was answered so far. By then
        members may have come and gone: it is a snapshot. Version 4.0.1 does not answer.
        """
        require_group(group)
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
            raise ValueError("timeout must be a number of seconds")
        return await self._owner.call(LoopLayer.group_members, group, float(timeout))

    # Flush

    async def flush(self) -> None:
        """Empty all channels and groups of every process on the same broker and prefix.

        So it does with the normal channels that any of the processes has used. Members must join
        again. It returns once every process that is known to be there has done its part. Raises
        :class:`~channels_rabbitmq.errors.NotAnswered` if one did not within ``send_timeout``, and
        :class:`~channels_rabbitmq.errors.NotConnected` while RabbitMQ is away. Processes of
        version 4.0.1 take no part.
        """
        await self._owner.call(LoopLayer.flush)

    # Beyond the specification

    @property
    def current_connection(self) -> Awaitable[Connection]:
        """Awaitable for the open AMQP connection, a :class:`carehare.Connection`.

        Use it to publish jobs. It waits while RabbitMQ is away. A connection may end at any time;
        what is under way on it then raises :class:`.ConnectionClosed`, and the next
        ``await layer.current_connection`` gives the one after it.
        """
        return _CurrentConnection(self._connect)

    @property
    def carehare_connection(self) -> Awaitable[Connection]:
        """The same as :attr:`current_connection`."""
        return self.current_connection

    async def close(self) -> None:
        """Close the connection and end everything; calling it again does nothing."""
        await self._owner.close()

    async def _connect(self) -> Connection:
        protocol, portal = await self._owner.connection()
        with self._connection_lock:
            if self._connection is None or self._connection.protocol is not protocol:
                self._connection = Connection(protocol, portal)
            return self._connection

    def _is_own(self, channel: str) -> bool:
        """Whether it is a channel of this process; False if normal, ValueError if another's."""
        queue_name, mark, _ = channel.partition("!")
        if mark and queue_name != self._owner.queue_name:
            raise ValueError("the channel belongs to another process or another layer")
        return bool(mark)


class _CurrentConnection:
    """Waits for the connection only when awaited, so that asking in vain leaves nothing behind."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect

    def __await__(self) -> Generator[object, None, Connection]:
        return self._connect().__await__()


async def _group_add_normal(loop_layer: LoopLayer, group: str, channel: str) -> None:
    await loop_layer.normal.group_add(group, channel)


async def _group_discard(loop_layer: LoopLayer, group: str, channel: str) -> None:
    if "!" in channel:
        loop_layer.groups.discard(group, channel)
    else:
        await loop_layer.normal.group_discard(group, channel)
