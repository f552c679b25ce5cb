"""Calls end within ``send_timeout``: RabbitMQ may be away, silent, or in an alarm."""

from __future__ import annotations

import asyncio
import time

import pytest

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotConnected
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


async def test_send_while_away(make_layer: MakeLayer, proxy: Proxy) -> None:
    """While RabbitMQ is away, send() raises NotConnected: after send_timeout, and then at once."""
    layer = make_layer(host=proxy.url, send_timeout=1)
    channel = await layer.new_channel()
    first = await layer.current_connection
    await proxy.refuse()
    started = time.monotonic()
    proxy.cut()
    await until(lambda: first.closed.done())
    results = await asyncio.gather(
        *(layer.send(channel, {"n": n}) for n in range(20)), return_exceptions=True
    )
    assert {type(result) for result in results} == {NotConnected}
    assert 0.9 < time.monotonic() - started < 2
    started = time.monotonic()
    for n in range(20):
        with pytest.raises(NotConnected, match="away"):
            await layer.send(channel, {"n": n})
        with pytest.raises(NotConnected):
            await layer.send("jobs", {"n": n})
        await layer.group_send("room", {"n": n})
        await layer.group_add("room", channel)
        with pytest.raises(NotConnected):
            await layer.flush()
    # They would have waited for 100 seconds, each for one.
    assert time.monotonic() - started < 5
    await proxy.accept()
    await layer.current_connection
    await layer.group_send("room", {"n": "back"})
    assert await layer.receive(channel) == {"n": "back"}


async def test_send_waits_for_a_short_outage(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A send() during an outage that ends within send_timeout succeeds."""
    layer = make_layer(host=proxy.url, send_timeout=10)
    channel = await layer.new_channel()
    first = await layer.current_connection
    proxy.cut()
    await until(lambda: first.closed.done())
    await asyncio.sleep(0.01)
    await layer.send(channel, {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


async def test_send_to_a_silent_server(make_layer: MakeLayer, proxy: Proxy) -> None:
    """While the server is silent, send() raises NotConnected within send_timeout."""
    layer = make_layer(host=proxy.url, send_timeout=2)
    channel = await layer.new_channel()
    await layer.current_connection
    proxy.freeze()
    started = time.monotonic()
    results = await asyncio.gather(
        *(layer.send(channel, {"n": n}) for n in range(20)), return_exceptions=True
    )
    assert {type(result) for result in results} == {NotConnected}
    assert 1 < time.monotonic() - started < 3


async def test_group_send_while_away(
    make_layer: MakeLayer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """While RabbitMQ is away or silent, group_send() drops after send_timeout, with one warning."""
    layer = make_layer(host=proxy.url, send_timeout=0.2)
    await layer.current_connection
    proxy.freeze()
    await layer.group_send("room", {"n": 1})
    await proxy.refuse()
    proxy.thaw()
    proxy.cut()
    await until(lambda: proxy.connections == 0)
    await layer.group_send("room", {"n": 1})
    dropped = [record for record in caplog.records if "Message to group room" in record.message]
    assert len(dropped) == 1


async def test_group_add_while_away(
    make_layer: MakeLayer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """group_add() in an outage returns after send_timeout; the membership is bound later."""
    layer = make_layer(host=proxy.url, send_timeout=0.3)
    one, two = await layer.new_channel(), await layer.new_channel()
    first = await layer.current_connection
    await proxy.refuse()
    proxy.cut()
    await until(lambda: first.closed.done())
    started = time.monotonic()
    await asyncio.gather(layer.group_add("room", one), layer.group_add("left", two))
    assert time.monotonic() - started < 2
    assert "is not bound yet: RabbitMQ is away" in caplog.text
    await layer.group_discard("left", two)
    await proxy.accept()
    await layer.current_connection
    await layer.group_send("room", {"n": 1})
    await layer.group_send("left", {"n": 2})
    await layer.send(two, {"n": 3})
    assert await layer.receive(one) == {"n": 1}
    assert await layer.receive(two) == {"n": 3}


async def test_group_add_waits_for_a_short_outage(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A group_add() that is under way when the connection is cut returns once it is bound."""
    layer = make_layer(host=proxy.url)
    channel = await layer.new_channel()
    await layer.current_connection
    proxy.freeze()
    adding = asyncio.create_task(layer.group_add("room", channel))
    await asyncio.sleep(0.01)
    proxy.cut()
    proxy.thaw()
    await adding
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


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
