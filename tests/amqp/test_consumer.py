"""A consumer at a server that does as it likes."""

from __future__ import annotations

import asyncio

import pamqp.commands
import pytest

from channels_rabbitmq.errors import ChannelClosedByServer
from tests.helpers.scripted import ScriptedServer, connected


async def test_server_closes_the_consumer_with_messages_waiting() -> None:
    """Messages that wait are dropped with the channel: another consumer gets them."""

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_consumer()
        peer.deliver(number, 1, b"1")
        peer.deliver(number, 2, b"2")
        await peer.expect(pamqp.commands.Basic.Ack)
        peer.send(number, pamqp.commands.Channel.Close(406, "PRECONDITION_FAILED", 0, 0))
        await peer.expect(pamqp.commands.Channel.CloseOk)

    async with connected(script) as connection:
        consumer = connection.acking_consumer("q", prefetch_count=2)
        _, tag = await asyncio.wait_for(consumer.next_delivery(), 10)
        consumer.ack(tag)
        await asyncio.wait({consumer.closed}, timeout=10)
        with pytest.raises(ChannelClosedByServer, match="406"):
            await consumer.next_delivery()
        consumer.ack(2)
        with pytest.raises(ChannelClosedByServer, match="406"):
            await consumer.__aexit__(None, None, None)
