"""Channel Semantics"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.exceptions import ChannelFull, MessageTooLarge

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
    within,
)

SECTION = "Channel Semantics"


@clause("must", SECTION)
async def test_ordering_is_perfect_with_one_reader_and_one_writer(layers: Layers) -> None:
    """Order is preserved perfectly on a process-specific channel with one reader and one writer."""
    here, there = await layers()
    channel = await here.new_channel()
    found: list[dict[str, Any]] = []
    async with reading(here, channel, found):
        for message in numbered(500):
            while message["n"] - len(found) >= 50:  # type: ignore[operator]
                await asyncio.sleep(0)  # stay below the channel's capacity
            await within(there.send(channel, message))
        await patiently(lambda: len(found) >= 500, 5)
    assert found == numbered(500), f"{len(found)} of 500 messages arrived, or out of order"


@original("must", "The ordering of messages inside a channel is preserved.")
@clause("should", SECTION)
async def test_ordering_is_attempted_on_normal_channels(layers: Layers) -> None:
    """Order should be preserved as far as possible in all cases: on a normal channel too."""
    here, there = await layers()
    channel = new_name()
    found: list[dict[str, Any]] = []
    async with reading(here, channel, found, first=there):
        for message in numbered(60):
            await there.send(channel, message)
        await patiently(lambda: len(found) >= 60, 5)
    assert found == numbered(60), f"{len(found)} of 60 messages arrived, or out of order"


@clause("must", SECTION)
async def test_no_message_is_delivered_more_than_once(layers: Layers) -> None:
    """No message is ever delivered more than once, also when a reader gives up meanwhile."""
    here, there = await layers()
    channel = await here.new_channel()
    found = []
    for message in numbered(20):
        waiting = asyncio.ensure_future(here.receive(channel))
        await asyncio.sleep(0)
        await there.send(channel, message)
        if message["n"] % 2:  # type: ignore[operator]
            waiting.cancel()
        results = await asyncio.gather(asyncio.wait_for(waiting, 5), return_exceptions=True)
        found += [result["n"] for result in results if isinstance(result, dict)]
    found += [message["n"] for message in await collect(here, channel, there)]
    assert len(found) == len(set(found)), f"{len(found) - len(set(found))} came more than once"


@original("must", "Sending never blocks: dropping the message, or an error, is preferable.")
@clause("must", SECTION)
async def test_send_never_blocks(layers: Layers) -> None:
    """send() never blocks: to a channel that nobody reads, it returns or raises ChannelFull."""
    here, there = await layers()
    for channel in (await here.new_channel(), new_name()):
        for message in numbered(400):
            try:
                await within(there.send(channel, message), 5, "send()")
            except ChannelFull:
                break


@clause("must", SECTION)
async def test_message_of_1_mb(layers: Layers) -> None:
    """A message of 1 MB when encoded as JSON is delivered."""
    here, there = await layers()
    channel = await here.new_channel()
    message = {"type": "conformance.message", "text": "x" * 1_000_000}
    await there.send(channel, message)
    assert await receive(here, channel) == message, "it arrived changed"


@clause("must", SECTION)
async def test_message_beyond_the_limit_raises_message_too_large(layers: Layers) -> None:
    """A message over the layer's size limit raises MessageTooLarge; up to it, it is delivered."""
    here, there = await layers()
    channel = await here.new_channel()
    message = {"type": "conformance.message", "bytes": bytes(32 * 2**20)}
    try:
        await within(there.send(channel, message), 30)
    except MessageTooLarge:
        assert await collect(here, channel, there) == [], "the message arrived nevertheless"
    else:
        arrived: list[dict[str, Any]] = []
        async with reading(here, channel, arrived):
            await patiently(lambda: bool(arrived), 15)
        assert arrived, "a message of 32 MiB was taken, and never arrived"
        assert arrived[0] == message, "it arrived changed"


@clause("must", SECTION)
async def test_channel_name_of_100_bytes(layers: Layers) -> None:
    """A channel's name may have 100 bytes."""
    here, there = await layers()
    await check_delivery(here, new_name().ljust(100, "x"), there)


@pytest.mark.timeout(120)
@clause("must", SECTION)
async def test_success_rate_of_9999_in_10000(layers: Layers) -> None:
    """Under normal circumstances at least 99.99 % of messages are delivered."""
    here, there = await layers()
    channel = await here.new_channel()
    count = 10_000
    found: list[dict[str, Any]] = []
    async with reading(here, channel, found):
        for start in range(0, count, 50):
            if not await patiently(lambda start=start: len(found) >= start - 50, 5):  # type: ignore[misc]
                break
            for _ in range(50):
                await there.send(channel, {"type": "conformance.message"})
        await patiently(lambda: len(found) >= count, 3)
    assert len(found) >= count * 0.9999, f"{len(found)} of {count} messages arrived"
