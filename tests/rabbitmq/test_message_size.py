"""Long names and large messages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from channels.exceptions import MessageTooLarge

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.conftest import MakeLayer

MEGABYTE = 1024 * 1024


async def test_names_of_200_characters(make_layer: MakeLayer) -> None:
    """200 included, with the longest prefix, for groups and channels; 201 are refused."""
    layer = make_layer(prefix="p" * 41)
    channel = await layer.new_channel()
    await layer.group_add("g" * 200, channel)
    await layer.group_send("g" * 200, {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
    await layer.send("c" * 200, {"n": 2})
    assert await layer.receive("c" * 200) == {"n": 2}
    own = f"{layer.queue_name}!".ljust(200, "x")
    await layer.send(own, {"n": 3})
    assert await layer.receive(own) == {"n": 3}
    for call in (
        layer.group_add("g" * 201, channel),
        layer.group_send("g" * 201, {}),
        layer.send("c" * 201, {}),
        layer.receive(own + "x"),
    ):
        with pytest.raises(TypeError):
            await call


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
