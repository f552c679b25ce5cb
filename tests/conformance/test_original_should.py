"""The original backend document: what a backend SHOULD do

Where today's specification has another name for a method, either will do.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.conformance.clauses import (
    Layer,
    Layers,
    clause,
    collect,
    need_extension,
    new_name,
    numbered,
    offered,
    within,
)

SECTION = "Backend Requirements"


@clause("should", SECTION)
async def test_receive_many_blocking_waits_for_a_message(layers: Layers) -> None:
    """receive_many_blocking() is like receive_many() but blocks until a message is available."""
    here, there = await layers()
    wait = offered(here, "receive_many_blocking")
    channels = [new_name(), await here.new_channel()]
    for channel, message in zip(channels, numbered(2), strict=True):
        waiting = asyncio.ensure_future(within(wait(channels), what="receive_many_blocking()"))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done, "it returned without a message"
        await there.send(channel, message)
        assert await waiting == (channel, message), "it returned something else"


@clause("should", SECTION)
async def test_send_group_sends_to_every_channel_in_the_group(layers: Layers) -> None:
    """send_group(), today group_send(), sends a message to every channel in a group."""
    here, there = await layers()
    send_group = offered(there, "send_group", "group_send")
    group = new_name("group")
    members = [(layer, await layer.new_channel()) for layer in (here, there) for _ in range(3)]
    for layer, channel in members:
        await layer.group_add(group, channel)
    await send_group(group, numbered(1)[0])
    for layer, channel in members:
        assert await collect(layer, channel, there) == numbered(1), "one of 6 did not get it"


async def join(layer: Layer, group: str, count: int) -> None:
    """Add so many new channels to a group."""
    channels = [await layer.new_channel() for _ in range(count)]
    for start in range(0, count, 50):
        await asyncio.gather(
            *(layer.group_add(group, channel) for channel in channels[start : start + 50])
        )


@pytest.mark.timeout(120)
@clause("should", SECTION)
async def test_send_group_performs_better_than_o_of_n(layers: Layers) -> None:
    """send_group() performs better than O(n): 40 times the members cost less than half of that."""
    here, there = await layers()
    need_extension(here, "groups")
    send_group = offered(there, "send_group", "group_send")
    least = {}
    for count in (20, 800):
        group = new_name("group")
        await join(here, group, count)
        took = []
        for message in numbered(15):
            began = time.perf_counter()
            await send_group(group, message)
            took.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)  # what is delivered meanwhile is not the sender's time
        least[count] = min(took)
    ratio = least[800] / least[20]
    assert ratio < 20, f"40 times the members cost {ratio:.0f} times as much"


@clause("should", SECTION)
async def test_busy_channel_does_not_drown_out_a_quiet_one(layers: Layers) -> None:
    """A busy channel does not drown out another if a worker is listening on both."""
    here, there = await layers()
    wait = offered(here, "receive_many_blocking")
    busy, quiet = new_name("busy"), new_name("quiet")
    for message in numbered(60):
        await there.send(busy, message)
    await there.send(quiet, {"type": "conformance.quiet"})
    order: list[Any] = []

    async def work() -> None:
        while not order or order[-1] != quiet:
            order.append((await wait([busy, quiet]))[0])

    await within(work(), what="reading until the quiet channel's message")
    assert len(order) < 60, "the busy channel's messages were all read first"
