"""The engine against a scripted server on a loopback socket: channels, replies, flow, the end."""

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
    ChannelClosedByServer,
    ConnectionClosed,
    ConnectionClosedByServer,
    MessageReturned,
    ServerSentNack,
)
from tests.helpers.scripted import (
    Peer,
    connected,
    content,
    endpoint,
    serve,
    serve_open,
    unconnected,
)
from tests.helpers.support import until

Basic = pamqp.commands.Basic


async def settled(future: asyncio.Future[None]) -> BaseException | None:
    """Wait for a future, ten seconds at most; give its error."""
    await asyncio.wait({future}, timeout=10)
    if not future.done():
        raise AssertionError(f"still waiting: {future!r}")
    return future.exception()


async def never(peer: Peer) -> None:
    """Do nothing after the handshake."""


# Publishing


async def test_publishes_of_one_turn_are_one_write() -> None:
    """What is published in one turn of the loop reaches the socket in one piece, in order."""
    bodies: list[bytes] = []

    async def script(peer: Peer) -> None:
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


async def test_cancelled_publish_disturbs_nothing() -> None:
    """The confirm of a publish that was cancelled under way changes nothing for the others."""
    published = asyncio.Event()
    answer = asyncio.Event()

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel(confirm=True)
        for _ in range(3):
            await peer.expect_publish()
        published.set()
        await answer.wait()
        peer.send(number, Basic.Ack(1, False), Basic.Ack(2, False), Basic.Ack(3, False))
        for tag in (4, 5, 6):
            await peer.expect_publish()
            peer.send(number, Basic.Ack(tag, True))

    async with connected(script) as connection:
        futures = [connection.publish(b"x", routing_key="q") for _ in range(3)]
        await published.wait()
        futures[1].cancel()
        answer.set()
        await futures[0]
        await futures[2]
        await connection.publish(b"y", routing_key="q")
        cancelled = connection.publish(b"z", routing_key="q")
        cancelled.cancel()
        await connection.publish(b"y", routing_key="q")
        assert len(connection._publishers[""].confirms) == 0


async def test_nacks() -> None:
    """A nack fails its publishes, and no others."""

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel(confirm=True)
        for _ in range(4):
            await peer.expect_publish()
        peer.send(number, Basic.Nack(2, True), Basic.Ack(3), Basic.Nack(4))

    async with connected(script) as connection:
        futures = [connection.publish(b"x", routing_key="q") for _ in range(4)]
        results = await asyncio.gather(*futures, return_exceptions=True)

        assert [type(result) for result in results] == [
            ServerSentNack,
            ServerSentNack,
            type(None),
            ServerSentNack,
        ]


async def test_returned_message() -> None:
    """Of mandatory messages that look alike, the first that may have come back has."""

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel(confirm=True)
        for _ in range(5):
            await peer.expect_publish()
        returned = Basic.Return(312, "NO_ROUTE", "", "gone")
        peer.send(number, Basic.Ack(1))
        peer.send_content(number, returned, b"same")
        peer.send_content(number, returned, b"other")
        peer.send(number, Basic.Ack(5, True))
        peer.send_content(number, returned, b"same")

    async with connected(script) as connection:
        futures = [
            connection.publish(b"same", routing_key="gone", mandatory=True),
            connection.publish(b"same", routing_key="gone", mandatory=True),
            connection.publish(b"same", routing_key="gone"),
            connection.publish(b"same", routing_key="there", mandatory=True),
            connection.publish(b"same", routing_key="gone", mandatory=True),
        ]
        results = await asyncio.gather(*futures, return_exceptions=True)

        assert [type(result) for result in results] == [
            type(None),
            MessageReturned,
            type(None),
            type(None),
            type(None),
        ]
        assert "same" not in str(results[1])
        channel = connection._publishers[""]
        await until(lambda: not channel._mandatory)


async def test_cancelled_mandatory_publish() -> None:
    """A message that comes back after its publish was cancelled is nobody's."""
    published = asyncio.Event()
    answer = asyncio.Event()

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel(confirm=True)
        await peer.expect_publish()
        published.set()
        await answer.wait()
        peer.send_content(number, Basic.Return(312, "NO_ROUTE", "", "gone"), b"x")
        peer.send(number, Basic.Ack(1))
        await peer.expect_publish()
        peer.send(number, Basic.Ack(2))

    async with connected(script) as connection:
        future = connection.publish(b"x", routing_key="gone", mandatory=True)
        await published.wait()
        future.cancel()
        answer.set()
        await connection.publish(b"y", routing_key="q")


async def test_pause_writing_bounds_memory() -> None:
    """Who waits for writable, as the layer does, holds little when the server does not read."""
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
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


# Replies


async def test_replies_come_in_order() -> None:
    """Calls on one channel are pipelined and answered in order, also those that were cancelled."""

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel()
        names = [(await peer.expect(pamqp.commands.Queue.Declare)).queue for _ in range(3)]
        for count, name in enumerate(names):
            peer.send(number, pamqp.commands.Queue.DeclareOk(name, count, 0))

    async with connected(script) as connection:
        channel = connection.protocol.open_channel()
        futures = [channel.call(pamqp.commands.Queue.Declare(queue=f"q{i}")) for i in range(3)]
        assert channel.busy
        assert repr(channel) == "<Channel 1 open, 4 calls and 0 publishes waiting>"
        futures[1].cancel()

        assert [(await futures[i]).queue for i in (0, 2)] == ["q0", "q2"]  # type: ignore[attr-defined]
        assert not channel.busy


async def test_call_that_cannot_be_sent_leaves_the_channel_as_it_was() -> None:
    """A method that pamqp cannot pack raises, and the replies still go to whom they belong."""

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel()
        await peer.expect(pamqp.commands.Queue.Declare)
        peer.send(number, pamqp.commands.Queue.DeclareOk("q", 7, 0))

    async with connected(script) as connection:
        channel = connection.protocol.open_channel()
        with pytest.raises(TypeError):
            channel.call(pamqp.commands.Queue.Declare(queue="q", arguments={"x": object()}))  # type: ignore[dict-item]
        reply = await channel.call(pamqp.commands.Queue.Declare(queue="q"))
        assert isinstance(reply, pamqp.commands.Queue.DeclareOk)
        assert reply.message_count == 7


async def test_methods_that_nobody_asked_for() -> None:
    """Flow is answered; stray replies, gets and frames for unknown channels are passed over."""
    flow_ok: list[Method] = []

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel(confirm=True)
        await peer.expect_publish()
        peer.send(number, pamqp.commands.Queue.PurgeOk(3))
        peer.send(77, pamqp.commands.Queue.PurgeOk(3), Basic.Ack(1), Basic.Nack(1))
        peer.deliver(77, 1, b"for nobody")
        peer.deliver(number, 1, b"for nobody either")
        peer.send_content(77, Basic.Return(312, "NO_ROUTE", "", "q"), b"x")
        peer.send_content(number, Basic.GetOk(1, False, "", "q", 0), b"x")
        peer.send(number, pamqp.commands.Channel.Flow(False))
        flow_ok.append(await peer.expect(pamqp.commands.Channel.FlowOk))
        peer.send(number, Basic.Ack(1))

    async with connected(script) as connection:
        await connection.publish(b"x", routing_key="q")
        assert [dict(method) for method in flow_ok] == [{"active": True}]


# Deliveries


async def test_acks_of_one_turn_are_coalesced() -> None:
    """Deliveries that are done with in one turn are acknowledged by one frame."""
    acks: list[Basic.Ack] = []

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel()
        deliver = [Basic.Deliver("c", tag, False, "", "q") for tag in range(1, 11)]
        peer.writer.write(b"".join(content(number, method, b"x") for method in deliver))
        acks.append(await peer.expect(Basic.Ack))

    async with connected(script) as connection:
        connection.protocol.open_channel(
            on_delivery=lambda channel, tag, redelivered, body: channel.ack(tag)
        )
        await until(lambda: acks)
        assert [dict(ack) for ack in acks] == [{"delivery_tag": 10, "multiple": True}]


@pytest.mark.parametrize("tag", [0, 2, 2**63 - 1])
async def test_delivery_out_of_order_ends_the_connection(tag: int) -> None:
    """A server that skips a delivery tag cannot be acknowledged to; the connection is given up."""

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel()
        peer.deliver(number, tag, b"x")

    async with connected(script) as connection:
        connection.protocol.open_channel(on_delivery=lambda *delivery: None)
        error = await settled(connection.closed)
        assert isinstance(error, BadBytesFromServer)
        assert "not numbered in order" in str(error)


async def test_error_in_a_handler_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """A bug of ours in handling a message is logged, without the message, and ends it all."""

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel()
        peer.deliver(number, 1, b"secret")

    def fail(channel: Channel, tag: int, redelivered: bool, body: bytes) -> None:
        raise LookupError("a bug")

    async with connected(script) as connection:
        connection.protocol.open_channel(on_delivery=fail)
        assert isinstance(await settled(connection.closed), LookupError)
        assert "giving the connection up" in caplog.text
        assert "secret" not in caplog.text


async def test_deliveries_to_a_closed_channel() -> None:
    """What was on its way when we closed the channel is not delivered, and not acknowledged."""
    got: list[bytes] = []

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel()
        await peer.expect(pamqp.commands.Channel.Close)
        peer.deliver(number, 1, b"late")
        peer.send(number, pamqp.commands.Queue.DeclareOk("q", 0, 0), Basic.Nack(1))
        peer.send(number, pamqp.commands.Channel.CloseOk())

    async with connected(script) as connection:
        protocol = connection.protocol
        channel = protocol.open_channel(on_delivery=lambda _, tag, again, body: got.append(body))
        channel.close()
        channel.close()
        channel.ack(1)
        await until(lambda: not protocol._channels)
        assert got == []
        assert not protocol._late


# The end of a channel


async def test_server_closes_a_channel() -> None:
    """All that waits on the channel fails with the reason; the number is used again."""
    numbers: list[int] = []

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel(confirm=True)
        numbers.append(number)
        await peer.expect_publish()
        await peer.expect(pamqp.commands.Queue.Declare)
        peer.send(number, pamqp.commands.Channel.Close(406, "PRECONDITION_FAILED", 50, 10))
        await peer.expect(pamqp.commands.Channel.CloseOk)
        numbers.append(await peer.accept_channel())

    ended: list[Exception | None] = []
    async with connected(script) as connection:
        protocol = connection.protocol
        channel = protocol.open_channel(
            confirm=True, on_closed=lambda closed, reason: ended.append(reason)
        )
        publish = channel.publish("", "q", b"x")
        call = channel.call(pamqp.commands.Queue.Declare(queue="q"))
        for future in (publish, call):
            with pytest.raises(ChannelClosedByServer, match="406 PRECONDITION_FAILED"):
                await future
        assert not channel.open
        assert "closed" in repr(channel)
        for future in (
            channel.publish("", "q", b"x"),
            channel.call(pamqp.commands.Queue.Declare(queue="q")),
        ):
            with pytest.raises(ChannelClosedByServer):
                await future
        protocol.open_channel()
        await until(lambda: len(numbers) == 2)
        assert numbers == [1, 1]
        assert len(ended) == 1


async def test_both_sides_close_a_channel_at_once() -> None:
    """A channel number is not used again before the server answered our own close.

    Else that answer would count for the new channel with the number.
    """
    numbers: list[int] = []

    async def script(peer: Peer) -> None:
        number = await peer.accept_channel()
        await peer.expect(pamqp.commands.Channel.Close)
        peer.send(number, pamqp.commands.Channel.Close(406, "too late", 0, 0))
        await peer.expect(pamqp.commands.Channel.CloseOk)
        numbers.append(await peer.accept_channel())
        peer.send(number, pamqp.commands.Channel.CloseOk())
        await peer.expect(pamqp.commands.Queue.Declare)
        numbers.append(await peer.accept_channel())
        peer.send(numbers[0], pamqp.commands.Queue.DeclareOk("q", 0, 0))

    async with connected(script) as connection:
        protocol = connection.protocol
        first = protocol.open_channel()
        first.close()
        await until(lambda: b"".join(protocol._out) == b"")
        second = protocol.open_channel()
        await until(lambda: 1 not in protocol._channels)
        reply = second.call(pamqp.commands.Queue.Declare(queue="q"))
        third = protocol.open_channel()
        await asyncio.wait_for(reply, 10)
        assert second.open
        assert {first.number, second.number} == {1, 2}
        assert third.number == 1
        assert numbers == [2, 1]


async def test_closing_a_channel_fails_what_waits() -> None:
    """What waits on a channel that we close fails with ChannelClosed."""

    async def script(peer: Peer) -> None:
        await peer.accept_channel(confirm=True)

    async with connected(script) as connection:
        channel = connection.protocol.open_channel(confirm=True)
        future = channel.publish("", "q", b"x")
        channel.close()
        with pytest.raises(ChannelClosed):
            await future


async def test_channel_max() -> None:
    """No more channels are opened than were negotiated; a closed one makes room."""

    async def script(peer: Peer) -> None:
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


async def test_user_calls_leave_channels_for_others() -> None:
    """With few channels, calls and publishes of users take a quarter each, and the rest wait."""
    highest = 0

    async def script(peer: Peer) -> None:
        nonlocal highest
        while True:
            method = await peer.read()
            highest = max(highest, peer.channel)
            if isinstance(method, pamqp.commands.Channel.Open):
                peer.send(peer.channel, pamqp.commands.Channel.OpenOk())
            elif isinstance(method, pamqp.commands.Queue.Bind):
                peer.send(peer.channel, pamqp.commands.Queue.BindOk())

    async with connected(script, channel_max=16) as connection:
        futures = [connection.queue_bind("q", "x", routing_key=str(i)) for i in range(100)]
        futures[50].cancel()
        done = await asyncio.gather(*futures, return_exceptions=True)
        assert [result for result in done if result is not None][1:] == []
        assert isinstance(done[50], asyncio.CancelledError)
        assert highest == 4


async def test_idle_channel_that_the_server_closed() -> None:
    """A call does not use a channel that the server closed meanwhile."""
    numbers: list[int] = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            numbers.append(await peer.accept_channel())
            await peer.expect(pamqp.commands.Queue.Declare)
            peer.send(1, pamqp.commands.Queue.DeclareOk("q", 0, 0))
            peer.send(1, pamqp.commands.Channel.Close(541, "INTERNAL_ERROR", 0, 0))
            await peer.expect(pamqp.commands.Channel.CloseOk)

    async with connected(script) as connection:
        for _ in range(2):
            await connection.queue_declare("q")
            await until(lambda: not connection.protocol._channels)
        assert numbers == [1, 1]


async def test_calls_without_a_channel() -> None:
    """When every channel is taken, a call fails and says so."""

    async def script(peer: Peer) -> None:
        for _ in range(16):
            await peer.accept_channel()

    async with connected(script, channel_max=16) as connection:
        for _ in range(16):
            connection.protocol.open_channel()
        with pytest.raises(ChannelClosed, match="in use"):
            await connection.queue_declare("q")
        with pytest.raises(ChannelClosed, match="in use"):
            await connection.publish(b"x")
        consumer = connection.acking_consumer("q")
        with pytest.raises(ChannelClosed, match="in use"):
            await consumer.next_delivery()
        with pytest.raises(ChannelClosed, match="in use"):
            await anext(consumer)


# The end of the connection


async def test_server_closes_the_connection() -> None:
    """Everything fails with what the server said, and nothing can be started."""

    async def script(peer: Peer) -> None:
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

    async def script(peer: Peer) -> None:
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

    async def script(peer: Peer) -> None:
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

    async def script(peer: Peer) -> None:
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

    async def script(peer: Peer) -> None:
        peer.send(0, pamqp.commands.Connection.Blocked("low on memory"))

    async with connected(script) as connection:
        await until(lambda: connection.protocol.blocked)
        await asyncio.wait_for(connection.close(), 10)


async def test_garbage_during_close() -> None:
    """Bytes that are not AMQP are no reason for a close that we asked for to fail."""

    async def script(peer: Peer) -> None:
        await peer.expect(pamqp.commands.Connection.Close)
        peer.writer.write(b"garbage")

    async with connected(script) as connection:
        await connection.close()


async def test_socket_closed_without_a_word() -> None:
    """A server that just closes the socket is told apart from one that says why."""

    async def script(peer: Peer) -> None:
        await peer.accept_channel()
        await peer.expect(pamqp.commands.Queue.Declare)
        peer.writer.close()

    async with connected(script) as connection:
        with pytest.raises(ConnectionClosed, match="closed the socket without a word"):
            await connection.queue_declare("q")
        assert isinstance(await settled(connection.closed), ConnectionResetError)


async def test_socket_reset() -> None:
    """A connection that is reset ends with that error."""

    async def script(peer: Peer) -> None:
        peer.writer.transport.abort()

    async with connected(script) as connection:
        assert isinstance(await settled(connection.closed), ConnectionError)


async def test_cut() -> None:
    """A connection can be cut from another thread, and both sides notice."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.wait_eof()
        gone.set()

    async with connected(script) as connection:
        await asyncio.to_thread(connection.protocol.cut)
        assert isinstance(await settled(connection.closed), ConnectionError)
        await asyncio.wait_for(gone.wait(), 10)
        connection.protocol.cut()
    unconnected(1).protocol.cut()


async def test_garbage_ends_the_connection() -> None:
    """Bytes that are not AMQP end the connection, and callers learn of it."""

    async def script(peer: Peer) -> None:
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

    async def script(peer: Peer) -> None:
        peer.send(0, method)

    async with connected(script) as connection:
        error = await settled(connection.closed)
        assert isinstance(error, BadBytesFromServer)
        assert f"{method.name} was not expected" in str(error)


async def test_waiting_for_the_end_can_be_cancelled() -> None:
    """A task that is cancelled while it awaits ``closed`` harms neither connection nor others."""

    async def script(peer: Peer) -> None:
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

    async def script(peer: Peer) -> None:
        await peer.expect(pamqp.commands.Connection.Close)
        await answer.wait()
        peer.send(0, pamqp.commands.Connection.CloseOk())

    async with connected(script) as connection:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(connection.close(), 0.01)
        answer.set()
        await asyncio.wait_for(connection.close(), 10)


async def test_before_connecting() -> None:
    """A connection that was not made yet cannot be used, and says so."""
    connection = unconnected(1)

    assert repr(connection.protocol) == "<Protocol 127.0.0.1:1/%2F connecting, 0 channels>"
    assert connection.protocol.endpoint.port == 1
    with pytest.raises(ConnectionClosed, match="the connection is closed"):
        await connection.publish(b"x")
    with pytest.raises(ConnectionClosed, match="closed before it was open"):
        await connection.close()


async def test_close_while_connecting() -> None:
    """Closing during the handshake ends it: ``connect()`` fails and nothing stays open."""
    reached = asyncio.Event()
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.start()
        reached.set()
        await peer.wait_eof()
        gone.set()

    async with serve(script) as port:
        connection = unconnected(port)
        connecting = asyncio.create_task(connection.connect())
        await reached.wait()
        with pytest.raises(ConnectionClosed, match="closed before it was open"):
            await connection.close()
        with pytest.raises(ConnectionClosed, match="closed before it was open"):
            await connecting
        await asyncio.wait_for(gone.wait(), 10)


async def test_close_before_the_socket_is_there() -> None:
    """Closing while the socket is being connected ends that too."""
    greeted: list[bytes] = []

    async def script(peer: Peer) -> None:
        greeted.append(await peer.wait_eof())

    async with serve(script) as port:
        connection = unconnected(port)
        connecting = asyncio.create_task(connection.connect())
        while not connection.protocol.started:
            await asyncio.sleep(0)
        with pytest.raises(ConnectionClosed, match="closed before it was open"):
            await connection.close()
        with pytest.raises(ConnectionClosed, match="closed before it was open"):
            await connecting
        await until(lambda: greeted)
        assert greeted == [b""]


async def test_failed_connection_can_be_closed() -> None:
    """``close()`` after a ``connect()`` that failed does not wait for ever."""
    async with serve(never) as port:
        pass
    connection = unconnected(port)
    with pytest.raises(ConnectionRefusedError):
        await connection.connect()
    connection.protocol.abort()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.wait_for(connection.close(), 10)


async def test_connect_can_be_cancelled() -> None:
    """A ``connect()`` that is cancelled leaves no socket behind."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.wait_eof()
        gone.set()

    async with serve(script) as port:
        connection = unconnected(port)
        connecting = asyncio.create_task(connection.connect())
        await until(lambda: connection.protocol.connected)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await asyncio.wait_for(gone.wait(), 10)
        with pytest.raises(ConnectionClosed, match="connecting was given up"):
            await connection.close()


async def test_ended_connection_is_freed() -> None:
    """No timer, callback or cycle of the loop keeps a connection that has ended."""

    async def script(peer: Peer) -> None:
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

    async def script(peer: Peer) -> None:
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
