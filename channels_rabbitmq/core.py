"""The channel layer: the Channel Layer Specification's methods, and nothing else.

https://channels.readthedocs.io/en/latest/channel_layer_spec.html
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Generator, Sequence
from functools import partial
from typing import ClassVar

from channels.layers import BaseChannelLayer

from .amqp.connection import Connection
from .bridged import BridgedConnection
from .errors import NotConnected
from .home import Home
from .hub import Hub
from .messages import CHANNEL_KEY, GROUP_KEY, Message, encode
from .names import MAX_LENGTH, random_name, require_channel, require_group
from .options import DEFAULT_HOST, Options

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

    extensions: ClassVar[list[str]] = ["groups"]

    def __init__(self, host: str | Sequence[str] = DEFAULT_HOST, **config: object) -> None:
        self.options = Options.from_config({"host": host, **config})
        super().__init__(expiry=self.options.expiry, capacity=self.options.remote_capacity)
        self._home = Home(self.options)
        weakref.finalize(self, self._home.drop).atexit = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._home!r}>"

    @property
    def queue_name(self) -> str:
        """The process's queue: what its channel names have before the exclamation mark."""
        return self._home.queue_name

    # Channels

    async def new_channel(self, prefix: str = "") -> str:
        """A new channel name that only this process can receive from. Does no I/O.

        ``prefix`` is there for the specification; the name begins with the queue's.
        """
        return f"{self._home.queue_name}!{random_name()}"

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to one channel; return once RabbitMQ has it.

        Raises :class:`channels.exceptions.ChannelFull` if the receiving process stores no more,
        :class:`~channels_rabbitmq.errors.NotConnected` (a ChannelFull) if RabbitMQ did not answer
        within ``send_timeout``, :class:`channels.exceptions.MessageTooLarge`, and
        :class:`TypeError` or :class:`ValueError` for a message that cannot be sent.
        """
        queue_name = _queue_of(require_channel(channel))
        body = encode(CHANNEL_KEY, channel, message, self.options.max_message_size)
        hub = self._home.hub_here()
        if hub is not None:
            await hub.send(queue_name, body)
        else:
            await self._home.call_once(lambda hub: hub.send(queue_name, body), _not_known)

    async def receive(self, channel: str) -> Message:
        """Wait for the next message of a channel of this process.

        Several may wait on one channel: each message goes to one of them. Cancelling loses no
        message. Raises :class:`ValueError` for a channel of another process.
        """
        self._require_own(require_channel(channel))
        hub = self._home.hub_here()
        if hub is not None:
            return await hub.receive(channel)
        return await self._home.receive(channel)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel of this process to a group; return once the group's messages reach it.

        While RabbitMQ is away it returns after ``send_timeout``; the membership takes effect
        when RabbitMQ is back. A call that is cancelled adds nothing.
        """
        require_group(group)
        self._require_own(require_channel(channel))
        hub = self._home.hub_here()
        if hub is not None:
            await hub.group_add(group, channel)
        else:
            await self._home.call(Hub.group_add, group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group, at once; nothing happens if it is not in it."""
        require_group(group)
        require_channel(channel)
        await self._home.call(_group_discard, group, channel)

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to every channel in a group; return once RabbitMQ has it.

        Processes that store no more miss it, as do all while RabbitMQ is away; a warning says so.
        Raises what :meth:`send` raises for a message that cannot be sent, and never ChannelFull.
        """
        require_group(group)
        body = encode(GROUP_KEY, group, message, self.options.max_message_size)
        hub = self._home.hub_here()
        if hub is not None:
            await hub.send_group(group, body)
        else:
            await self._home.call_once(
                lambda hub: hub.send_group(group, body), partial(_log_not_known, group)
            )

    # Beyond the specification

    @property
    def current_connection(self) -> Awaitable[Connection | BridgedConnection]:
        """Awaitable for the open AMQP connection, a :class:`carehare.Connection`.

        Use it to publish jobs. It waits while RabbitMQ is away. A connection may end at any time;
        what is under way on it then raises :class:`carehare.ConnectionClosed`, and the next
        ``await layer.current_connection`` gives the one after it.
        """
        return _CurrentConnection(self._home)

    @property
    def carehare_connection(self) -> Awaitable[Connection | BridgedConnection]:
        """The same as :attr:`current_connection`."""
        return self.current_connection

    async def close(self) -> None:
        """Close the connection and end everything; calling it again does nothing."""
        await self._home.close()

    def _require_own(self, channel: str) -> None:
        if "!" not in channel:
            raise NotImplementedError(
                "channels without '!' (normal channels) are not supported; publish jobs with "
                "'await layer.current_connection'"
            )
        if _queue_of(channel) != self._home.queue_name:
            raise ValueError("the channel belongs to another process or another layer")


class _CurrentConnection:
    """Waits for the connection only when awaited, so that asking in vain leaves nothing behind."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def __await__(self) -> Generator[object, None, Connection | BridgedConnection]:
        return self._home.connection().__await__()


async def _group_discard(hub: Hub, group: str, channel: str) -> None:
    hub.group_discard(group, channel)


def _not_known() -> None:
    raise NotConnected("the event loop of the connection ended meanwhile")


def _log_not_known(group: str) -> None:
    logger.warning("Message to group %s perhaps dropped: its event loop ended meanwhile", group)


def _queue_of(channel: str) -> str:
    queue_name, mark, _ = channel.partition("!")
    if not mark:
        raise NotImplementedError(
            "channels without '!' (normal channels) are not supported; publish jobs with "
            "'await layer.current_connection'"
        )
    return queue_name
