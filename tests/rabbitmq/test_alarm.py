"""RabbitMQ's memory alarm: it takes no publishes, and reads nothing from who tries."""

from __future__ import annotations

import asyncio
import time

import pytest

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotConnected
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.rabbit import MakeLayer
from tests.helpers.support import until

pytestmark = pytest.mark.slow


async def block(layer: RabbitmqChannelLayer) -> None:
    """Publish once, so that the server stops reading from the layer's connection."""
    with pytest.raises(NotConnected):
        await layer.send("channels_nobody!x", {"first": True})
    connection = await layer.current_connection
    await until(lambda: connection.protocol.blocked)


async def test_alarm_and_after(
    make_layer: MakeLayer, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """During an alarm sends fail, groups are dropped and joins wait, in time; then all goes on."""
    layer = make_layer(send_timeout=0.5)
    one, two = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", one)
    await layer.send(one, {"n": "before"})
    async with rabbit.memory_alarm(broker):
        await block(layer)
        assert "RabbitMQ takes no publishes" in caplog.text

        started = time.monotonic()
        with pytest.raises(NotConnected, match="takes no messages"):
            await layer.send(one, {"n": "refused"})
        await layer.group_send("room", {"n": "dropped"})
        assert time.monotonic() - started < 0.2  # at once: it is known to be blocked
        assert "Message to group room dropped: RabbitMQ takes no messages" in caplog.text

        started = time.monotonic()
        await layer.group_add("other", two)
        assert 0.4 < time.monotonic() - started < 0.8

        assert await layer.receive(one) == {"n": "before"}
    connection = await layer.current_connection
    await until(lambda: connection.protocol.blocked is None)
    await layer.group_send("other", {"n": "after"})
    assert await layer.receive(two) == {"n": "after"}
    await layer.send(one, {"n": "after"})
    assert await layer.receive(one) == {"n": "after"}
    assert await layer.current_connection is connection


async def test_closing_while_blocked(make_layer: MakeLayer, broker: Broker) -> None:
    """close() does not wait for a server that does not read."""
    layer = make_layer(send_timeout=0.3)
    await layer.current_connection
    async with rabbit.memory_alarm(broker):
        await block(layer)
        started = time.monotonic()
        await layer.close()
        assert time.monotonic() - started < 2


async def test_receiving_while_others_are_blocked(make_layer: MakeLayer, broker: Broker) -> None:
    """A process that connects during an alarm can join, and has what comes when it is over."""
    sender = make_layer(send_timeout=0.3)
    await sender.current_connection
    async with rabbit.memory_alarm(broker):
        await block(sender)
        layer = make_layer()
        channel = await layer.new_channel()
        await asyncio.wait_for(layer.group_add("room", channel), 5)
    connection = await sender.current_connection
    await until(lambda: connection.protocol.blocked is None)
    await sender.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
