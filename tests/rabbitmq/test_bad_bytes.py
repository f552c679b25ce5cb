"""Bad bytes do no harm: whatever others publish, the reader lives on."""

from __future__ import annotations

import logging

import msgpack
import pytest

from channels_rabbitmq.connection import Connection
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.rabbit import MakeLayer

SECRET = "a very private thing"


BODIES = [
    b"",
    SECRET.encode(),
    msgpack.packb(SECRET),
    msgpack.packb([SECRET]),
    msgpack.packb({"type": SECRET}),
    msgpack.packb({"type": SECRET, "__asgi_group__": 5}),
    msgpack.packb({5: SECRET, "__asgi_group__": "room"}),
    msgpack.packb({"type": SECRET, "__asgi_group__": "room"})[:-1],
    msgpack.packb({"type": SECRET, "__asgi_channel__": "not of\nthis process"}),
    b"\xdf\xff\xff\xff\xff",
    b"\x91" * 10_000,
    bytes(300_000),
]


async def test_bad_bytes(
    make_layer: MakeLayer, broker: Broker, vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that are no message are logged without being quoted, acknowledged and dropped."""
    layer, other = make_layer(), make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    connection = await other.current_connection
    for body in BODIES:
        await connection.publish(body, exchange_name="groups", routing_key="room")
        await connection.publish(body, routing_key=layer.queue_name)
    await other.group_send("room", {"n": 1})
    await other.send(channel, {"n": 2})
    assert [(await layer.receive(channel))["n"] for _ in range(2)] == [1, 2]
    assert await rabbit.counts(broker, vhost, layer.queue_name) == (0, 0)
    warnings = [record for record in caplog.records if "that are no message" in record.message]
    assert len(warnings) == 1  # of 24: the rate is limited
    assert warnings[0].levelno == logging.WARNING
    assert SECRET not in caplog.text
    assert "not of" not in caplog.text


async def test_more_bad_bytes_than_the_window(make_layer: MakeLayer) -> None:
    """Bad bytes take no place for long: there may be many more than local_capacity."""
    layer, other = make_layer(local_capacity=5, remote_capacity=10_000), make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    connection = await other.current_connection
    for _ in range(50):
        await connection.publish(b"rubbish", routing_key=layer.queue_name)
    await other.send(channel, {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


async def test_group_without_members_here(make_layer: MakeLayer) -> None:
    """A message to a group, published straight into the queue, is dropped if nobody is in it."""
    layer, other = make_layer(), make_layer()
    channel = await layer.new_channel()
    await layer.current_connection
    connection = await other.current_connection
    body = msgpack.packb({"type": "a", "__asgi_group__": "nobody"})
    await connection.publish(body, routing_key=layer.queue_name)
    await other.send(channel, {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


async def test_large_and_properties(make_layer: MakeLayer) -> None:
    """A message that another client published with properties and headers is read like any."""
    layer, other = make_layer(), make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    connection = await other.current_connection
    body = msgpack.packb({"data": bytes(1_000_000), "__asgi_group__": "room"})
    await connection.publish(
        body,
        exchange_name="groups",
        routing_key="room",
        content_type="application/msgpack",
        delivery_mode=2,
        headers={"a": 1},
    )
    assert await layer.receive(channel) == {"data": bytes(1_000_000)}


async def test_messages_over_max_message_size(
    make_layer: MakeLayer, broker: Broker, vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What others publish beyond max_message_size is acknowledged, logged, and never a message.

    A user's own consumer takes what RabbitMQ sends it.
    """
    layer, other = make_layer(max_message_size=1000), make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    protocol = (await layer.current_connection).protocol
    for size in (1_000, 200_000, 5_000_000):
        await other.send(channel, {"data": bytes(size)})
        await other.group_send("room", {"data": bytes(size)})
        await other.send("normal", {"data": bytes(size)})
    await other.send("normal", {"n": 1})
    assert await layer.receive("normal") == {"n": 1}
    await other.send(channel, {"n": 2})
    assert await layer.receive(channel) == {"n": 2}
    assert await rabbit.counts(broker, vhost, layer.queue_name) == (0, 0)
    (warning,) = [line for line in caplog.messages if "max_message_size" in line]
    assert "] Dropped a message of 10" in warning

    mine = await layer.current_connection
    assert mine.protocol is protocol
    await other_queue(mine)


async def other_queue(connection: Connection) -> None:
    """Send a message of 2 MB to oneself, past all that the layer limits."""
    await connection.queue_declare("own", exclusive=True)
    async with connection.acking_consumer("own") as consumer:
        await connection.publish(bytes(2_000_000), routing_key="own")
        async for body in consumer:
            assert body == bytes(2_000_000)
            break
