"""The public API as users write it. mypy and pyright check this file; nothing runs it.

Each line with ``type: ignore`` is a mistake that type checkers have to find: they complain about
the comment otherwise.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypedDict, assert_type

import carehare

from channels_rabbitmq import errors
from channels_rabbitmq.broadcaster import OutboxEvent, RabbitmqBackend
from channels_rabbitmq.connection import Connection, Consumer
from channels_rabbitmq.core import Config, RabbitmqChannelLayer, get_layer
from channels_rabbitmq.events import Event, EventKind
from channels_rabbitmq.statistics import Statistics
from channels_rabbitmq.testing import IsolatedLayer, wait_for_group


async def plain_hook_may_be_async() -> None:
    """A hook."""


def plain_hook() -> int:
    """A hook, of whose result nothing becomes."""
    return 0


def event_hook(event: Event) -> None:
    """A hook for events."""
    assert_type(event.kind, EventKind)
    assert_type(event.detail, str)
    event.count = 5  # type: ignore[misc]


# CONFIG


EVERY_OPTION: Config = {
    "host": ["amqp://guest:guest@one", "amqp://guest:guest@two"],
    "ssl_context": ssl.create_default_context(),
    "expiry": 60,
    "local_capacity": 100,
    "local_expiry": None,
    "remote_capacity": 100,
    "groups_exchange": "groups",
    "send_timeout": 2.5,
    "max_reconnect_delay": 1,
    "group_send_raises": True,
    "max_message_size": 1024,
    "prefix": "project",
    "group_expiry": 86400,
    "capacity": 100,
    "channel_capacity": {"thumbnails": 1000, re.compile(r".+!"): 50},
    "normal_queue_type": "quorum",
    "symmetric_encryption_keys": ["secret"],
    "serializer_format": "json",
    "on_disconnect": plain_hook,
    "on_reconnect": plain_hook_may_be_async,
    "on_event": event_hook,
}
GLOBS_ONLY: Config = {"channel_capacity": {"thumbnails": 1000}, "host": "amqp://localhost"}

MISSPELT: Config = {"expiri": 5}  # type: ignore[typeddict-unknown-key]
WRONG_TYPE: Config = {"expiry": "5"}  # type: ignore[typeddict-item]
WRONG_CAPACITY: Config = {"channel_capacity": {"a": "b"}}  # type: ignore[dict-item]


def make() -> None:
    """The ways to make a layer, and what cannot be one."""
    RabbitmqChannelLayer()
    RabbitmqChannelLayer("amqp://localhost")
    RabbitmqChannelLayer(["amqp://one", "amqp://two"], expiry=5)
    RabbitmqChannelLayer(host="amqp://localhost", ssl_context=ssl.create_default_context())
    RabbitmqChannelLayer(**EVERY_OPTION)

    RabbitmqChannelLayer(expiri=5)  # type: ignore[call-arg]
    RabbitmqChannelLayer(local_capacity="100")  # type: ignore[arg-type]
    RabbitmqChannelLayer(on_reconnect="chat.hooks.resynchronise")
    RabbitmqChannelLayer(on_reconnect=5)  # type: ignore[arg-type]
    RabbitmqChannelLayer(on_event=plain_hook)  # type: ignore[arg-type]
    RabbitmqChannelLayer(5)  # type: ignore[arg-type]


# The layer


class Chat(TypedDict):
    """A message that has a type of its own."""

    type: str
    text: str


async def channels(layer: RabbitmqChannelLayer) -> None:
    """The specification's methods."""
    channel = assert_type(await layer.new_channel(), str)
    await layer.new_channel("prefix")
    assert_type(await layer.send(channel, {"type": "chat", "list": [1, {"a": b"b"}]}), None)
    message = assert_type(await layer.receive(channel), dict[str, Any])
    message["seen"] = True

    # Neither dict's key nor its value type may vary; those of a mapping may.
    texts: dict[str, str] = {"type": "chat"}
    numbers: dict[str, int] = {"a": 1}
    mapping: Mapping[str, object] = MappingProxyType({"type": "chat"})
    chat: Chat = {"type": "chat", "text": "hello"}
    await layer.send(channel, texts)
    await layer.send(channel, numbers)
    await layer.group_send("room", mapping)
    await layer.group_send("room", chat)
    await layer.send_group("room", chat)

    await layer.send(channel, {1: "a"})  # type: ignore[dict-item]
    await layer.send(channel, [("type", "chat")])  # type: ignore[arg-type]
    await layer.send(b"channel", {})  # type: ignore[arg-type]
    await layer.group_send("room", None)  # type: ignore[arg-type]


async def groups(layer: RabbitmqChannelLayer, channel: str) -> None:
    """Groups, and what is done with all of them."""
    assert_type(await layer.group_add("room", channel), None)
    assert_type(await layer.group_discard("room", channel), None)
    assert_type(await layer.group_members("room"), list[str])
    assert_type(await layer.group_members("room", timeout=0.5), list[str])
    assert_type(await layer.flush(), None)
    assert_type(await layer.close(), None)

    await layer.group_add("room")  # type: ignore[call-arg]


async def receive_many(layer: RabbitmqChannelLayer, names: list[str]) -> None:
    """Several channels at once."""
    name, message = await layer.receive_many(names)
    if name is not None and message is not None:
        assert_type(name, str)
        assert_type(message, dict[str, Any])
    assert_type(await layer.receive_many_blocking(names), tuple[str, dict[str, Any]])


def find() -> None:
    """Channels' own accessor has no type; ours has."""
    assert_type(get_layer(), RabbitmqChannelLayer)
    assert_type(get_layer("other"), RabbitmqChannelLayer)

    get_layer(5)  # type: ignore[arg-type]


def attributes(layer: RabbitmqChannelLayer) -> None:
    """What can be read."""
    assert_type(layer.queue_name, str)
    assert_type(layer.extensions, list[str])
    assert_type(layer.options.expiry, float)
    assert_type(layer.group_expiry, int)


def numbers(layer: RabbitmqChannelLayer) -> int:
    """The layer's numbers."""
    found = assert_type(layer.statistics(), Statistics)
    assert_type(found.connected_since, float | None)
    found.published = 1  # type: ignore[misc]
    return found.dropped["local_capacity"] + found.expired


async def check(layer: RabbitmqChannelLayer) -> bool:
    """Its health."""
    await layer.health_check("5")  # type: ignore[arg-type]
    return assert_type(await layer.health_check(timeout=2), bool)


# The connection


async def publish(layer: RabbitmqChannelLayer) -> None:
    """Jobs, by the layer's connection."""
    connection = assert_type(await layer.current_connection, Connection)
    as_carehare: carehare.Connection = connection
    assert_type(await layer.carehare_connection, Connection)
    assert_type(as_carehare.publish(b"job"), asyncio.Future[None])

    future = assert_type(connection.publish(b"job"), asyncio.Future[None])
    await asyncio.wait([future], timeout=1)
    await asyncio.gather(*[connection.publish(b"job", routing_key="jobs") for _ in range(5)])
    assert_type(
        await connection.publish(
            b"job",
            exchange_name="",
            routing_key="jobs",
            mandatory=True,
            delivery_mode=2,
            content_type="application/json",
            headers={"a": 1},
        ),
        None,
    )
    await connection.queue_declare("jobs", durable=True, arguments={"x-max-length": 5})
    await connection.exchange_declare("events", exchange_type="topic")
    await connection.queue_bind("jobs", "events", routing_key="#")
    await connection.queue_unbind("jobs", "events", routing_key="#")

    connection.publish("job")  # type: ignore[arg-type]
    connection.publish(b"job", routing="jobs")  # type: ignore[call-arg]
    connection.publish(b"job", delivery_mode="2")  # type: ignore[arg-type]
    await connection.queue_declare("jobs", durabel=True)  # type: ignore[call-arg]


async def consume(connection: Connection) -> None:
    """A worker."""
    connection.acking_consumer("stream", arguments={"x-stream-offset": "first"})
    connection.acking_consumer("stream", arguments=["first"])  # type: ignore[arg-type]
    async with connection.acking_consumer("jobs", prefetch_count=5) as consumer:
        assert_type(consumer, Consumer)
        async for job in consumer:
            assert_type(job, bytes)
            break
        body, tag = assert_type(await consumer.next_delivery(), tuple[bytes, int])
        assert_type(body, bytes)
        consumer.ack(tag)
    assert_type(connection.closed, asyncio.Future[None])


# Errors


async def handle(layer: RabbitmqChannelLayer) -> None:
    """All errors have one base; codes and texts are typed."""
    try:
        await layer.send("channel", {"type": "chat"})
    except errors.NotConnected as err:
        base: errors.RabbitmqError = err
        assert_type(errors.is_retryable(base), bool)
    except errors.NotFound as err:
        refused: errors.ChannelClosedByServer = err
        assert_type(refused.reply_code, int)
        assert_type(refused.reply_text, str)
    except errors.MessageReturned as err:
        nack: carehare.ServerSentNack = err
        assert_type(errors.describe(nack), str)
    except (errors.ConnectionClosed, carehare.ConnectionClosed):
        pass


# Other modules


def outbox(event: OutboxEvent) -> None:
    """The outbox's backend, made from a dict."""
    backend = RabbitmqBackend({"url": "amqp://guest:guest@127.0.0.1", "stream": "orders"})
    assert_type(backend.publish(event), bool)
    assert_type(backend.health_check(), bool)

    backend.publish({"type": "order.placed"})  # type: ignore[arg-type]


async def isolated() -> None:
    """A layer for a test, in plain and in async code."""
    with IsolatedLayer() as layer:
        assert_type(layer, RabbitmqChannelLayer)
    async with IsolatedLayer("other", local_capacity=1) as layer:
        assert_type(await wait_for_group("room", 2, timeout=5), list[str])

    IsolatedLayer(local_capacity="1")  # type: ignore[arg-type]
