"""Channels"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from tests.conformance.clauses import (
    Layers,
    check_delivery,
    clause,
    collect,
    new_name,
    numbered,
    original,
    patiently,
    reading,
    receive,
    send_at_reading_pace,
)

SECTION = "Channels"


def check_each_once(found: list[dict[str, Any]], count: int) -> None:
    """Fail unless each of the numbered messages was read exactly once."""
    times = Counter(message["n"] for message in found)
    twice = sum(1 for n in times if times[n] > 1)
    missing = count - len(times)
    assert not twice, f"{twice} of {count} messages were read more than once"
    assert not missing, f"{missing} of {count} messages were not read"


@original("must", "send() sends a message onto a named channel.")
@clause("must", SECTION)
async def test_normal_channel_reaches_another_process(layers: Layers) -> None:
    """What one process sends to a normal channel, another one receives from it."""
    here, there = await layers()
    await check_delivery(here, new_name(), there)


@clause("must", SECTION)
async def test_normal_channel_is_a_queue_that_waits_for_its_reader(layers: Layers) -> None:
    """A channel is a queue: what is sent to a normal channel waits for a later reader."""
    here, there = await layers()
    channel = new_name()
    await there.send(channel, numbered(1)[0])
    assert await collect(here, channel, there) == numbered(1), "it was not received"


@clause("must", SECTION)
async def test_channel_is_first_in_first_out(layers: Layers) -> None:
    """A channel is a first-in, first-out queue."""
    here, there = await layers()
    channel = await here.new_channel()
    for message in numbered(50):
        await there.send(channel, message)
    found = await collect(here, channel, there)
    assert found == numbered(50), "the messages did not arrive in their order"


@clause("must", SECTION)
async def test_channel_has_multiple_writers(layers: Layers) -> None:
    """A channel can have multiple writers."""
    here, there, elsewhere = await layers(3)
    channel = await here.new_channel()
    messages = numbered(60)
    for writer, part in zip((here, there, elsewhere), range(3), strict=True):
        for message in messages[part::3]:
            await writer.send(channel, message)
    check_each_once(await collect(here, channel), 60)


@clause("must", SECTION)
async def test_only_one_process_gets_each_message(layers: Layers) -> None:
    """A normal channel can have readers in several processes; only one gets each message."""
    here, there, writer = await layers(3)
    channel = new_name()
    found: list[dict[str, Any]] = []
    async with reading(here, channel, found), reading(there, channel, found):
        await asyncio.sleep(0.3)  # until both have subscribed, where readers do
        await send_at_reading_pace(writer, channel, numbered(1000), found)
        # What is read twice is read before this.
        await writer.send(channel, {"type": "conformance.message", "n": -1})
        await patiently(lambda: any(message["n"] == -1 for message in found), 3)
    check_each_once([message for message in found if message["n"] >= 0], 1000)


@clause("must", SECTION)
async def test_only_one_reader_in_a_process_gets_each_message(layers: Layers) -> None:
    """Several readers may wait on one process-specific channel; only one gets each message."""
    here, there = await layers()
    channel = await here.new_channel()
    found: list[dict[str, Any]] = []
    async with reading(here, channel, found), reading(here, channel, found):
        await send_at_reading_pace(there, channel, numbered(100), found)
        await there.send(channel, {"type": "conformance.message", "n": -1})
        await patiently(lambda: any(message["n"] == -1 for message in found), 3)
    check_each_once([message for message in found if message["n"] >= 0], 100)


@clause("must", SECTION)
async def test_process_specific_channel_name_has_an_exclamation_mark(layers: Layers) -> None:
    """A process-specific channel's name has one "!", which separates a remote and a local part."""
    (layer,) = await layers(1)
    name = await layer.new_channel()
    remote, mark, local = name.partition("!")
    assert mark, "there is no '!' in such a name"
    assert remote, "nothing precedes the '!'"
    assert local, "nothing follows the '!'"
    assert "!" not in local, "there is more than one '!'"


@clause("must", SECTION)
async def test_process_specific_channel_hears_other_processes(layers: Layers) -> None:
    """A process-specific channel is read in one process and written to from any."""
    here, there = await layers()
    channel = await here.new_channel()
    for writer, message in zip((there, here), numbered(2), strict=True):
        await writer.send(channel, message)
        assert await receive(here, channel) == message


@clause("must", SECTION)
async def test_process_specific_channels_are_told_apart_by_their_local_part(layers: Layers) -> None:
    """Messages to one process are distributed by the local part of the channel's name."""
    here, there = await layers()
    channels = [await here.new_channel() for _ in range(5)]
    assert len(set(channels)) == 5, "two channels have the same name"
    for channel in channels:
        await there.send(channel, {"type": "conformance.message", "to": channel})
    found = await asyncio.gather(*(receive(here, channel) for channel in reversed(channels)))
    assert [message["to"] for message in found] == channels[::-1], "one got another's message"


@clause("must", SECTION)
async def test_process_specific_channel_gives_every_extant_message(layers: Layers) -> None:
    """A process-specific channel gives every extant message, in order."""
    here, there = await layers()
    channel = await here.new_channel()
    # One that is read first, so that the rest find the process listening.
    await there.send(channel, {"type": "conformance.first"})
    await receive(here, channel)
    for message in numbered(30):
        await there.send(channel, message)
    found = await collect(here, channel, there)
    assert found == numbered(30), f"{len(found)} of 30 messages arrived, or out of order"
