"""uvloop is home, and the loop of the layer's own thread."""

from __future__ import annotations

import asyncio

import uvloop
from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import home_threads, layer, sockets


async def at_home() -> str:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await asyncio.to_thread(lambda: asyncio.run(guest(channel)))
    for number in range(100):
        assert await layer.receive(channel) == {"n": number}
    return channel


async def guest(channel: str) -> None:
    await asyncio.gather(*(layer.send(channel, {"n": number}) for number in range(100)))


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    channel = runner.run(at_home())
assert sockets() == 0
async_to_sync(layer.group_send)("room", {"n": 100})
assert async_to_sync(layer.receive)(channel) == {"n": 100}
assert home_threads() == 1
