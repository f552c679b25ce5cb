"""uvloop is the owner, and the loop of the layer's own thread."""

from __future__ import annotations

import asyncio

import uvloop
from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import layer, owner_threads, sockets


async def own() -> str:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await asyncio.to_thread(lambda: asyncio.run(caller(channel)))
    for number in range(100):
        assert await layer.receive(channel) == {"n": number}
    return channel


async def caller(channel: str) -> None:
    await asyncio.gather(*(layer.send(channel, {"n": number}) for number in range(100)))


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    channel = runner.run(own())
assert sockets() == 0
async_to_sync(layer.group_send)("room", {"n": 100})
assert async_to_sync(layer.receive)(channel) == {"n": 100}
assert owner_threads() == 1
