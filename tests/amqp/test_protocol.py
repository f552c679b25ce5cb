"""One connection, against a scripted server on a loopback socket: writing, channels, the end."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from contextlib import suppress

import pamqp.commands
import pamqp.frame
import pytest

from channels_rabbitmq.amqp import protocol as protocol_module
from channels_rabbitmq.amqp.channel import Channel
from channels_rabbitmq.amqp.frames import Method, encode_ack
from channels_rabbitmq.errors import (
    BadBytesFromServer,
    ChannelClosed,
    ConnectionClosed,
    ConnectionClosedByServer,
    ServerSentNack,
)
from tests.helpers.scripted import (
    ScriptedServer,
    connected,
    endpoint,
    never,
    serve_open,
    settled,
    unconnected,
)
from tests.helpers.waiting import until

Basic = pamqp.commands.Basic


# Publishing


async def test_publishes_of_one_turn_are_one_write() -> None:
    """What is published in one turn of the loop reaches the socket in one piece, in order."""
    bodies: list[bytes] = []

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel(confirm=True)
        bodies.extend([(await peer.expect_publish())[1] for _ in range(100)])
        peer.send(number, Basic.Ack(100, True))

    async with connected(script) as connection:
        transport = connection.protocol._transport
        assert transport is not None
        writes = []
        real_write = transport.write

        def write(data: bytes) -> None:
            writes.append(len(data))
            real_write(data)

        transport.write = write  # type: ignore[method-assign,assignment]
        await asyncio.gather(
            *(connection.publish(b"%d" % number, routing_key="q") for number in range(100))
        )

        assert bodies == [b"%d" % number for number in range(100)]
        assert len(writes) == 1


async def test_pause_writing_bounds_memory() -> None:
    """Who waits for writable, as the layer does, holds little when the server does not read."""
    read = asyncio.Event()

    async def script(peer: ScriptedServer) -> None:
        await read.wait()
        number = await peer.accept_channel(confirm=True)
        tag = 0
        while True:
            await peer.expect_publish()
            tag += 1
            peer.send(number, Basic.Ack(tag))

    async with connected(script) as connection:
        protocol = connection.protocol
        transport = protocol._transport
        assert transport is not None
        channel = protocol.open_channel(confirm=True)
        body = bytes(100_000)
        started = 0

        async def publish() -> None:
            nonlocal started
            while not protocol.writable:
                await protocol.wait_writable()
            started += 1
            await channel.publish("", "q", body)

        tasks: list[asyncio.Task[None]] = []
        while protocol.writable:
            tasks.append(asyncio.create_task(publish()))
            await asyncio.sleep(0)
        full = transport.get_write_buffer_size()
        before = started
        tasks += [asyncio.create_task(publish()) for _ in range(50)]
        tasks[-1].cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert started == before
        assert transport.get_write_buffer_size() == full < 4_000_000
        assert not protocol._out

        read.set()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        assert [type(result) for result in results[:-1]] == [type(None)] * (len(tasks) - 1)
        assert isinstance(results[-1], asyncio.CancelledError)
        assert protocol.writable


async def test_writable_again_when_the_connection_ends() -> None:
    """Nobody waits for a socket that is gone to take more."""
    async with connected(never) as connection:
        protocol = connection.protocol
        protocol.pause_writing()
        protocol.pause_writing()
        waiting = asyncio.create_task(protocol.wait_writable())
        cancelled = asyncio.create_task(protocol.wait_writable())
        await asyncio.sleep(0)
        cancelled.cancel()
        protocol.abort()
        await asyncio.wait_for(waiting, 10)
        assert protocol.writable


# Handlers


async def test_error_in_a_handler_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """A bug of ours in handling a message is logged, without the message, and ends it all."""

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel()
        peer.deliver(number, 1, b"secret")

    def fail(channel: Channel, tag: int, redelivered: bool, body: bytes) -> None:
        raise LookupError("a bug")

    async with connected(script) as connection:
        connection.protocol.open_channel(on_delivery=fail)
        assert isinstance(await settled(connection.closed), LookupError)
        assert "giving the connection up" in caplog.text
        assert "secret" not in caplog.text


# Channels


async def test_channel_max() -> None:
    """No more channels are opened than were negotiated; a closed one makes room."""

    async def script(peer: ScriptedServer) -> None:
        for _ in range(16):
            await peer.accept_channel()
        await peer.expect(pamqp.commands.Channel.Close)
        peer.send(peer.channel, pamqp.commands.Channel.CloseOk())
        await peer.accept_channel()

    async with connected(script, channel_max=16) as connection:
        protocol = connection.protocol
        channels = [protocol.open_channel() for _ in range(16)]
        with pytest.raises(ChannelClosed, match="all 16 channels are in use"):
            protocol.open_channel()
        channels[7].close()
        await until(lambda: len(protocol._channels) == 15)
        assert protocol.open_channel().number == 8


# The end of the connection


async def test_server_closes_the_connection() -> None:
    """Everything fails with what the server said, and nothing can be started."""

    async def script(peer: ScriptedServer) -> None:
        await peer.accept_channel(confirm=True)
        await peer.expect_publish()
        peer.send(0, pamqp.commands.Connection.Close(320, "CONNECTION_FORCED - bye", 0, 0))
        peer.send(1, Basic.Ack(1))
        peer.send(0, pamqp.commands.Connection.Blocked("late"))
        await peer.expect(pamqp.commands.Connection.CloseOk)

    async with connected(script) as connection:
        future = connection.publish(b"x", routing_key="q")
        with pytest.raises(ConnectionClosed, match="320 CONNECTION_FORCED - bye"):
            await future
        with pytest.raises(ConnectionClosedByServer, match="320"):
            await asyncio.wait_for(connection.closed, 10)
        assert not connection.protocol.open
        with pytest.raises(ConnectionClosed):
            await connection.publish(b"x")
        with pytest.raises(ConnectionClosed):
            await connection.acking_consumer("q").next_delivery()
        with pytest.raises(ConnectionClosed):
            await connection.queue_declare("q")
        with pytest.raises(ConnectionClosedByServer, match="320"):
            await connection.close()


async def test_server_that_closes_but_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says close and then takes nothing more does not keep the socket open."""
    monkeypatch.setattr(protocol_module, "CLOSE_TIMEOUT", 0.2)
    full = asyncio.Event()

    async def script(peer: ScriptedServer) -> None:
        await full.wait()
        peer.send(0, pamqp.commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0))
        await peer.writer.drain()
        await asyncio.Event().wait()

    async with connected(script) as connection:
        while connection.protocol.writable:
            connection.publish(bytes(100_000)).add_done_callback(lambda done: done.exception())
            await asyncio.sleep(0)
        full.set()
        assert isinstance(await settled(connection.closed), ConnectionClosedByServer)


async def test_close() -> None:
    """Closing says goodbye, fails what waits, may be repeated, and leaves no timer behind."""

    async def script(peer: ScriptedServer) -> None:
        await peer.accept_channel(confirm=True)
        await peer.expect_publish()
        await peer.accept_close()

    async with connected(script) as connection:
        future = connection.publish(b"x", routing_key="q")
        await asyncio.gather(connection.close(), connection.close())
        await connection.close()
        assert await settled(connection.closed) is None
        with pytest.raises(ConnectionClosed, match="the connection is closed"):
            await future
        assert repr(connection.protocol).endswith("closed, 0 channels>")


async def test_frames_after_our_close() -> None:
    """What the server says between our close and its answer is heard, but changes nothing."""

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel(confirm=True)
        await peer.expect_publish()
        await peer.expect(pamqp.commands.Connection.Close)
        peer.send(number, Basic.Ack(1))
        peer.send(0, pamqp.commands.Connection.Blocked("low on memory"))
        peer.send(0, pamqp.commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0))
        await peer.expect(pamqp.commands.Connection.CloseOk)

    async with connected(script) as connection:
        future = connection.publish(b"x", routing_key="q")
        await asyncio.sleep(0)
        await connection.close()
        assert await settled(future) is None
        assert connection.protocol.blocked is None


async def test_close_that_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer a close is left without one."""
    monkeypatch.setattr(protocol_module, "CLOSE_TIMEOUT", 0.1)

    async with connected(never) as connection:
        await asyncio.wait_for(connection.close(), 10)
        assert connection.protocol.error is None


async def test_close_while_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server has blocked publishers it reads nothing, and closing waits less for it."""
    monkeypatch.setattr(protocol_module, "CLOSE_TIMEOUT", 3600)
    monkeypatch.setattr(protocol_module, "CLOSE_TIMEOUT_BLOCKED", 0.1)

    async def script(peer: ScriptedServer) -> None:
        peer.send(0, pamqp.commands.Connection.Blocked("low on memory"))

    async with connected(script) as connection:
        await until(lambda: connection.protocol.blocked)
        await asyncio.wait_for(connection.close(), 10)


async def test_garbage_during_close() -> None:
    """Bytes that are not AMQP are no reason for a close that we asked for to fail."""

    async def script(peer: ScriptedServer) -> None:
        await peer.expect(pamqp.commands.Connection.Close)
        peer.writer.write(b"garbage")

    async with connected(script) as connection:
        await connection.close()


async def test_socket_closed_without_a_word() -> None:
    """A server that just closes the socket is told apart from one that says why."""

    async def script(peer: ScriptedServer) -> None:
        await peer.accept_channel()
        await peer.expect(pamqp.commands.Queue.Declare)
        peer.writer.close()

    async with connected(script) as connection:
        with pytest.raises(ConnectionClosed, match="closed the socket without a word"):
            await connection.queue_declare("q")
        assert isinstance(await settled(connection.closed), ConnectionResetError)


async def test_socket_reset() -> None:
    """A connection that is reset ends with that error."""

    async def script(peer: ScriptedServer) -> None:
        peer.writer.transport.abort()

    async with connected(script) as connection:
        assert isinstance(await settled(connection.closed), ConnectionError)


async def test_garbage_ends_the_connection() -> None:
    """Bytes that are not AMQP end the connection, and callers learn of it."""

    async def script(peer: ScriptedServer) -> None:
        await peer.accept_channel(confirm=True)
        await peer.expect_publish()
        peer.writer.write(b"garbage")

    async with connected(script) as connection:
        with pytest.raises(ConnectionClosed, match="a frame of an unknown type"):
            await connection.publish(b"x")
        assert isinstance(await settled(connection.closed), BadBytesFromServer)


@pytest.mark.parametrize(
    "method",
    [
        pamqp.commands.Connection.Start(0, 9, {}, "PLAIN", "en_US"),
        pamqp.commands.Connection.Tune(0, 0, 1),
        pamqp.commands.Connection.OpenOk(),
        pamqp.commands.Connection.Secure("challenge"),
    ],
)
async def test_handshake_is_over(method: Method) -> None:
    """A method of the handshake after it is bad bytes, and starts nothing."""

    async def script(peer: ScriptedServer) -> None:
        peer.send(0, method)

    async with connected(script) as connection:
        error = await settled(connection.closed)
        assert isinstance(error, BadBytesFromServer)
        assert f"{method.name} was not expected" in str(error)


async def test_waiting_for_the_end_can_be_cancelled() -> None:
    """A task that is cancelled while it awaits ``closed`` harms neither connection nor others."""

    async def script(peer: ScriptedServer) -> None:
        await peer.accept_close()

    async with connected(script) as connection:
        closed = connection.closed
        assert connection.closed is closed
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(closed, 0.01)
        assert closed.cancelled()
        assert not connection.closed.done()
        assert connection.protocol.open
        await connection.close()
        assert await settled(connection.closed) is None


async def test_close_can_be_cancelled() -> None:
    """A ``close()`` that is cancelled goes on closing."""
    answer = asyncio.Event()

    async def script(peer: ScriptedServer) -> None:
        await peer.expect(pamqp.commands.Connection.Close)
        await answer.wait()
        peer.send(0, pamqp.commands.Connection.CloseOk())

    async with connected(script) as connection:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(connection.close(), 0.01)
        answer.set()
        await asyncio.wait_for(connection.close(), 10)


async def test_ended_connection_is_freed() -> None:
    """No timer, callback or cycle of the loop keeps a connection that has ended."""

    async def script(peer: ScriptedServer) -> None:
        await peer.accept_close()

    async with serve_open(script, heartbeat=3600) as port:
        connection = unconnected(port, heartbeat=3600)
        await connection.connect()
        await connection.close()
        gone = weakref.ref(connection.protocol)
        del connection
        await asyncio.sleep(0)
        gc.collect()
        assert gone() is None


# Secrets


async def test_payloads_and_passwords_are_never_told(caplog: pytest.LogCaptureFixture) -> None:
    """At debug level, through failures of every kind, neither log nor errors have the payload."""
    caplog.set_level(logging.DEBUG)
    errors: list[BaseException] = []

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel(confirm=True)
        await peer.expect_publish()
        peer.send_content(number, Basic.Return(312, "NO_ROUTE", "", "q"), b"payload-1")
        peer.send(number, Basic.Ack(1))
        await peer.expect_publish()
        peer.send(number, Basic.Nack(2))
        await peer.expect_publish()
        peer.deliver(number, 1, b"payload-3")
        peer.writer.write(b"\x01\x00\x01\x00\x00\x00\x09payload-4!")

    async with connected(script, password="hunter2-password") as connection:
        for body, mandatory in ((b"payload-1", True), (b"payload-2", False), (b"payload-5", False)):
            with pytest.raises((ServerSentNack, ConnectionClosed)) as caught:
                await connection.publish(body, routing_key="q", mandatory=mandatory)
            errors.append(caught.value)
        error = await settled(connection.closed)
        assert isinstance(error, BadBytesFromServer)
        told = caplog.text + "".join(
            map(repr, [*errors, error, connection, connection.protocol.endpoint])
        )
        assert "payload" not in told
        assert "hunter2" not in told


async def test_uvloop_transports() -> None:
    """The engine takes a transport that is none of asyncio's own classes, as uvloop's are."""

    class Transport:
        written = b""
        aborted = False

        def write(self, data: bytes) -> None:
            self.written += data

        def abort(self) -> None:
            self.aborted = True

    transport = Transport()
    protocol = protocol_module.Protocol(endpoint(1), asyncio.get_running_loop())
    protocol.connection_made(transport)  # type: ignore[arg-type]
    assert transport.written == b"AMQP\x00\x00\x09\x01"
    assert protocol.eof_received() is False
    protocol.write_late(lambda: encode_ack(1, 1, False))
    protocol.write_late(lambda: encode_ack(1, 2, False))
    await asyncio.sleep(0)
    assert transport.written.endswith(encode_ack(1, 1, False) + encode_ack(1, 2, False))
    protocol.abort()
    assert transport.aborted
    protocol.connection_lost(None)
    protocol.connection_lost(None)
    protocol.write(encode_ack(1, 1, False))
    await asyncio.sleep(0)
    with suppress(ConnectionResetError):
        await protocol.closed


async def test_reset_discards_what_was_not_read() -> None:
    """A server that hung finds a TCP reset, and no publishes that would come too late."""
    found: list[OSError] = []

    async def script(peer: ScriptedServer) -> None:
        try:
            while await peer.reader.read(1000):
                pass
        except OSError as err:
            found.append(err)

    async with connected(script) as connection:
        why = ConnectionClosed("it hangs")
        connection.protocol.reset(why)
        with pytest.raises(ConnectionClosed, match="it hangs"):
            await connection.closed
        await until(lambda: found)
        connection.protocol.reset(why)  # nothing happens
    assert isinstance(found[0], ConnectionResetError)
