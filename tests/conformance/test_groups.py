"""Groups"""

from __future__ import annotations

from tests.conformance.clauses import (
    Layer,
    Layers,
    clause,
    collect,
    need_extension,
    new_name,
    numbered,
    original,
    within,
)

SECTION = "Specification Details"
CAPACITY = "Capacity"


async def two(layers: Layers) -> list[Layer]:
    """Two layers that have groups."""
    found = await layers()
    need_extension(found[0], "groups")
    return found


@clause("must", SECTION)
async def test_group_add_adds_the_channel(layers: Layers) -> None:
    """group_add(group, channel) adds the channel: what is sent to the group reaches it."""
    here, there = await two(layers)
    channel, group = await here.new_channel(), new_name("group")
    await here.group_add(group, channel)
    await there.group_send(group, numbered(1)[0])
    assert await collect(here, channel, there) == numbered(1), "the message did not arrive"


@clause("must", SECTION)
async def test_group_add_of_a_member_returns_normally(layers: Layers) -> None:
    """group_add() of a channel that is in the group returns normally, and changes nothing."""
    here, there = await two(layers)
    channel, group = await here.new_channel(), new_name("group")
    for _ in range(3):
        await here.group_add(group, channel)
    await there.group_send(group, numbered(1)[0])
    found = await collect(here, channel, there)
    assert found == numbered(1), f"the message arrived {len(found)} times"


@original(
    "must", "group_discard() removes a channel from a group if it was added, and nothing otherwise."
)
@clause("must", SECTION, "group_discard() of a channel that is not in the group does nothing.")
@clause("must", SECTION, "group_discard(group, channel) removes the channel, and no other.")
async def test_group_discard_removes_the_channel(layers: Layers) -> None:
    """group_discard(group, channel) removes the channel, if it is in, and no other."""
    here, there = await two(layers)
    gone, stays, group = await here.new_channel(), await here.new_channel(), new_name("group")
    await here.group_discard(group, gone)
    await here.group_add(group, gone)
    await here.group_add(group, stays)
    for _ in range(2):
        await here.group_discard(group, gone)
    await there.group_send(group, numbered(1)[0])
    assert await collect(here, stays, there) == numbered(1), "the other channel was removed too"
    assert await collect(here, gone, there) == [], "it still got a message"


@clause("must", SECTION)
async def test_group_can_be_joined_again(layers: Layers) -> None:
    """A channel that left a group can be added to it again."""
    here, there = await two(layers)
    channel, group = await here.new_channel(), new_name("group")
    for _ in range(3):
        await here.group_add(group, channel)
        await here.group_discard(group, channel)
    await here.group_add(group, channel)
    await there.group_send(group, numbered(1)[0])
    found = await collect(here, channel, there)
    assert found == numbered(1), f"the message arrived {len(found)} times"


@clause("must", SECTION)
async def test_group_send_reaches_every_member_once(layers: Layers) -> None:
    """group_send(group, message) sends to every channel in the group, once each, in any process."""
    here, there = await two(layers)
    group = new_name("group")
    members = [(layer, await layer.new_channel()) for layer in (here, there) for _ in range(5)]
    for layer, channel in members:
        await layer.group_add(group, channel)
    for message in numbered(3):
        await there.group_send(group, message)
    for layer, channel in members:
        found = await collect(layer, channel, there)
        assert found == numbered(3), f"one of 10 members got {len(found)} of 3, or out of order"


@clause("must", SECTION)
async def test_group_send_reaches_no_other_group(layers: Layers) -> None:
    """group_send() reaches the members of that group only; a channel may be in several."""
    here, there = await two(layers)
    groups = [new_name("group") for _ in range(3)]
    first, both = await here.new_channel(), await here.new_channel()
    await here.group_add(groups[0], first)
    await here.group_add(groups[0], both)
    await here.group_add(groups[1], both)
    for group, message in zip(groups, numbered(3), strict=True):
        await there.group_send(group, message)
    assert await collect(here, first, there) == numbered(1), "it got another group's messages"
    assert await collect(here, both, there) == numbered(2), "it did not get both groups' messages"


@clause("must", SECTION)
async def test_group_send_without_members_does_nothing(layers: Layers) -> None:
    """group_send() to a group without members does nothing."""
    here, there = await two(layers)
    channel, group = await here.new_channel(), new_name("group")
    await within(there.group_send(group, numbered(1)[0]), what="group_send()")
    await here.group_add(group, channel)
    assert await collect(here, channel, there) == [], "a later member got the message"


@clause("must", SECTION)
async def test_group_name_of_100_bytes(layers: Layers) -> None:
    """A group's name may have 100 bytes, as a channel's."""
    here, there = await two(layers)
    channel, group = await here.new_channel(), new_name("group").ljust(100, "x")
    await here.group_add(group, channel)
    await there.group_send(group, numbered(1)[0])
    assert await collect(here, channel, there) == numbered(1), "the message did not arrive"


@clause("must", CAPACITY)
async def test_group_send_never_raises_channel_full(layers: Layers) -> None:
    """group_send() never raises ChannelFull, and does not wait for a member that is full."""
    here, there = await two(layers)
    channel, group = await here.new_channel(), new_name("group")
    await here.group_add(group, channel)
    for message in numbered(400):
        await within(there.group_send(group, message), 5, "group_send()")


@clause("must", CAPACITY)
async def test_group_send_drops_for_full_members_only(layers: Layers) -> None:
    """group_send() drops the message for a member that is full; one that reads still gets it."""
    here, there = await two(layers)
    full, group = await there.new_channel(), new_name("group")
    await there.group_add(group, full)
    for message in numbered(400):
        await here.group_send(group, message)
    reader = await here.new_channel()
    await here.group_add(group, reader)
    await there.group_send(group, numbered(1)[0])
    assert await collect(here, reader, there) == numbered(1), "the member that reads got none"
