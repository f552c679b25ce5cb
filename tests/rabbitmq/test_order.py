"""Order is kept from one sender to one channel."""

from __future__ import annotations

import asyncio

from tests.helpers.rabbit import MakeLayer


async def test_message_waits_for_receive(make_layer: MakeLayer) -> None:
    """Messages that came before anyone asked wait, in order, channel by channel."""
    layer = make_layer()
    one, two = await layer.new_channel(), await layer.new_channel()
    for number in range(3):
        await layer.send(one, {"n": number})
        await layer.send(two, {"n": -number})
    assert [(await layer.receive(two))["n"] for _ in range(3)] == [0, -1, -2]
    assert [(await layer.receive(one))["n"] for _ in range(3)] == [0, 1, 2]


async def test_order_of_one_sender(make_layer: MakeLayer) -> None:
    """Sends that one sender starts one after the other, without waiting, arrive in that order."""
    here, there = make_layer(), make_layer(remote_capacity=5000)
    channel = await there.new_channel()
    await there.current_connection

    async def receive() -> list[object]:
        return [(await there.receive(channel))["n"] for _ in range(3000)]

    receiving = asyncio.create_task(receive())
    await asyncio.gather(*(here.send(channel, {"n": number}) for number in range(3000)))
    assert await receiving == list(range(3000))
