"""The original backend document: what a backend MUST do

Where today's specification has another name for a method, either will do.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Collection
from typing import Any

from tests.conformance.clauses import (
    Layer,
    Layers,
    check_delivery,
    clause,
    collect,
    need_extension,
    new_name,
    numbered,
    offered,
    reading,
    receive,
    send_at_reading_pace,
    within,
)

SECTION = "Backend Requirements"


async def members(layer: Layer, group: str) -> Collection[str]:
    """What group_members() answers."""
    answer = offered(layer, "group_members")(group)
    found = await within(answer, what="group_members()") if inspect.isawaitable(answer) else answer
    return list(found)


@clause("must", SECTION)
async def test_receive_many_returns_a_message_of_the_channels(layers: Layers) -> None:
    """receive_many() returns an available message on the provided channels."""
    here, there = await layers()
    receive_many = offered(here, "receive_many")
    channels = [new_name(), await here.new_channel(), new_name()]
    sent = list(zip(channels, numbered(3), strict=True))
    for channel, message in sent:
        await there.send(channel, message)
    found: list[tuple[str, dict[str, Any]]] = []

    async def read() -> None:
        while len(found) < 3:
            channel, message = await receive_many(channels)
            if channel is not None:
                found.append((channel, message))
            else:
                await asyncio.sleep(0.01)

    await within(read(), what="reading three messages with receive_many()")
    assert sorted(found, key=lambda item: item[1]["n"]) == sent, "they arrived changed"


@clause("must", SECTION)
async def test_receive_many_does_not_block_indefinitely(layers: Layers) -> None:
    """receive_many() returns no message, at once or after a short delay, where there is none."""
    (layer,) = await layers(1)
    receive_many = offered(layer, "receive_many")
    channels = [new_name(), await layer.new_channel()]
    assert await within(receive_many(channels), 5, "receive_many()") == (None, None)


@clause("must", SECTION)
async def test_group_add_lasts_for_the_expiry_period(layers: Layers) -> None:
    """group_add() adds a channel to a group for at least the expiry period."""
    here, there = await layers(group_expiry=2)
    need_extension(here, "groups")
    channel, group = await here.new_channel(), new_name("group")
    began = time.monotonic()
    await here.group_add(group, channel)
    await asyncio.sleep(1)
    await there.group_send(group, numbered(1)[0])
    found = await collect(here, channel, there)
    assert found == numbered(1) or time.monotonic() - began >= 2, "it was dropped after 1 s of 2"


@clause("must", SECTION)
async def test_group_members_returns_all_channels_in_the_group(layers: Layers) -> None:
    """group_members() returns an iterable of all channels currently in the group."""
    here, there = await layers()
    offered(here, "group_members")
    group = new_name("group")
    assert await members(here, group) == [], "a new group has members"
    added = []
    for layer in (here, there, here):
        channel = await layer.new_channel()
        await layer.group_add(group, channel)
        added.append(channel)
    for layer in (here, there):
        assert sorted(await members(layer, group)) == sorted(added), "members are missing, or wrong"
    await here.group_discard(group, added[0])
    assert sorted(await members(there, group)) == sorted(added[1:]), "one is told that has left"


@clause("must", SECTION)
async def test_message_is_never_delivered_more_than_once(layers: Layers) -> None:
    """A message is never delivered more than once, whoever reads the channel."""
    here, there, writer = await layers(3)
    channel = new_name()
    found: list[dict[str, Any]] = []
    async with reading(here, channel, found), reading(there, channel, found):
        await asyncio.sleep(0.3)  # until both have subscribed, where readers do
        await send_at_reading_pace(writer, channel, numbered(300), found)
    numbers = [message["n"] for message in found]
    twice = len(numbers) - len(set(numbers))
    assert not twice, f"{twice} of 300 messages were read more than once"


@clause("must", SECTION)
async def test_message_of_5_mb(layers: Layers) -> None:
    """Messages of at least 5 MB can be stored."""
    here, there = await layers()
    channel = await here.new_channel()
    message = {"type": "conformance.message", "bytes": bytes(range(256)) * (5 * 2**12)}
    await within(there.send(channel, message), 20, "send()")
    found = await receive(here, channel, 20)
    assert found == message, "it arrived changed"


@clause("must", SECTION)
async def test_channel_name_of_200_characters(layers: Layers) -> None:
    """A channel's name may have 200 characters (of those that today's specification allows)."""
    here, there = await layers()
    await check_delivery(here, new_name().ljust(200, "x"), there)


@clause("must", SECTION)
async def test_group_name_of_200_characters(layers: Layers) -> None:
    """A group's name may have 200 characters (of those that today's specification allows)."""
    here, there = await layers()
    need_extension(here, "groups")
    channel, group = await here.new_channel(), new_name("group").ljust(200, "x")
    await here.group_add(group, channel)
    await there.group_send(group, numbered(1)[0])
    assert await collect(here, channel, there) == numbered(1), "the message did not arrive"


@clause("must", SECTION)
async def test_message_lasts_for_the_expiry_period(layers: Layers) -> None:
    """A message expires only after the expiry period is up."""
    here, there = await layers(expiry=2)
    channels = [new_name(), await here.new_channel()]
    began = time.monotonic()
    for channel in channels:
        await there.send(channel, numbered(1)[0])
    await asyncio.sleep(1)
    for channel in channels:
        found = await collect(here, channel, there)
        late = time.monotonic() - began >= 2
        assert found == numbered(1) or late, "it was gone after 1 s of 2"
