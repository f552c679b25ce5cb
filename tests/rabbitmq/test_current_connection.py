"""``current_connection``: the layer's own connection, for publishing jobs."""

from __future__ import annotations

import asyncio

import pytest
from channels.exceptions import StopConsumer

from channels_rabbitmq.connection import Connection
from channels_rabbitmq.errors import (
    ChannelClosed,
    ConnectionClosed,
    NotFound,
    PreconditionFailed,
    ServerSentNack,
)
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until


async def test_publishing_a_job(make_layer: MakeLayer) -> None:
    """A job is published, with properties, and consumed, over the layer's connection."""
    connection = await make_layer().current_connection
    assert isinstance(connection, Connection)
    await connection.queue_declare("jobs", auto_delete=True)
    await connection.publish(b"task", routing_key="jobs", delivery_mode=2)
    async with connection.acking_consumer("jobs") as consumer:
        async for body in consumer:
            assert body == b"task"
            break


async def test_same_connection_by_either_name(
    make_layer: MakeLayer, broker: Broker, vhost: str
) -> None:
    """Both names, and the layer itself, use one and the same connection."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    assert await layer.current_connection is await layer.carehare_connection
    assert len(await rabbit.connections(broker, vhost)) == 1


async def test_asking_in_vain(make_layer: MakeLayer) -> None:
    """What was asked for and not awaited leaves nothing behind."""
    layer = make_layer()
    awaitable = layer.current_connection
    del awaitable
    assert await layer.current_connection


async def test_waits_for_a_live_one(make_layer: MakeLayer, amqp_url: str) -> None:
    """While RabbitMQ is away it waits, and then gives a live connection."""
    async with Proxy(amqp_url) as proxy:
        layer = make_layer(host=proxy.url)
        first = await layer.current_connection
        await proxy.refuse()
        proxy.cut()
        await until(lambda: first.closed.done())
        with pytest.raises(ConnectionClosed):
            await first.publish(b"a", routing_key="b")

        async def connect() -> Connection:
            return await layer.current_connection

        waiting = asyncio.create_task(connect())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await proxy.accept()
        second = await waiting
        assert not second.closed.done()
        await second.publish(b"a", routing_key="b")
        await layer.close()


async def test_user_closes_it(make_layer: MakeLayer) -> None:
    """A user who closes the connection makes the layer reconnect."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    first = await layer.current_connection
    await first.close()
    await asyncio.sleep(0)
    second = await layer.current_connection
    assert second is not first
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


async def test_errors_stay_with_their_call(make_layer: MakeLayer) -> None:
    """What a user does wrong fails that call; the layer, and its connection, do not notice."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    connection = await layer.current_connection
    results = await asyncio.gather(
        connection.publish(b"a", exchange_name="missing", routing_key="b"),
        connection.queue_bind("missing", "groups", routing_key="b"),
        connection.queue_declare("missing", passive=True),
        connection.exchange_declare("groups", durable=True),
        connection.queue_declare(layer.queue_name, durable=True, exclusive=True),
        connection.publish(b"a", routing_key="nobody"),
        layer.group_send("room", {"n": 1}),
        return_exceptions=True,
    )
    refused = [NotFound, NotFound, NotFound, PreconditionFailed, PreconditionFailed]
    assert [type(result) for result in results[:5]] == refused
    assert results[5:] == [None, None]
    assert await layer.receive(channel) == {"n": 1}
    assert await layer.current_connection is connection


async def test_users_publishes_do_not_delay_ours(make_layer: MakeLayer) -> None:
    """A queue that refuses a user's publishes leaves the layer's sends alone."""
    layer = make_layer()
    channel = await layer.new_channel()
    connection = await layer.current_connection
    await connection.queue_declare(
        "full", auto_delete=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    results = await asyncio.gather(
        *(connection.publish(b"a", routing_key="full") for _ in range(5)),
        *(layer.send(channel, {"n": n}) for n in range(5)),
        return_exceptions=True,
    )
    assert ServerSentNack in {type(result) for result in results[:5]}
    assert results[5:] == [None] * 5


async def test_user_takes_all_channels(make_layer: MakeLayer, amqp_url: str) -> None:
    """Whoever opens AMQP channels without end gets an error; the layer's methods go on."""
    layer = make_layer(host=f"{amqp_url}?channel_max=16")
    other = make_layer()
    there = await other.new_channel()
    await other.current_connection
    connection = await layer.current_connection
    await connection.queue_declare("jobs", auto_delete=True)
    consumers = []

    async def consume() -> None:
        while True:
            consumer = connection.acking_consumer("jobs")
            await consumer.__aenter__()
            consumers.append(consumer)

    with pytest.raises(ChannelClosed, match=r"all 12 channels that users may open are in use"):
        await consume()
    assert consumers
    own = await layer.new_channel()
    await asyncio.gather(*(layer.group_add(f"room{n}", own) for n in range(20)))
    await asyncio.gather(*(layer.group_add(f"room{n}", there) for n in range(20)))
    assert await layer.group_members("room1", timeout=5) == sorted([own, there])
    await layer.send("normal", {"n": 1})
    assert await layer.receive("normal") == {"n": 1}
    await layer.flush()
    assert await layer.group_members("room1", timeout=5) == []
    for consumer in consumers:
        consumer.close()


async def test_after_close(make_layer: MakeLayer) -> None:
    """After close() it raises StopConsumer, to those who wait as well."""
    layer = make_layer(host="amqp://guest:guest@127.0.0.1:1")

    async def connect() -> Connection:
        return await layer.current_connection

    waiting = asyncio.create_task(connect())
    await asyncio.sleep(0.01)
    await layer.close()
    with pytest.raises(StopConsumer):
        await waiting
    with pytest.raises(StopConsumer):
        await layer.current_connection
