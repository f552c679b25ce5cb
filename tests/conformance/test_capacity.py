"""Capacity"""

from __future__ import annotations

from collections.abc import Sequence

from channels.exceptions import ChannelFull

from tests.conformance.clauses import (
    Layer,
    Layers,
    NotOffered,
    clause,
    collect,
    new_name,
    numbered,
    within,
)

SECTION = "Capacity"


async def fill(layer: Layer, channel: str, count: int) -> int:
    """Send so many messages; return how many of them the layer took."""
    taken = 0
    for message in numbered(count):
        try:
            await within(layer.send(channel, message), 5, "send()")
            taken += 1
        except ChannelFull:
            pass
    return taken


async def stored(layers: Layers, channels: int) -> Sequence[int]:
    """How many messages each of so many channels of one process holds after 40 were sent to it."""
    here, there = await layers(capacity=5)
    names = [await here.new_channel() for _ in range(channels)]
    for name in names:
        await fill(there, name, 40)
    return [len(await collect(here, name, there)) for name in names]


@clause("may", SECTION)
async def test_send_over_capacity_raises_channel_full(layers: Layers) -> None:
    """send() may raise ChannelFull when the channel is at or over its capacity."""
    here, there = await layers(capacity=5)
    channel = await here.new_channel()
    taken = await fill(there, channel, 100)
    if taken == 100:
        raise NotOffered("the sender is never told that a channel is over its capacity")
    assert taken >= 5, f"only {taken} messages were taken"


@clause("should", SECTION)
async def test_capacity_is_configurable(layers: Layers) -> None:
    """The capacity of a channel should be configurable by the user, with a keyword argument."""
    _, there = await layers(capacity=5)
    channel = new_name()
    assert await fill(there, channel, 5) == 5, "it was full before its capacity was reached"
    taken = 5 + await fill(there, channel, 35)
    assert taken <= 10, f"{taken} messages were taken, with a capacity of 5"


@clause("should", SECTION)
async def test_capacity_is_configurable_for_names(layers: Layers) -> None:
    """The capacity should be configurable per channel name or name prefix."""
    small, large = new_name("small"), new_name("large")
    _, there = await layers(capacity=20, channel_capacity={"small.*": 3})
    assert await fill(there, large, 20) == 20, "it was full before its capacity was reached"
    taken = await fill(there, small, 40)
    assert 3 <= taken <= 6, f"{taken} messages were taken, with a capacity of 3"


@clause("must", SECTION)
async def test_channel_takes_messages_again_when_read(layers: Layers) -> None:
    """A channel that was full takes messages again when it has been emptied out."""
    here, there = await layers(capacity=5)
    channel = await here.new_channel()
    await fill(there, channel, 100)
    await collect(here, channel, there)
    await there.send(channel, numbered(1)[0])
    found = [message for message in await collect(here, channel, there) if "n" in message]
    assert found == numbered(1), "it did not arrive"


@clause("must", SECTION)
async def test_capacity_is_shared_by_the_channels_of_a_process(layers: Layers) -> None:
    """Process-specific channels share one capacity: it applies to the part up to the "!"."""
    (alone,) = await stored(layers, 1)
    if alone == 40:
        raise NotOffered("process-specific channels have no capacity")
    together = await stored(layers, 3)
    # A fifth more, for what is under way: the layers allow themselves to be inexact.
    assert sum(together) <= alone * 1.2, (
        f"three channels hold {sum(together)} messages, one alone holds {alone}"
    )
