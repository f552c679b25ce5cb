"""No channel stops the others: a stuck one costs messages of its own, and nobody else's."""

from __future__ import annotations

import asyncio
import time

import pytest
from channels.exceptions import ChannelFull

from tests.helpers.rabbit import MakeLayer


@pytest.mark.slow
async def test_stuck_channel_does_not_close_the_window(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """With a channel that is never read, every other channel goes on receiving everything."""
    layer, sender = make_layer(local_capacity=10), make_layer()
    await layer.current_connection
    stuck, reads = await layer.new_channel(), await layer.new_channel()
    for number in range(20):
        await sender.send(stuck, {"n": number})
    waiting = asyncio.create_task(layer.receive(reads))
    await sender.send(reads, {"n": 0})
    assert await asyncio.wait_for(waiting, 5) == {"n": 0}
    for number in range(1, 50):
        await sender.send(reads, {"n": number})
        assert await asyncio.wait_for(layer.receive(reads), 5) == {"n": number}
    assert "local_capacity (10 messages) is used up by channels that are not read" in caplog.text
    assert stuck in caplog.text


@pytest.mark.slow
async def test_two_stuck_channels(make_layer: MakeLayer) -> None:
    """Nor do two stuck channels, each with half of the window, close it."""
    layer, sender = make_layer(local_capacity=10), make_layer()
    await layer.current_connection
    stuck = [await layer.new_channel() for _ in range(2)]
    reads = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(reads))
    for number in range(20):
        await sender.send(stuck[number % 2], {"n": number})
    await sender.send(reads, {"n": 0})
    assert await asyncio.wait_for(waiting, 5) == {"n": 0}


@pytest.mark.slow
async def test_member_of_a_group_counts_as_in_use(make_layer: MakeLayer) -> None:
    """A channel that is only in a group, and has nothing yet, is not shut out by a stuck one."""
    layer, sender = make_layer(local_capacity=5), make_layer()
    stuck, member = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", member)
    for number in range(10):
        await sender.send(stuck, {"n": number})
    await sender.group_send("room", {"n": "for the member"})
    assert await asyncio.wait_for(layer.receive(member), 5) == {"n": "for the member"}


@pytest.mark.slow
async def test_stuck_channel_keeps_its_newest(make_layer: MakeLayer) -> None:
    """What a stuck channel loses are its oldest messages; the newest are there, in order."""
    layer, sender = make_layer(local_capacity=10), make_layer()
    await layer.current_connection
    stuck, reads = await layer.new_channel(), await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(reads))
    for number in range(30):
        await sender.send(stuck, {"n": number})
    await sender.send(reads, {"n": 0})
    await asyncio.wait_for(waiting, 5)
    kept = [(await layer.receive(stuck))["n"] for _ in range(9)]
    assert kept == list(range(21, 30))


@pytest.mark.slow
async def test_flood_to_a_stuck_channel(make_layer: MakeLayer) -> None:
    """A stuck channel that gets many times the messages of another does not hold that one up."""
    layer, sender = make_layer(local_capacity=20, remote_capacity=50), make_layer()
    stuck, reads = await layer.new_channel(), await layer.new_channel()
    await layer.current_connection
    await sender.current_connection
    flooding = True

    async def flood() -> None:
        while flooding:
            try:
                await sender.send(stuck, {"flood": True})
            except ChannelFull:
                await asyncio.sleep(0.001)

    floods = [asyncio.create_task(flood()) for _ in range(5)]
    received = []

    async def receive() -> None:
        while len(received) < 100:
            received.append((await layer.receive(reads))["n"])

    receiving = asyncio.create_task(receive())
    started = time.monotonic()
    for number in range(100):
        while True:
            try:
                await sender.send(reads, {"n": number})
                break
            except ChannelFull:
                await asyncio.sleep(0.001)
    await asyncio.wait_for(receiving, 30)
    elapsed = time.monotonic() - started
    flooding = False
    await asyncio.gather(*floods)
    assert received == list(range(100))
    assert elapsed < 15  # a slot for each 50 ms would be 30 s


@pytest.mark.slow
async def test_burst_to_channels_that_are_read(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """A burst of many times the window to channels that are read loses nothing."""
    layer, sender = make_layer(local_capacity=10, remote_capacity=10_000), make_layer()
    channels = [await layer.new_channel() for _ in range(20)]
    await layer.current_connection

    async def receive(channel: str) -> list[object]:
        return [(await layer.receive(channel))["n"] for _ in range(100)]

    receiving = asyncio.gather(*(receive(channel) for channel in channels))
    await asyncio.gather(
        *(sender.send(channel, {"n": n}) for n in range(100) for channel in channels)
    )
    assert await asyncio.wait_for(receiving, 20) == [list(range(100))] * 20
    assert "not read" not in caplog.text


@pytest.mark.slow
async def test_slow_channel_is_not_robbed(make_layer: MakeLayer) -> None:
    """A channel that is read slowly, but read, loses nothing while another one is in use."""
    layer, sender = make_layer(local_capacity=5), make_layer()
    slow, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", other)
    for number in range(20):
        await sender.send(slow, {"n": number})
    received = []
    for _ in range(20):
        received.append((await layer.receive(slow))["n"])
        await asyncio.sleep(0.02)
    assert received == list(range(20))


async def test_member_that_never_reads_holds_up_nobody(make_layer: MakeLayer) -> None:
    """A member that is never read does not keep messages from the other members."""
    layer = make_layer(local_capacity=5)
    reads, stuck = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", stuck)
    await layer.group_add("room", reads)
    for number in range(30):
        await layer.group_send("room", {"n": number})
        assert await asyncio.wait_for(layer.receive(reads), 5) == {"n": number}
