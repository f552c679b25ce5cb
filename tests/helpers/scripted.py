"""An AMQP server that does what a test tells it to, on a real loopback socket."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pamqp.base
import pamqp.body
import pamqp.commands
import pamqp.frame
import pamqp.header
import pamqp.heartbeat

from channels_rabbitmq.amqp.endpoint import Endpoint
from channels_rabbitmq.amqp.protocol import Protocol
from channels_rabbitmq.connection import Connection

T = TypeVar("T")

#: What the server does on one connection.
Script = Callable[["ScriptedServer"], Awaitable[None]]


def endpoint(port: int, **changes: object) -> Endpoint:
    """The way to a server on a loopback port; no heartbeats, five seconds to connect."""
    settings: dict[str, object] = {
        "host": "127.0.0.1",
        "port": port,
        "username": "guest",
        "password": "guest",
        "virtual_host": "/",
        "tls": None,
        "server_hostname": None,
        "heartbeat": 0,
        "connect_timeout": 5.0,
    }
    return Endpoint(**(settings | changes))  # type: ignore[arg-type]


def unconnected(port: int, **changes: object) -> Connection:
    """A connection to a server on a loopback port, before ``connect()``."""
    return Connection(Protocol(endpoint(port, **changes), asyncio.get_running_loop()), None)


class ScriptedServer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        #: The channel of the frame that was read last.
        self.channel = 0
        #: Heartbeats read so far.
        self.heartbeats = 0

    async def read(self) -> object:
        """Read the next frame that is no heartbeat."""
        while True:
            start = await self.reader.readexactly(7)
            size = int.from_bytes(start[3:7], "big")
            rest = await self.reader.readexactly(size + 1)
            _, self.channel, frame = pamqp.frame.unmarshal(start + rest)
            if not isinstance(frame, pamqp.heartbeat.Heartbeat):
                return frame
            self.heartbeats += 1

    async def expect(self, kind: type[T]) -> T:
        """Read the next frame, which must be of this kind."""
        frame = await self.read()
        if not isinstance(frame, kind):
            raise AssertionError(f"expected {kind.__name__}, got {frame!r}")
        return frame

    async def expect_publish(self) -> tuple[pamqp.commands.Basic.Publish, bytes]:
        """Read a whole ``basic.publish``: the method and the body."""
        publish = await self.expect(pamqp.commands.Basic.Publish)
        header = await self.expect(pamqp.header.ContentHeader)
        body = b""
        while len(body) < header.body_size:
            body += (await self.expect(pamqp.body.ContentBody)).value
        return publish, body

    def send(self, channel: int, *methods: pamqp.base.Frame) -> None:
        """Write methods."""
        for method in methods:
            self.writer.write(pamqp.frame.marshal(method, channel))

    def send_content(self, channel: int, method: pamqp.base.Frame, body: bytes) -> None:
        """Write a method with a message."""
        self.writer.write(content(channel, method, body))

    def deliver(
        self, channel: int, delivery_tag: int, body: bytes, *, redelivered: bool = False
    ) -> None:
        """Write a ``basic.deliver``."""
        method = pamqp.commands.Basic.Deliver("carehare", delivery_tag, redelivered, "", "q")
        self.send_content(channel, method, body)

    async def start(self, mechanisms: str = "PLAIN AMQPLAIN EXTERNAL") -> bytes:
        """The handshake up to the credentials: give the client's ``response``."""
        assert await self.reader.readexactly(8) == b"AMQP\x00\x00\x09\x01"
        self.send(0, pamqp.commands.Connection.Start(0, 9, {}, mechanisms, "en_US"))
        start_ok = await self.expect(pamqp.commands.Connection.StartOk)
        response: object = start_ok.response  # pamqp gives bytes where it is not UTF-8
        return response if isinstance(response, bytes) else str(response).encode()

    async def handshake(
        self, *, frame_max: int = 131072, channel_max: int = 2047, heartbeat: int = 0
    ) -> pamqp.commands.Connection.TuneOk:
        """The whole handshake: give what the client agreed to."""
        await self.start()
        self.send(0, pamqp.commands.Connection.Tune(channel_max, frame_max, heartbeat))
        tune_ok = await self.expect(pamqp.commands.Connection.TuneOk)
        await self.expect(pamqp.commands.Connection.Open)
        self.send(0, pamqp.commands.Connection.OpenOk())
        return tune_ok

    async def accept_channel(self, *, confirm: bool = False) -> int:
        """Open the channel that the client asks for; give its number."""
        await self.expect(pamqp.commands.Channel.Open)
        number = self.channel
        self.send(number, pamqp.commands.Channel.OpenOk())
        if confirm:
            await self.expect(pamqp.commands.Confirm.Select)
            self.send(number, pamqp.commands.Confirm.SelectOk())
        return number

    async def accept_consumer(self) -> int:
        """Open a channel and start the consumer that the client asks for; give its number."""
        number = await self.accept_channel()
        await self.expect(pamqp.commands.Basic.Qos)
        self.send(number, pamqp.commands.Basic.QosOk())
        await self.expect(pamqp.commands.Basic.Consume)
        self.send(number, pamqp.commands.Basic.ConsumeOk("carehare"))
        return number

    async def accept_close(self) -> None:
        """Answer the client's ``connection.close``, reading past what comes before it."""
        while not isinstance(await self.read(), pamqp.commands.Connection.Close):
            pass
        self.send(0, pamqp.commands.Connection.CloseOk())

    async def wait_eof(self) -> bytes:
        """Read until the client closes the socket; give what came before."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


def content(channel: int, method: pamqp.base.Frame, body: bytes, step: int = 131064) -> bytes:
    """The frames of a method with a message."""
    frames = [
        pamqp.frame.marshal(method, channel),
        pamqp.frame.marshal(pamqp.header.ContentHeader(body_size=len(body)), channel),
    ]
    frames += [
        pamqp.frame.marshal(pamqp.body.ContentBody(body[at : at + step]), channel)
        for at in range(0, len(body), step)
    ]
    return b"".join(frames)


@contextlib.asynccontextmanager
async def serve(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run a server that follows the script on each connection; give its port.

    A connection stays open until the client closes it. On leaving, an error in the script is
    raised.
    """
    errors: list[BaseException] = []
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
        peer = ScriptedServer(reader, writer)
        try:
            await script(peer)
            await peer.wait_eof()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone, as the test wanted or will find out
        except asyncio.CancelledError:
            pass  # the test is over; asyncio would report the cancellation of its own task
        except Exception as err:
            errors.append(err)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()
    if errors:
        raise errors[0]


def serve_open(
    script: Script, *, heartbeat: int = 0
) -> contextlib.AbstractAsyncContextManager[int]:
    """A server that follows the script after the handshake; see :func:`serve`."""

    async def after_handshake(peer: ScriptedServer) -> None:
        await peer.handshake(heartbeat=heartbeat)
        await script(peer)

    return serve(after_handshake)


@contextlib.asynccontextmanager
async def connected(script: Script, **changes: object) -> AsyncIterator[Connection]:
    """A connection to a server that follows the script after the handshake.

    ``changes`` are to the endpoint. What is still open at the end is given up.
    """
    async with serve_open(script) as port:
        connection = unconnected(port, **changes)
        await connection.connect()
        try:
            yield connection
        finally:
            connection.protocol.abort()
            with contextlib.suppress(Exception):
                await asyncio.shield(connection.protocol.closed)


async def never(peer: ScriptedServer) -> None:
    """Do nothing after the handshake."""


async def settled(future: asyncio.Future[None]) -> BaseException | None:
    """Wait for a future, ten seconds at most; give its error."""
    await asyncio.wait({future}, timeout=10)
    if not future.done():
        raise AssertionError(f"still waiting: {future!r}")
    return future.exception()


async def fail_to_connect(port: int, **changes: object) -> Exception:
    """Give the error of an attempt to connect, which leaves a closed connection."""
    connection = unconnected(port, **changes)
    try:
        await connection.connect()
    except Exception as err:
        await asyncio.wait({connection.protocol.closed}, timeout=10)
        assert connection.protocol.closed.done()
        assert not connection.protocol.open
        assert connection.protocol._heartbeat_timer is None
        return err
    raise AssertionError("it connected")
