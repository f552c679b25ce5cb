"""The wire format: AMQP clients of others send to groups and channels, and listen."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import aiormq
import msgpack
import pytest

from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.helpers.pages import README, ROOT, run, run_at, snippet
from tests.helpers.rabbit import MakeLayer

LINE = {"type": "chat.line", "text": "Hello"}


@pytest.fixture
async def publisher(private_url: str) -> AsyncIterator[aiormq.Channel]:
    """An AMQP channel of aiormq, with publisher confirms."""
    async with await aiormq.connect(private_url) as connection:
        yield await connection.channel()


@pytest.mark.parametrize(
    ("page", "name"), [(README, "readme-pika"), ("docs/wire-format.rst", "wire-format-group")]
)
async def test_another_client_sends_to_a_group(
    layer: RabbitmqChannelLayer, private_url: str, page: str, name: str
) -> None:
    """The examples, with pika and with aiormq, reach every member of the group."""
    first, second = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", first)
    await layer.group_add("room", second)
    await asyncio.to_thread(run_at, snippet(page, name), private_url)
    for channel in (first, second):
        assert await asyncio.wait_for(layer.receive(channel), 10) == LINE


async def test_another_client_answers_a_channel(
    layer: RabbitmqChannelLayer, publisher: aiormq.Channel
) -> None:
    """The example reaches the one channel that it is for."""
    code = snippet("docs/wire-format.rst", "wire-format-channel")
    answer: Any = run(f"import msgpack\n{code}")["answer"]
    channel = await layer.new_channel()
    await layer.current_connection
    await answer(publisher, channel, "Hello")
    assert await asyncio.wait_for(layer.receive(channel), 10) == LINE


def test_documented_bytes() -> None:
    """The bytes that the page shows are those of the message in its example."""
    page = (ROOT / "docs/wire-format.rst").read_text(encoding="utf-8")
    text = page.partition("::\n\n    83 ")[2].partition("\n\n")[0]
    body = bytes.fromhex("83" + "".join(text.split()))
    assert body == msgpack.packb({**LINE, "__asgi_group__": "room"})
    assert f"these {len(body)} bytes" in page


async def test_another_client_meets_a_full_process(
    make_layer: MakeLayer, private_url: str, publisher: aiormq.Channel
) -> None:
    """A process that stores no more answers a foreign publisher with a nack."""
    layer = make_layer(host=private_url, local_capacity=1, remote_capacity=1)
    channel = await layer.new_channel()
    await layer.current_connection
    body = msgpack.packb({**LINE, "__asgi_channel__": channel})

    async def fill() -> None:
        for _ in range(10):
            await publisher.basic_publish(body, routing_key=layer.queue_name)

    with pytest.raises(aiormq.exceptions.DeliveryError) as caught:
        await fill()
    assert isinstance(caught.value.frame, aiormq.spec.Basic.Nack)


async def test_another_client_sends_to_a_normal_channel(
    layer: RabbitmqChannelLayer, publisher: aiormq.Channel
) -> None:
    """A normal channel's queue has the name that the page says."""
    name = f"thumbnails.{secrets.token_hex(4)}"
    await layer.send(name, {"type": "a"})
    assert await layer.receive(name) == {"type": "a"}
    body = msgpack.packb({**LINE, "__asgi_channel__": name})
    await publisher.basic_publish(body, routing_key=f"asgi.channel::{name}", mandatory=True)
    assert await asyncio.wait_for(layer.receive(name), 10) == LINE


async def test_another_client_listens(
    layer: RabbitmqChannelLayer, publisher: aiormq.Channel
) -> None:
    """A foreign client that binds a queue of its own receives what is sent to the group."""
    await layer.current_connection  # the exchange is there
    queue = (await publisher.queue_declare(exclusive=True)).queue
    await publisher.queue_bind(queue, "groups", "room")
    await layer.group_send("room", LINE)
    # group_send() returned once RabbitMQ had the message in every queue.
    message = await publisher.basic_get(queue, no_ack=True)
    assert msgpack.unpackb(message.body) == {**LINE, "__asgi_group__": "room"}
