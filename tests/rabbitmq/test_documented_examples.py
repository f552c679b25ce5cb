"""The documented ways to catch errors, and to call from plain code."""

from __future__ import annotations

import asyncio
from typing import Any

from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.helpers.pages import README, run, snippet
from tests.helpers.rabbit import MakeLayer

LINE = {"type": "chat.line", "text": "Hello"}


async def test_documented_handlers(
    layer: RabbitmqChannelLayer, make_layer: MakeLayer, private_url: str
) -> None:
    """The examples of catching errors tell a full receiver from one that has the message."""
    answer: Any = run(snippet("docs/errors.rst", "errors-send"))["answer"]
    tell: Any = run(snippet(README, "readme-errors"))["tell"]
    full = make_layer(host=private_url, local_capacity=1, remote_capacity=1)
    channel = await full.new_channel()
    await full.current_connection
    replies = [await answer(layer, channel, LINE) for _ in range(10)]
    assert {reply.partition(".")[0] for reply in replies} == {
        "RabbitMQ has it",
        "The receiver stores no more, or is not reached",
    }
    assert await tell(layer, channel, LINE) is False
    assert await tell(layer, await layer.new_channel(), LINE) is True


async def test_documented_sync_code(layer: RabbitmqChannelLayer) -> None:
    """The README's function for plain code reaches the group from a thread."""
    tell_room: Any = run(snippet(README, "readme-sync"))["tell_room"]
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await asyncio.to_thread(tell_room, "Hello")
    assert await asyncio.wait_for(layer.receive(channel), 10) == LINE
