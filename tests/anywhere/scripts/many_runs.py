"""Point 7: ``asyncio.run()`` again and again, over one layer that lasts."""

from __future__ import annotations

import asyncio

from tests.anywhere.scripts.prelude import descriptors, layer, owner_threads, sockets


async def first() -> str:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    return channel


async def again(number: int) -> None:
    assert await layer.receive(channel) == {"n": number - 1}  # sent in the run before
    await layer.group_send("room", {"n": number})
    waiting = asyncio.create_task(layer.receive(await layer.new_channel()))  # cancelled at the end
    await asyncio.sleep(0)
    assert sockets() == 1
    assert not waiting.done()


async def send(number: int) -> None:
    await layer.group_send("room", {"n": number})


channel = asyncio.run(first())
queue = layer.queue_name
asyncio.run(send(0))
before = descriptors()
for number in range(1, 11):
    asyncio.run(again(number))
    assert sockets() == 0
    assert descriptors() == before
assert layer.queue_name == queue
assert owner_threads() == 0
