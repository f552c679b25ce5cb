"""The exchange for requests between processes, as far as RabbitMQ lets the process use it.

Permissions that are fitted to version 4.0.1 do not allow it. So whatever RabbitMQ refuses here
costs an AMQP channel of its own, and never the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pamqp.commands

from ..amqp.futures import follow, retrieve
from ..errors import (
    ChannelClosed,
    ChannelClosedByServer,
    ConnectionClosed,
    MessageReturned,
    NotAnswered,
    NotFound,
    ServerSentNack,
    describe,
)
from .topology import Topology

_T = TypeVar("_T")

#: Seconds that a topology waits for the bindings here, as it starts.
_BIND_TIMEOUT = 1.0
#: Seconds between two looks whether the exchange is still there.
_LOOK = 30.0


class ControlExchange:
    """The control exchange on one topology, with the bindings of the process's queue.

    An exchange that was deleted is declared again, with the bindings. Other errors refuse it for
    good: until the next topology, all that uses it raises
    :class:`~channels_rabbitmq.errors.NotAnswered`.
    """

    def __init__(
        self,
        topology: Topology,
        name: str,
        queue_name: str,
        on_refused: Callable[[str, str], None],
    ) -> None:
        self.topology = topology
        self.name = name
        self._queue_name = queue_name
        self._on_refused = on_refused
        #: Why RabbitMQ refuses it; None while it does not.
        self.refused: str | None = None
        #: Done once it can be used, or was refused; fails if the topology ended before.
        self._opened: asyncio.Future[None] = topology.protocol.loop.create_future()
        self._opened.add_done_callback(retrieve)
        #: Done once the queue is bound, or will not be.
        self._bound: asyncio.Future[None] = topology.protocol.loop.create_future()
        #: The routing keys that are bound.
        self._keys: list[str] = []
        #: Held while it is declared.
        self._declaring = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<ControlExchange {self.name}: {self.refused or 'usable'}>"

    async def run(self, keys: tuple[str, ...], greet: Callable[[], Awaitable[object]]) -> None:
        """Declare it, bind the keys and greet; again whenever it is gone, until the topology ends.

        It is to be cancelled then.
        """
        self._keys = list(keys)
        try:
            while True:
                with contextlib.suppress(NotAnswered):
                    await self._use(self._declare)
                    if not self._bound.done():
                        self._bound.set_result(None)
                    await greet()
                if not self._opened.done():
                    self._opened.set_result(None)
                if self.refused is not None:
                    return
                await self._wait_gone()
        except (ConnectionClosed, ChannelClosed):
            return
        finally:
            if not self._bound.done():
                self._bound.set_result(None)
            if not self._opened.done():
                self._opened.set_exception(ConnectionClosed("the connection to RabbitMQ ended"))

    async def wait_bound(self) -> None:
        """Wait until the process's queue is bound, or cannot be."""
        await asyncio.wait({self._bound}, timeout=_BIND_TIMEOUT)

    async def wait_opened(self) -> None:
        """Wait until it can be used, or was refused; raise :class:`.NotAnswered` then."""
        await follow(self._opened)
        self._require_allowed()

    async def bind(self, key: str) -> None:
        """Bind the process's queue for one more routing key."""
        await self._use(lambda: self._bind(key))
        if key not in self._keys:
            self._keys.append(key)

    async def publish(self, key: str, body: bytes) -> None:
        """Publish, and wait for the confirm, however late.

        Raises :class:`.ServerSentNack` where a queue is full, and :class:`.MessageReturned`.
        """
        await self._use(lambda: self.topology.calls.publish(self.name, key, body))

    async def is_there(self, queue: str, body: bytes) -> bool:
        """Whether a process's queue is there that is not bound here, as far as can be told.

        It may have connected just now, or run version 4.0.1. The body goes to that queue.
        """
        try:
            await self.topology.calls.publish("", queue, body)
        except (MessageReturned, ChannelClosed):
            return False  # gone; or no AMQP channel is free to find out
        except (ServerSentNack, ChannelClosedByServer):
            pass  # it is full; or this process may not publish so, and cannot tell
        return True

    async def is_refused(self, queue: str, body: bytes) -> bool:
        """Whether a queue is there that takes no message: it is full, or its node is down."""
        try:
            await self.topology.calls.publish("", queue, body)
        except ServerSentNack:
            return True
        except (MessageReturned, ChannelClosed, ChannelClosedByServer):
            pass
        return False

    async def restore(self) -> None:
        """Declare and bind it again, as what was published came back to nobody."""
        await self._use(self._declare)

    # Inside

    def _require_allowed(self) -> None:
        if self.refused is not None:
            raise self._error()

    def _error(self) -> NotAnswered:
        return NotAnswered(
            f"other processes cannot be asked: RabbitMQ refuses exchange {self.name}: "
            f"{self.refused}"
        )

    async def _use(self, operation: Callable[[], Awaitable[_T]]) -> _T:
        """Do something with it; if it is gone, declare it and do it again."""
        self._require_allowed()
        try:
            try:
                return await operation()
            except NotFound:
                await self._declare()
                return await operation()
        except NotFound as err:
            # Deleted again, or the queue is gone: then the topology ends, and has a new one.
            raise NotAnswered(f"other processes cannot be asked now: {describe(err)}") from None
        except ChannelClosed as err:
            if not self.topology.protocol.open:
                raise
            raise NotAnswered(f"other processes cannot be asked now: {describe(err)}") from None
        except ChannelClosedByServer as err:
            if self.refused is None:
                self.refused = describe(err)
                self._on_refused(self.name, self.refused)
            raise self._error() from None

    async def _declare(self) -> None:
        async with self._declaring:
            await self.topology.calls.run(
                pamqp.commands.Exchange.Declare(exchange=self.name, exchange_type="direct")
            )
            await asyncio.gather(*map(self._bind, self._keys))

    async def _bind(self, key: str) -> None:
        await self.topology.calls.run(
            pamqp.commands.Queue.Bind(queue=self._queue_name, exchange=self.name, routing_key=key)
        )

    async def _wait_gone(self) -> None:
        look = pamqp.commands.Exchange.Declare(
            exchange=self.name, exchange_type="direct", passive=True
        )
        while True:
            await asyncio.sleep(_LOOK)
            try:
                await self.topology.calls.run(look)
            except ChannelClosedByServer:
                return
            with contextlib.suppress(NotAnswered):
                # Somebody else may have declared it again.
                await self._use(self._declare)
