"""Channels: replies in order, publishes and their confirms, deliveries and their acks."""

from __future__ import annotations

import asyncio

import pamqp.commands
import pamqp.frame
import pytest

from channels_rabbitmq.amqp import channel as channel_module
from channels_rabbitmq.amqp.channel import Channel
from channels_rabbitmq.amqp.frames import Method
from channels_rabbitmq.errors import (
    BadBytesFromServer,
    ChannelClosed,
    ChannelClosedByServer,
    ConnectionClosed,
    MessageReturned,
    ServerSentNack,
)
from tests.helpers.scripted import ScriptedServer, connected, content, settled
from tests.helpers.waiting import until

Basic = pamqp.commands.Basic


async def test_cancelled_publish_disturbs_nothing() -> None:
    """The confirm of a publish that was cancelled under way changes nothing for the others."""
    published = asyncio.Event()
    answer = asyncio.Event()

    async def script(peer: ScriptedServer) -> None:
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

    async def script(peer: ScriptedServer) -> None:
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

    async def script(peer: ScriptedServer) -> None:
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

    async def script(peer: ScriptedServer) -> None:
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


async def test_replies_come_in_order() -> None:
    """Calls on one channel are pipelined and answered in order, also those that were cancelled."""

    async def script(peer: ScriptedServer) -> None:
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

    async def script(peer: ScriptedServer) -> None:
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

    async def script(peer: ScriptedServer) -> None:
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


async def test_close_ok_that_nobody_asked_for() -> None:
    """An unsolicited ``channel.close-ok`` ends the connection: no call may wait for ever."""

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel()
        await peer.expect(pamqp.commands.Queue.Declare)
        peer.send(number, pamqp.commands.Channel.CloseOk())

    async with connected(script) as connection:
        with pytest.raises(ConnectionClosed, match=r"answers no channel\.close"):
            await asyncio.wait_for(connection.queue_declare("q"), 10)
        assert isinstance(await settled(connection.closed), BadBytesFromServer)


async def test_acks_of_one_turn_are_coalesced() -> None:
    """Deliveries that are done with in one turn are acknowledged by one frame."""
    acks: list[Basic.Ack] = []

    async def script(peer: ScriptedServer) -> None:
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


def ack_at_once(channel: Channel, tag: int, redelivered: bool, body: bytes) -> None:
    """Take a delivery."""
    channel.ack(tag)


async def test_acks_wait_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many as a batch are acknowledged without a timer; fewer wait, until we close at most."""
    monkeypatch.setattr(channel_module, "_ACK_DELAY", 3600.0)
    acks: list[Basic.Ack] = []
    ended = asyncio.Event()

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel()
        for tag in (1, 2, 3):
            peer.deliver(number, tag, b"x")
        acks.append(await peer.expect(Basic.Ack))
        peer.deliver(number, 4, b"x")
        peer.deliver(number, 5, b"x")
        acks.append(await peer.expect(Basic.Ack))
        await peer.accept_close()
        ended.set()

    async with connected(script) as connection:
        channel = connection.protocol.open_channel(on_delivery=ack_at_once, ack_batch=3)
        await until(lambda: channel.delivered == 5)
        assert [dict(ack) for ack in acks] == [{"delivery_tag": 3, "multiple": True}]
        assert channel.unacknowledged == 0
        connection.protocol.close()
        await ended.wait()
        assert dict(acks[1]) == {"delivery_tag": 5, "multiple": True}


async def test_acks_wait_a_moment() -> None:
    """Less than a batch is acknowledged a moment later, and so is what comes after that."""
    acks: list[Basic.Ack] = []

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel()
        for tag in (1, 2):
            peer.deliver(number, tag, b"x")
            acks.append(await peer.expect(Basic.Ack))

    async with connected(script) as connection:
        connection.protocol.open_channel(on_delivery=ack_at_once, ack_batch=100)
        await until(lambda: len(acks) == 2)
        assert [ack.delivery_tag for ack in acks] == [1, 2]


async def test_acks_do_not_wait_while_much_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others hold most of the window, RabbitMQ waits for what is acknowledged."""
    monkeypatch.setattr(channel_module, "_ACK_DELAY", 3600.0)
    acks: list[Basic.Ack] = []

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel()
        for tag in range(1, 15):
            peer.deliver(number, tag, b"x")
        for tag in (15, 16):
            peer.deliver(number, tag, b"x")
            acks.append(await peer.expect(Basic.Ack))

    async with connected(script) as connection:
        channel = connection.protocol.open_channel(
            on_delivery=lambda channel, tag, *_: channel.ack(tag) if tag > 14 else None,
            ack_batch=3,
        )
        await until(lambda: len(acks) == 2)
        assert [ack.delivery_tag for ack in acks] == [15, 16]
        assert channel.unacknowledged == 14


@pytest.mark.parametrize("tag", [0, 2, 2**63 - 1])
async def test_delivery_out_of_order_ends_the_connection(tag: int) -> None:
    """A server that skips a delivery tag cannot be acknowledged to; the connection is given up."""

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel()
        peer.deliver(number, tag, b"x")

    async with connected(script) as connection:
        connection.protocol.open_channel(on_delivery=lambda *delivery: None)
        error = await settled(connection.closed)
        assert isinstance(error, BadBytesFromServer)
        assert "not numbered in order" in str(error)


async def test_deliveries_to_a_closed_channel() -> None:
    """What was on its way when we closed the channel is not delivered, and not acknowledged."""
    got: list[bytes] = []

    async def script(peer: ScriptedServer) -> None:
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


async def test_server_closes_a_channel() -> None:
    """All that waits on the channel fails with the reason; the number is used again."""
    numbers: list[int] = []

    async def script(peer: ScriptedServer) -> None:
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

    async def script(peer: ScriptedServer) -> None:
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

    async def script(peer: ScriptedServer) -> None:
        await peer.accept_channel(confirm=True)

    async with connected(script) as connection:
        channel = connection.protocol.open_channel(confirm=True)
        future = channel.publish("", "q", b"x")
        channel.close()
        with pytest.raises(ChannelClosed):
            await future


async def test_oversized_deliveries() -> None:
    """Deliveries over the channel's limit are told of, in order with the others, and acknowledged.

    However the server sends them: in one piece with their headers, or over many frames.
    """
    got: list[tuple[int, int]] = []
    acked = asyncio.Event()

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel()
        for tag, size in enumerate((10, 11, 2_000_000, 10), 1):
            peer.deliver(number, tag, bytes(size))
        while (await peer.expect(Basic.Ack)).delivery_tag < 4:
            pass
        acked.set()

    def take(channel: Channel, tag: int, size: int) -> None:
        got.append((tag, size))
        channel.ack(tag)

    async with connected(script) as connection:
        connection.protocol.open_channel(
            on_delivery=lambda channel, tag, again, body: take(channel, tag, -len(body)),
            max_body=10,
            on_oversized=take,
        )
        await asyncio.wait_for(acked.wait(), 10)
        assert got == [(1, -10), (2, 11), (3, 2_000_000), (4, -10)]


async def test_delivery_without_a_consumer_is_not_collected() -> None:
    """What nobody asked for is passed over by its size, and the connection lives on."""

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel()
        peer.deliver(number, 1, bytes(500_000))
        peer.deliver(number + 1, 1, bytes(500_000))
        peer.send(0, pamqp.commands.Connection.Blocked("the end"))

    async with connected(script) as connection:
        connection.protocol.open_channel()
        assert await until(lambda: connection.protocol.blocked) == "the end"


async def test_cancelled_mandatory_publish_is_forgotten() -> None:
    """A mandatory publish that nobody waits for any more stays in no memory; others go on."""

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel(confirm=True)
        for _ in range(2):
            await peer.expect_publish()
        peer.send(number, Basic.Ack(2, True))

    async with connected(script) as connection:
        channel = connection.protocol.open_channel(confirm=True)
        cancelled = channel.publish("", "q", b"x", mandatory=True)
        cancelled.cancel()
        await asyncio.sleep(0)
        assert len(channel.confirms) == 0
        await channel.publish("", "q", b"x", mandatory=True)
