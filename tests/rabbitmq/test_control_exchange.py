"""Requests between processes travel on an exchange of their own; nothing else is one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiormq
import msgpack
import pytest
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotAnswered
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

STRANGER = "channels_stranger"


@pytest.fixture
async def stranger(amqp_url: str) -> AsyncIterator[AbstractConnection]:
    """Another program on the same virtual host."""
    connection = await aiormq.connect(amqp_url)
    try:
        yield connection
    finally:
        await connection.close()


def forged(kind: str, **fields: object) -> bytes:
    """The body of a request that no process of ours sent."""
    body: bytes = msgpack.packb({"from": STRANGER, "earlier": [], **fields, "__asgi_group__": kind})
    return body


def question(what: str, layer: RabbitmqChannelLayer, **fields: object) -> bytes:
    """One that is valid, but for what is said otherwise."""
    valid = {
        "what": what,
        "to": layer.queue_name,
        "group": "",
        "channel": "",
        "id": secrets.token_hex(16),
    }
    return forged("!ask", **(valid | fields))


async def publish(
    connection: AbstractConnection, exchange: str, key: str, bodies: Iterable[bytes]
) -> None:
    """Publish, and return once RabbitMQ has it all."""
    channel = await connection.channel(publisher_confirms=True)
    for body in bodies:
        await channel.basic_publish(body, exchange=exchange, routing_key=key, wait=False)
    await channel.close()
    await (await connection.channel()).close()


async def joined(layer: RabbitmqChannelLayer) -> str:
    """A channel of the layer's in the group ``room``."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    return channel


async def test_requests_by_another_way(
    make_layer: MakeLayer, stranger: AbstractConnection, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may publish to queues or to groups makes no process flush, join or leave."""
    layer = make_layer()
    channel = await joined(layer)
    await layer.group_members("room")
    bodies = [
        question("flush", layer),
        question("leave", layer, group="room", channel=channel),
        question("join", layer, group="other", channel=channel),
        forged("!hello"),
    ]
    await publish(stranger, "", layer.queue_name, bodies)
    await publish(stranger, layer.options.groups_exchange, "room", bodies)
    await until(lambda: "more like this" in caplog.text or "did not come by" in caplog.text)
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
    assert await layer.group_members("room") == [channel]
    assert await layer.group_members("other") == []
    assert not layer._owner._loop_layer._peers._known  # type: ignore[union-attr]


async def test_the_same_requests_by_the_exchange(
    make_layer: MakeLayer, stranger: AbstractConnection
) -> None:
    """They are carried out: what the test above forges is right in all else."""
    layer = make_layer()
    channel = await joined(layer)
    await layer.group_members("room")
    exchange = f"{layer.options.groups_exchange}.control"
    bodies = [
        question("leave", layer, group="room", channel=channel),
        question("join", layer, group="other", channel=channel),
    ]
    await publish(stranger, exchange, layer.queue_name, bodies)

    async def moved() -> bool:
        return [await layer.group_members(name) for name in ("room", "other")] == [[], [channel]]

    await until(moved)
    await publish(stranger, exchange, layer.queue_name, [question("flush", layer)])

    async def flushed() -> bool:
        return await layer.group_members("other") == []

    await until(flushed)


async def test_what_no_method_takes(
    make_layer: MakeLayer, stranger: AbstractConnection, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests are held to what the methods take; the process goes on, and connects again."""
    layer = make_layer()
    channel = await joined(layer)
    await layer.group_members("room")
    exchange = f"{layer.options.groups_exchange}.control"
    mine = layer.queue_name
    bodies = [
        question("join", layer, group="x" * 300, channel=channel),
        question("join", layer, group="!ask", channel=channel),
        question("join", layer, group="g", channel=f"{mine}!{'x' * 300}"),
        question("join", layer, group="g", channel=f"{STRANGER}!x"),
        question("join", layer, group="g", channel="jobs"),
        question("join", layer, group=["g"], channel=channel),
        question("leave", layer, group={}, channel=channel),
        question("members", layer, to="", group="x" * 300),
        question("flush", layer, to=""),
        question("flush", layer, id="x" * 300),
        question("flush", layer, id=1),
        question(["flush"], layer),  # type: ignore[arg-type]
        forged("!hello", **{"from": "channels_" + "x" * 300}),
        forged("!hello", **{"from": "amq.gen-x"}),
        forged("!hello", earlier=["x" * 300]),
        forged("!hello", earlier=[STRANGER] * 1000),
        forged("!hello", earlier={}),
        forged("!answer", id="0" * 32, part=0, parts=10**9, names=[]),
        forged("!answer", id="0" * 32, part=0, parts=1, names=[b"x"]),
        forged("!probe"),
    ]
    await publish(stranger, exchange, mine, bodies)
    await layer.send(channel, {"n": 1})  # after all of these, in the same queue
    assert await layer.receive(channel) == {"n": 1}
    assert list(layer._owner._local.memberships.groups) == ["room"]
    (await layer.current_connection).protocol.abort()  # type: ignore[attr-defined]

    async def back() -> bool:
        return await layer.group_members("room", timeout=10) == [channel]

    await until(back)
    await layer.flush()
    assert "A bug" not in caplog.text


@pytest.mark.slow
async def test_hellos_of_many(make_layer: MakeLayer, stranger: AbstractConnection) -> None:
    """Twice as many processes as are kept in mind, none of which exists, silence nobody."""
    layer = make_layer(local_capacity=1000, remote_capacity=30_000)
    channel = await joined(layer)
    await layer.group_members("room")
    bodies = (forged("!hello", **{"from": f"channels_{n}"}) for n in range(8_192))
    await publish(stranger, f"{layer.options.groups_exchange}.control", layer.queue_name, bodies)
    await layer.send(channel, {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
    other = make_layer()
    there = await joined(other)
    assert await layer.group_members("room", timeout=10) == sorted([channel, there])
    await layer.flush()
    assert not layer._owner._loop_layer._peers._known - {other.queue_name}  # type: ignore[union-attr]


# What RabbitMQ refuses


@pytest.mark.slow
async def test_permissions_of_4_0_1(
    broker: Broker, vhost: str, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """They turn the methods off, with one warning; all else works, on the same connection."""
    fitted = r"^(channels_.*|groups|amq\.default)$"
    await rabbit.ctl(broker, "add_user", vhost, "secret")
    try:
        await rabbit.ctl(broker, "set_permissions", "-p", vhost, vhost, fitted, fitted, fitted)
        url = f"{broker.url.replace('guest:guest', f'{vhost}:secret')}/{vhost}"
        layer, other = [make_layer(host=url, groups_exchange="groups") for _ in range(2)]
        first = (await layer.current_connection).protocol  # type: ignore[attr-defined]
        channel, there = await joined(layer), await joined(other)
        for _ in range(2):
            with pytest.raises(NotAnswered, match=r"refuses exchange groups\.control: .*403"):
                await layer.group_members("room")
        with pytest.raises(NotAnswered, match="refuses"):
            await layer.group_add("room", there)
        await other.group_send("room", {"n": 1})
        assert await layer.receive(channel) == await other.receive(there) == {"n": 1}
        with pytest.raises(NotAnswered, match="refuses"):
            await layer.flush()
        await other.group_send("room", {"n": 2})
        assert await other.receive(there) == {"n": 2}
        assert await layer.receive_many([channel]) == (None, None)  # its own part was done
        assert (await layer.current_connection).protocol is first  # type: ignore[attr-defined]
        assert caplog.text.count("are off: RabbitMQ refuses exchange groups.control") == 2
        await layer.close()
        await other.close()
    finally:
        await rabbit.ctl(broker, "delete_user", vhost)


@pytest.mark.parametrize(
    "properties", [{"exchange_type": "fanout"}, {"durable": True}], ids=["type", "durability"]
)
async def test_exchange_with_other_properties(
    make_layer: MakeLayer,
    stranger: AbstractConnection,
    properties: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It turns the methods off as well."""
    name = f"groups-{secrets.token_hex(4)}"
    channel = await stranger.channel()
    await channel.exchange_declare(f"{name}.control", **properties)
    layer = make_layer(groups_exchange=name)
    with pytest.raises(NotAnswered, match="406"):
        await layer.group_members("room")
    member = await joined(layer)
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(member) == {"n": 1}
    assert caplog.text.count("are off: RabbitMQ refuses exchange") == 1
    await channel.exchange_delete(f"{name}.control")


async def test_exchange_that_is_deleted(
    make_layer: MakeLayer, stranger: AbstractConnection
) -> None:
    """Whoever asks declares it again, on the same connection, and so do the others in time."""
    first, second = make_layer(), make_layer()
    channel = await joined(first)
    await first.group_members("room")
    protocol = (await first.current_connection).protocol  # type: ignore[attr-defined]
    await (await stranger.channel()).exchange_delete(f"{first.options.groups_exchange}.control")
    assert await first.group_members("room") == [channel]
    assert (await first.current_connection).protocol is protocol  # type: ignore[attr-defined]
    await second.flush()


# Encryption


async def test_repeated_requests(make_layer: MakeLayer, stranger: AbstractConnection) -> None:
    """A flush that somebody recorded and sends again does nothing, however often."""
    keys = {"symmetric_encryption_keys": ["secret"]}
    asker, layer = make_layer(**keys), make_layer(**keys)
    await layer.group_add("room", await layer.new_channel())
    assert len(await asker.group_members("room")) == 1
    exchange = f"{layer.options.groups_exchange}.control"
    channel = await stranger.channel()
    recorded = await record(channel, exchange, layer.queue_name)
    await asker.flush()
    assert await asker.group_members("room") == []
    member = await joined(layer)
    bodies = [recorded.get_nowait().body for _ in range(recorded.qsize())]
    assert bodies
    await publish(stranger, exchange, layer.queue_name, bodies * 3)
    await layer.send(member, {"n": 1})
    assert await layer.receive(member) == {"n": 1}
    assert await asker.group_members("room") == [member]
    # Nor in a process that came later, and has not seen it.
    later = make_layer(**keys)
    other = await joined(later)
    assert await later.group_members("room") == sorted([member, other])
    await publish(stranger, exchange, later.queue_name, bodies)
    await later.send(other, {"n": 1})
    assert await later.receive(other) == {"n": 1}
    assert await later.group_members("room") == sorted([member, other])


async def record(
    channel: AbstractChannel, exchange: str, key: str
) -> asyncio.Queue[DeliveredMessage]:
    """What is published to an exchange with that key from now on."""
    recorded: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
    declared = await channel.queue_declare(exclusive=True)
    assert declared.queue is not None
    await channel.queue_bind(declared.queue, exchange, key)
    await channel.basic_consume(declared.queue, recorded.put, no_ack=True)
    return recorded
