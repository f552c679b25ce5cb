"""Large messages arrive whole; one that is too large is refused before it is sent."""

from __future__ import annotations

import asyncio

import pytest
from channels.exceptions import MessageTooLarge

from tests.helpers.rabbit import MakeLayer

pytestmark = pytest.mark.slow


MEGABYTE = 1024 * 1024


@pytest.mark.parametrize("size", [5 * MEGABYTE, 15 * MEGABYTE])
@pytest.mark.parametrize("kind", ["channel", "normal", "group"])
async def test_large_messages(make_layer: MakeLayer, kind: str, size: int) -> None:
    """Messages of megabytes come as they were."""
    layer = make_layer()
    channel = "jobs" if kind == "normal" else await layer.new_channel()
    message = {"data": bytes(range(256)) * (size // 256)}
    if kind == "group":
        await layer.group_add("g", channel)
        await layer.group_send("g", message)
    else:
        await layer.send(channel, message)
    assert await layer.receive(channel) == message


async def test_too_large(make_layer: MakeLayer) -> None:
    """The sender is told, and everything else that is on its way arrives."""
    layer = make_layer(max_message_size=MEGABYTE, remote_capacity=1000, local_capacity=1000)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    large = {"data": b"x" * MEGABYTE}

    async def send(n: int) -> None:
        await layer.send(channel, {"n": n})

    async def send_large() -> None:
        for call in (
            layer.send(channel, large),
            layer.send("jobs", large),
            layer.group_send("g", large),
        ):
            with pytest.raises(MessageTooLarge, match="max_message_size allows 1048576"):
                await call

    await asyncio.gather(*(send(n) if n % 5 else send_large() for n in range(100)))
    received = [(await layer.receive(channel))["n"] for _ in range(80)]
    assert received == [n for n in range(100) if n % 5]


async def test_the_default_limit(make_layer: MakeLayer) -> None:
    """It is RabbitMQ 4's own: 16 MiB on the wire."""
    layer = make_layer()
    channel = await layer.new_channel()
    with pytest.raises(MessageTooLarge):
        await layer.send(channel, {"data": b"x" * 16 * MEGABYTE})
