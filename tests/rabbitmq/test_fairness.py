"""No channel stops the others: one that lags loses messages of its own, and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

import pytest
from channels.exceptions import ChannelFull

from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until


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
    assert "local_capacity (10 messages) is used up by channels that lag" in caplog.text
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
    kept = [(await layer.receive(stuck))["n"]]
    while kept[-1] != 29:
        kept.append((await layer.receive(stuck))["n"])
    assert kept == list(range(kept[0], 30))
    # The window is looked over at times of its own, perhaps as the message for the other channel
    # has come and is about to be read: that costs the stuck one a message more.
    assert kept[0] in (21, 22)


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
    assert "channels that lag" not in caplog.text


@pytest.mark.slow
async def test_slow_channel_is_not_robbed(make_layer: MakeLayer) -> None:
    """A channel that reads within a quarter of a second loses nothing while another is in use."""
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


@pytest.mark.slow
async def test_loop_that_stands_still(make_layer: MakeLayer) -> None:
    """What waits while the program blocks its loop is not lost: nobody could read it."""
    layer, sender = make_layer(local_capacity=5), make_layer()
    reads, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", other)
    for number in range(5):
        await sender.send(reads, {"n": number})
    await until(lambda: "5 deliveries" in repr(layer))
    time.sleep(1)  # noqa: ASYNC251 (this is what is tested)
    await asyncio.sleep(0.1)
    assert [(await layer.receive(reads))["n"] for _ in range(5)] == list(range(5))


async def test_member_that_never_reads_holds_up_nobody(make_layer: MakeLayer) -> None:
    """A member that is never read does not keep messages from the other members."""
    layer = make_layer(local_capacity=5)
    reads, stuck = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", stuck)
    await layer.group_add("room", reads)
    for number in range(30):
        await layer.group_send("room", {"n": number})
        assert await asyncio.wait_for(layer.receive(reads), 5) == {"n": number}


@pytest.mark.slow
async def test_slow_reader_takes_nothing_from_the_others(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """A channel that reads, but too slowly for what it gets, costs twenty others no message."""
    layer, sender = make_layer(local_capacity=20, remote_capacity=60), make_layer()
    slow = await layer.new_channel()
    others = [await layer.new_channel() for _ in range(20)]
    received: dict[str, list[object]] = {name: [] for name in [slow, *others]}

    async def read(channel: str, pause: Callable[[], float]) -> None:
        while True:
            received[channel].append((await layer.receive(channel))["n"])
            await asyncio.sleep(pause())

    async def send(channel: str, count: int, rate: float) -> None:
        started = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0, started + number / rate - time.monotonic()))
            with contextlib.suppress(ChannelFull):
                await sender.send(channel, {"n": number})

    pauses = random.Random(1)
    readers = [asyncio.create_task(read(slow, lambda: pauses.uniform(0.02, 0.09)))]
    readers += [asyncio.create_task(read(name, lambda: 0)) for name in others]
    await asyncio.gather(send(slow, 60 * 5, 60), *(send(name, 2 * 5, 2) for name in others))
    await asyncio.sleep(0.5)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    assert [received[name] for name in others] == [list(range(10))] * 20
    assert 30 < len(received[slow]) < 150
    assert "local_capacity (20 messages) is used up by channels that lag" in caplog.text


@pytest.mark.slow
async def test_burst_to_a_large_slow_group(make_layer: MakeLayer) -> None:
    """Of a burst to 500 members that lag, each slot is freed without a stall of the loop."""
    layer, sender = make_layer(), make_layer(remote_capacity=1000)
    members = [await layer.new_channel() for _ in range(500)]
    await asyncio.gather(*(layer.group_add("room", name) for name in members))
    reads = await layer.new_channel()
    waiting = asyncio.create_task(layer.receive(reads))
    pauses = random.Random(1)
    longest = 0.0

    async def read(channel: str) -> None:
        while True:
            await layer.receive(channel)
            await asyncio.sleep(pauses.uniform(0.05, 2))

    async def watch() -> None:
        nonlocal longest
        while True:
            used = time.thread_time()  # the processor's time, so that other programs do not count
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - used)

    tasks = [asyncio.create_task(read(name)) for name in members]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(watch()))
    await asyncio.gather(*(sender.group_send("room", {"n": number}) for number in range(150)))
    await sender.send(reads, {"n": "after the burst"})
    assert await asyncio.wait_for(waiting, 10) == {"n": "after the burst"}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert longest < 0.1
