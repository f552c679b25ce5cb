"""Flush"""

from __future__ import annotations

from tests.conformance.clauses import (
    Layer,
    Layers,
    clause,
    collect,
    need_extension,
    new_name,
    numbered,
    within,
)

SECTION = "Specification Details"


async def two(layers: Layers) -> list[Layer]:
    """Two layers that can be flushed."""
    found = await layers()
    need_extension(found[0], "flush")
    return found


@clause("must", SECTION)
async def test_flush_empties_normal_channels(layers: Layers) -> None:
    """flush() leaves no message in a normal channel, as any client sees."""
    here, there = await two(layers)
    channel = new_name()
    for message in numbered(5):
        await there.send(channel, message)
    await within(here.flush(), what="flush()")
    assert await collect(here, channel, there) == [], "messages were left"


@clause("must", SECTION)
async def test_flush_empties_channels_of_the_same_process(layers: Layers) -> None:
    """flush() leaves no message in a process-specific channel of the process itself."""
    here, there = await two(layers)
    channel = await here.new_channel()
    for message in numbered(5):
        await there.send(channel, message)
    await within(here.flush(), what="flush()")
    assert await collect(here, channel, there) == [], "messages were left"


@clause("must", SECTION)
async def test_flush_empties_channels_of_other_processes(layers: Layers) -> None:
    """flush() leaves no message in a process-specific channel of another process."""
    here, there = await two(layers)
    channel = await here.new_channel()
    for message in numbered(5):
        await here.send(channel, message)
    await within(there.flush(), what="flush()")
    assert await collect(here, channel, here) == [], "messages were left"


@clause("must", SECTION)
async def test_flush_empties_groups_of_the_same_process(layers: Layers) -> None:
    """flush() leaves no member in a group."""
    here, there = await two(layers)
    channel, group = await here.new_channel(), new_name("group")
    await here.group_add(group, channel)
    await within(here.flush(), what="flush()")
    await there.group_send(group, numbered(1)[0])
    assert await collect(here, channel, there) == [], "it was still a member"


@clause("must", SECTION)
async def test_flush_empties_groups_of_other_processes(layers: Layers) -> None:
    """flush() leaves no member in a group, whichever process had added it."""
    here, there = await two(layers)
    channel, group = await here.new_channel(), new_name("group")
    await here.group_add(group, channel)
    await within(there.flush(), what="flush()")
    await there.group_send(group, numbered(1)[0])
    assert await collect(here, channel, there) == [], "it was still a member"


@clause("must", SECTION)
async def test_layer_can_be_used_after_flush(layers: Layers) -> None:
    """flush() resets the layer to a blank state, in which everything works."""
    here, there = await two(layers)
    await within(here.flush(), what="flush()")
    channel, group = await here.new_channel(), new_name("group")
    await here.group_add(group, channel)
    await there.group_send(group, numbered(1)[0])
    await there.send(channel, numbered(2)[1])
    assert await collect(here, channel, there) == numbered(2), "messages did not arrive"
