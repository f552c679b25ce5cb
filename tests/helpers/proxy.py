"""A TCP hop between a layer and its broker, that cuts, freezes and refuses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import TracebackType
from urllib.parse import urlsplit


class Proxy:
    """Forwards TCP connections to the host and port of an AMQP URL. For one event loop.

    ::

        async with Proxy(amqp_url) as proxy:
            layer = make_layer(host=proxy.url)
            proxy.cut()
    """

    def __init__(self, target_url: str) -> None:
        self._target = urlsplit(target_url)
        self._server: asyncio.Server | None = None
        self._port = 0
        #: One task for each direction of each connection.
        self._pumps: set[asyncio.Task[None]] = set()
        #: The sockets of clients, each with the one to the broker.
        self._pairs: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        #: Those to the broker that outlived their clients.
        self._lingering: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        #: Connections taken, and led on to the broker, since the start.
        self.accepted = 0
        #: Bytes that came from clients.
        self.bytes_up = 0

    @property
    def url(self) -> str:
        """The AMQP URL that leads through the proxy."""
        user, _, _ = self._target.netloc.rpartition("@")
        return self._target._replace(netloc=f"{user}@127.0.0.1:{self._port}").geturl()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._pairs)

    async def accept(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, family=socket.AF_INET
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Take no more connections; those that are there stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self, *, broker_notices: bool = True) -> None:
        """End every connection without a word; the broker need not notice."""
        for client, upstream in list(self._pairs.items()):
            if not broker_notices:
                self._lingering.add(upstream)
            client.transport.abort()
            if broker_notices:
                upstream.transport.abort()

    def release(self) -> None:
        """Let the broker notice what it had not."""
        for upstream in self._lingering:
            upstream.transport.abort()
        self._lingering.clear()

    def freeze(self) -> None:
        """Forward nothing any more, in either direction, in new connections too."""
        self._flows.clear()

    def thaw(self) -> None:
        """Forward again, first what was held back."""
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream = await asyncio.open_connection(
                self._target.hostname, self._target.port or 5672
            )
        except OSError:
            writer.transport.abort()
            return
        self._pairs[writer] = upstream
        self.accepted += 1  # from here on a cut reaches it
        up = asyncio.create_task(self._pump(reader, upstream, is_up=True))
        down = asyncio.create_task(self._pump(upstream_reader, writer, is_up=False))
        self._pumps |= {up, down}
        try:
            await asyncio.wait({up, down})
        finally:
            for task in (up, down):
                task.cancel()
            self._pumps -= {up, down}
            self._pairs.pop(writer, None)
            writer.transport.abort()
            if upstream not in self._lingering:
                upstream.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if is_up:
                    self.bytes_up += len(data)
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        if writer not in self._lingering:
            writer.close()

    async def __aenter__(self) -> Proxy:
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.refuse()
        self.thaw()
        self.cut()
        self.release()
        for pump in list(self._pumps):
            pump.cancel()
        while self._pumps or self._pairs:
            await asyncio.sleep(0.01)
