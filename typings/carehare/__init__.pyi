"""The public surface of carehare 1.0, which ships no type information."""

import asyncio
import ssl as _ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

from pamqp.common import Arguments

__all__ = [
    "BadBytesFromServer",
    "ChannelClosed",
    "ChannelClosedByServer",
    "Connection",
    "ConnectionClosed",
    "ConnectionClosedByHeartbeatMonitor",
    "ConnectionClosedByServer",
    "ServerSentNack",
    "connect",
]

class BadBytesFromServer(Exception): ...
class ConnectionClosedByHeartbeatMonitor(Exception): ...
class ConnectionClosed(Exception): ...
class ServerSentNack(Exception): ...
class ChannelClosed(Exception): ...

class ConnectionClosedByServer(Exception):
    reply_code: int
    reply_text: str
    def __init__(self, reply_code: int, reply_text: str) -> None: ...

class ChannelClosedByServer(Exception):
    reply_code: int
    reply_text: str
    def __init__(self, reply_code: int, reply_text: str) -> None: ...

class _Consumer(Protocol):
    @property
    def closed(self) -> asyncio.Future[None]: ...
    async def next_delivery(self) -> tuple[bytes, int]: ...
    def ack(self, delivery_tag: int) -> None: ...
    def close(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...

class Connection:
    def __init__(
        self,
        url: str,
        *,
        ssl: _ssl.SSLContext | None = None,
        connect_timeout: float | None = None,
    ) -> None: ...
    async def connect(self) -> None: ...
    async def __aenter__(self) -> Connection: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    @property
    def closed(self) -> asyncio.Future[None]: ...
    async def close(self) -> None: ...
    def acking_consumer(
        self, queue_name: str, *, prefetch_size: int = 0, prefetch_count: int = 1
    ) -> _Consumer: ...
    def publish(
        self, message: bytes, *, exchange_name: str = "", routing_key: str = ""
    ) -> asyncio.Future[None]: ...
    def exchange_declare(
        self,
        exchange_name: str,
        *,
        exchange_type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments | None = None,
    ) -> asyncio.Future[None]: ...
    def queue_bind(
        self,
        queue_name: str,
        exchange_name: str,
        *,
        routing_key: str = "",
        arguments: Arguments | None = None,
    ) -> asyncio.Future[None]: ...
    def queue_declare(
        self,
        queue_name: str,
        *,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Arguments | None = None,
    ) -> asyncio.Future[None]: ...
    def queue_unbind(
        self,
        queue_name: str,
        exchange_name: str,
        *,
        routing_key: str = "",
        arguments: Arguments | None = None,
    ) -> asyncio.Future[None]: ...

def connect(
    url: str,
    *,
    ssl: _ssl.SSLContext | None = None,
    connect_timeout: float | None = None,
) -> Connection: ...
