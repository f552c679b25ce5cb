"""A hook, in a module that asks for the layer as it is imported, as users' do."""

from __future__ import annotations

from channels.layers import get_channel_layer

layer = get_channel_layer()


async def back() -> None:
    await layer.group_send("room", {"type": "back"})
