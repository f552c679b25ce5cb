"""The end of a layer: closed, dropped, or never used."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from channels.exceptions import StopConsumer

from channels_rabbitmq.core import RabbitmqChannelLayer
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow

METHODS: dict[str, Callable[[RabbitmqChannelLayer, str], Coroutine[Any, Any, object]]] = {
    "new_channel": lambda layer, channel: layer.new_channel(),
    "send": lambda layer, channel: layer.send(channel, {}),
    "receive": lambda layer, channel: layer.receive(channel),
    "group_add": lambda layer, channel: layer.group_add("room", channel),
    "group_discard": lambda layer, channel: layer.group_discard("room", channel),
    "group_send": lambda layer, channel: layer.group_send("room", {}),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("used", [True, False], ids=["used", "never used"])
async def test_every_method_stops(make_layer: MakeLayer, method: str, used: bool) -> None:
    """After close() every method raises StopConsumer, whether or not the layer was used."""
    layer = make_layer()
    channel = await layer.new_channel()
    if used:
        await layer.group_add("room", channel)
    await layer.close()
    with pytest.raises(StopConsumer):
        await METHODS[method](layer, channel)


async def test_who_waits_is_stopped(make_layer: MakeLayer) -> None:
    """close() makes every receive() that waits raise StopConsumer."""
    layer = make_layer()
    channels = [await layer.new_channel() for _ in range(3)]
    waiting = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    await layer.current_connection
    await layer.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} == {StopConsumer}


@pytest.mark.parametrize("method", ["send", "group_add", "group_send", "receive"])
async def test_calls_while_closing(make_layer: MakeLayer, amqp_url: str, method: str) -> None:
    """A call that comes while the connection is being closed raises StopConsumer."""
    async with Proxy(amqp_url) as proxy:
        layer = make_layer(host=proxy.url)
        channel = await layer.new_channel()
        await layer.current_connection
        proxy.freeze()
        closing = asyncio.create_task(layer.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        with pytest.raises(StopConsumer):
            await asyncio.wait_for(METHODS[method](layer, channel), 2)
        proxy.thaw()
        await closing


@pytest.mark.parametrize("method", ["send", "group_add", "receive"])
async def test_calls_that_wait_for_rabbitmq(make_layer: MakeLayer, method: str) -> None:
    """A call that waits for RabbitMQ to come back is stopped by close()."""
    layer = make_layer(host="amqp://guest:guest@127.0.0.1:1")
    channel = await layer.new_channel()
    waiting = asyncio.create_task(METHODS[method](layer, channel))
    await asyncio.sleep(0.01)
    await layer.close()
    with pytest.raises(StopConsumer):
        await asyncio.wait_for(waiting, 1)


async def test_calls_that_wait_for_a_silent_broker(make_layer: MakeLayer, amqp_url: str) -> None:
    """A group_add() that waits for its binding is stopped at once, though the broker is silent."""
    async with Proxy(amqp_url) as proxy:
        layer = make_layer(host=proxy.url)
        channel = await layer.new_channel()
        await layer.current_connection
        proxy.freeze()
        waiting = asyncio.create_task(layer.group_add("room", channel))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(layer.close())
        with pytest.raises(StopConsumer):
            await asyncio.wait_for(waiting, 2)
        assert not closing.done()
        proxy.thaw()
        await closing


async def test_close_again_and_at_once(make_layer: MakeLayer) -> None:
    """close() may be called several times, also at the same time, and before any use."""
    layer = make_layer()
    await layer.close()
    await layer.close()
    layer = make_layer()
    await layer.current_connection
    await asyncio.gather(*(layer.close() for _ in range(5)))
    await layer.close()


async def test_nothing_is_left(make_layer: MakeLayer, broker: Broker, vhost: str) -> None:
    """After close() RabbitMQ has neither queue nor connection of the layer, and asyncio no task."""
    before = asyncio.all_tasks()
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    assert await rabbit.queue_names(broker, vhost) == [layer.queue_name]
    await layer.close()
    assert asyncio.all_tasks() == before
    await until(lambda: no_queue(broker, vhost))
    assert await rabbit.connections(broker, vhost) == []


async def no_queue(broker: Broker, vhost: str) -> bool:
    """Whether the virtual host has no queue."""
    return await rabbit.queue_names(broker, vhost) == []


async def test_dropped_layer(amqp_url: str, broker: Broker, vhost: str) -> None:
    """A layer that is dropped without being closed leaves no connection and no task."""
    before = asyncio.all_tasks()
    layer = RabbitmqChannelLayer(amqp_url)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    assert await rabbit.queue_names(broker, vhost) == [layer.queue_name]
    del layer
    gc.collect()
    await until(lambda: no_queue(broker, vhost))
    await until(lambda: asyncio.all_tasks() == before)


async def test_closing_while_connecting(make_layer: MakeLayer, amqp_url: str) -> None:
    """close() during the handshake ends it at once."""
    async with Proxy(amqp_url) as proxy:
        proxy.freeze()
        layer = make_layer(host=proxy.url)
        channel = await layer.new_channel()
        receiving = asyncio.create_task(layer.receive(channel))
        await until(lambda: proxy.accepted == 1)
        started = time.monotonic()
        await layer.close()
        assert time.monotonic() - started < 1
        with pytest.raises(StopConsumer):
            await receiving


async def test_closing_while_away(make_layer: MakeLayer) -> None:
    """close() while RabbitMQ is away ends at once."""
    layer = make_layer(host="amqp://guest:guest@127.0.0.1:1", send_timeout=0.05)
    with pytest.raises(Exception, match="away"):
        await layer.send("channels_x!y", {})
    started = time.monotonic()
    await layer.close()
    assert time.monotonic() - started < 0.5


async def test_closing_with_a_silent_server(make_layer: MakeLayer, broker: Broker) -> None:
    """close() gives a server that answers nothing a few seconds, and no more."""
    layer = make_layer()
    await layer.current_connection
    broker.pause()
    try:
        started = time.monotonic()
        await layer.close()
        assert time.monotonic() - started < 7
    finally:
        broker.resume()
