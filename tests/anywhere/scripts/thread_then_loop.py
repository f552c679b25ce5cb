"""A thread that is the owner first, and lasting loops that come later."""

from __future__ import annotations

import asyncio

from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import layer, owner_threads, sockets, until


async def join(group: str) -> str:
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    return channel


async def server() -> None:
    """The process has only sent so far: this loop takes over, where calls are faster."""
    await layer.group_send("nobody", {"type": "x"})
    await asyncio.to_thread(until, lambda: owner_threads() == 0)
    channel = await join("lasting")
    await layer.group_send("lasting", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}
    assert sockets() == 1


async def caller() -> None:
    """There are channels: the owner stays, so that they lose no message."""
    await layer.group_send("pinned", {"type": "x"})
    assert owner_threads() == 1
    assert sockets() == 1


async_to_sync(layer.group_send)("nobody", {"type": "x"})
assert owner_threads() == 1
asyncio.run(server())
assert owner_threads() == 0
channel = async_to_sync(join)("pinned")
asyncio.run(caller())
assert async_to_sync(layer.receive)(channel) == {"type": "x"}
assert owner_threads() == 1
