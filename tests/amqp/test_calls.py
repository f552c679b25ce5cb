"""Calls that are answered, each on an AMQP channel of its own."""

from __future__ import annotations

import asyncio

import pamqp.commands
import pamqp.frame
import pytest

from channels_rabbitmq.errors import ChannelClosed, ConnectionClosed
from tests.helpers.scripted import ScriptedServer, connected
from tests.helpers.waiting import until


async def test_user_calls_leave_channels_for_others() -> None:
    """With few channels, calls and publishes of users take a quarter each, and the rest wait."""
    highest = 0

    async def script(peer: ScriptedServer) -> None:
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

    async def script(peer: ScriptedServer) -> None:
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


async def test_closing() -> None:
    """A call on a connection that is closing is refused at once, though a channel is idle."""

    async def script(peer: ScriptedServer) -> None:
        await peer.accept_channel()
        await peer.expect(pamqp.commands.Queue.Declare)
        peer.send(1, pamqp.commands.Queue.DeclareOk("q", 0, 0))
        await peer.accept_close()

    async with connected(script) as connection:
        await connection.queue_declare("q")
        connection.protocol.close()
        with pytest.raises(ConnectionClosed):
            await connection.queue_declare("q")
        assert not connection.closed.done()


async def test_calls_without_a_channel() -> None:
    """When every channel is taken, a call fails and says so."""

    async def script(peer: ScriptedServer) -> None:
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
