"""Approximate Global Ordering"""

from __future__ import annotations

import contextlib
from typing import Any

from channels.exceptions import ChannelFull

from tests.conformance.clauses import (
    Layer,
    Layers,
    clause,
    new_name,
    numbered,
    patiently,
    reading,
    send_when_possible,
)

SECTION = "Approximate Global Ordering"


async def check_quiet_is_heard(here: Layer, there: Layer, busy: str, quiet: str) -> None:
    """Fail unless a message to the quiet channel is read before the busy one is read out."""
    of_busy: list[dict[str, Any]] = []
    of_quiet: list[dict[str, Any]] = []
    async with (
        reading(here, quiet, of_quiet, first=there),
        reading(here, busy, of_busy, first=there, pause=0.02),
    ):
        for message in numbered(80):
            await there.send(busy, message)
        await there.send(quiet, {"type": "conformance.quiet"})
        heard = await patiently(lambda: bool(of_quiet) or len(of_busy) >= 80)
        before = len(of_busy)
    assert heard, "neither channel's messages were read"
    assert of_quiet, "the busy channel's 80 messages were read first"
    assert before < 80, "the busy channel's 80 messages were read first"


@clause("should", SECTION)
async def test_busy_normal_channel_leaves_room_for_a_quiet_one(layers: Layers) -> None:
    """A busy normal channel does not keep a worker from the messages of a quiet one."""
    here, there = await layers()
    await check_quiet_is_heard(here, there, new_name("busy"), new_name("quiet"))


@clause("should", SECTION)
async def test_busy_process_specific_channel_leaves_room_for_a_quiet_one(layers: Layers) -> None:
    """A busy process-specific channel does not keep the process from a quiet one's messages."""
    here, there = await layers()
    await check_quiet_is_heard(here, there, await here.new_channel(), await here.new_channel())


@clause("should", SECTION)
async def test_channel_that_nobody_reads_does_not_silence_another(layers: Layers) -> None:
    """No message goes unreceived purely because another channel of the process is full."""
    here, there = await layers()
    stuck, quiet = await here.new_channel(), await here.new_channel()
    found: list[dict[str, Any]] = []
    async with reading(here, quiet, found):
        with contextlib.suppress(ChannelFull):
            for message in numbered(400):
                await there.send(stuck, message)
        await send_when_possible(there, quiet, {"type": "conformance.quiet"})
        await patiently(lambda: bool(found))
    assert found, "the other channel's message was not received"
