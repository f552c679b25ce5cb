"""Every receiver has a message of its own, which nobody else can change."""

from __future__ import annotations

import asyncio

from tests.helpers.rabbit import MakeLayer


async def test_message_may_change_after_send(make_layer: MakeLayer) -> None:
    """What the sender does with the dict after send() is not seen by the receiver."""
    layer = make_layer()
    channel = await layer.new_channel()
    message: dict[str, object] = {"list": [1]}
    sending = asyncio.ensure_future(layer.send(channel, message))
    await asyncio.sleep(0)
    message["list"] = "changed"
    await sending
    assert await layer.receive(channel) == {"list": [1]}


async def test_members_have_copies(make_layer: MakeLayer) -> None:
    """What one member does to a message, another member of the same process does not see."""
    layer = make_layer()
    one, two = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", one)
    await layer.group_add("room", two)
    await layer.group_send("room", {"list": [1]})
    (await layer.receive(one))["list"].append("mine")
    assert await layer.receive(two) == {"list": [1]}
