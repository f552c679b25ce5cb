"""Memory is bounded: how much waits where, by which option, and what happens past it."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest
from channels.exceptions import ChannelFull

from channels_rabbitmq.errors import NotConnected
from channels_rabbitmq.local import housekeeping
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until


@pytest.mark.slow
async def test_backlog_grows_on_rabbitmq(make_layer: MakeLayer, broker: Broker, vhost: str) -> None:
    """local_capacity messages are taken into memory, remote_capacity more stay on RabbitMQ."""
    layer = make_layer(local_capacity=3, remote_capacity=4)
    channel = await layer.new_channel()
    for number in range(7):
        await layer.send(channel, {"n": number})
    assert await rabbit.counts(broker, vhost, layer.queue_name) == (4, 3)
    with pytest.raises(ChannelFull) as caught:
        await layer.send(channel, {"n": "too many"})
    assert not isinstance(caught.value, NotConnected)
    assert [(await layer.receive(channel))["n"] for _ in range(7)] == list(range(7))


@pytest.mark.slow
async def test_room_again_after_receive(make_layer: MakeLayer) -> None:
    """A full process takes messages again once some were received."""
    layer = make_layer(local_capacity=1, remote_capacity=1)
    channel = await layer.new_channel()
    await layer.send(channel, {"n": 1})
    await layer.send(channel, {"n": 2})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"n": 3})
    await layer.receive(channel)

    async def sent() -> bool:
        try:
            await layer.send(channel, {"n": 4})
        except ChannelFull:
            return False
        return True

    await until(sent)
    assert [(await layer.receive(channel))["n"] for _ in range(2)] == [2, 4]


@pytest.mark.slow
async def test_full_process_does_not_stop_a_group(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """group_send() never raises ChannelFull: full processes miss it, the others do not."""
    full = make_layer(local_capacity=1, remote_capacity=1)
    fine = make_layer()
    stuck, reads = await full.new_channel(), await fine.new_channel()
    await full.group_add("room", stuck)
    await fine.group_add("room", reads)
    for number in range(10):
        await fine.group_send("room", {"n": number})
    assert [(await fine.receive(reads))["n"] for _ in range(10)] == list(range(10))
    assert [(await full.receive(stuck))["n"] for _ in range(2)] == [0, 1]
    dropped = [record for record in caplog.records if "Message to group room" in record.message]
    assert len(dropped) == 1  # of eight: the rate is limited
    assert dropped[0].levelno == logging.WARNING


@pytest.mark.slow
async def test_group_message_counts_once(make_layer: MakeLayer, broker: Broker, vhost: str) -> None:
    """A message to a group with two local members takes one place in local_capacity."""
    layer = make_layer(local_capacity=4)
    one, two = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", one)
    await layer.group_add("room", two)
    for number in range(3):
        await layer.group_send("room", {"n": number})
    assert await rabbit.counts(broker, vhost, layer.queue_name) == (0, 3)
    for channel in (one, two):
        assert [(await layer.receive(channel))["n"] for _ in range(3)] == [0, 1, 2]


@pytest.mark.slow
async def test_only_channel_back_pressures(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """A process whose only channel is slow loses nothing: the sender gets ChannelFull."""
    layer = make_layer(local_capacity=2, remote_capacity=2)
    sender = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for number in range(4):
        await sender.send(channel, {"n": number})
    await until(lambda: "Back-pressuring: local_capacity (2 messages)" in caplog.text)
    assert f"Fullest: {channel} (2)" in caplog.text
    with pytest.raises(ChannelFull):
        await sender.send(channel, {"n": 4})
    assert [(await layer.receive(channel))["n"] for _ in range(4)] == [0, 1, 2, 3]
    assert caplog.text.count("Back-pressuring") == 1


@pytest.mark.slow
async def test_largest_local_capacity(make_layer: MakeLayer) -> None:
    """local_capacity may be all that AMQP can say."""
    layer = make_layer(local_capacity=65535)
    channel = await layer.new_channel()
    await layer.send(channel, {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


@pytest.mark.slow
async def test_full_channel_fails_just_its_own_senders(make_layer: MakeLayer) -> None:
    """Of concurrent sends to a full and to another process, those to the full one fail."""
    full = make_layer(local_capacity=1, remote_capacity=1)
    fine = make_layer()
    sender = make_layer()
    stuck, reads = await full.new_channel(), await fine.new_channel()
    await full.current_connection
    await fine.current_connection
    await sender.send(stuck, {"n": 0})
    results = await asyncio.gather(
        *(sender.send(stuck if n % 2 else reads, {"n": n}) for n in range(20)),
        return_exceptions=True,
    )
    assert results[::2] == [None] * 10
    assert {type(result) for result in results[3::2]} == {ChannelFull}
    assert [(await fine.receive(reads))["n"] for _ in range(10)] == list(range(0, 20, 2))


async def test_channels_that_are_gone(
    make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of channels that were waited for, read, and dropped, no mailbox stays."""
    monkeypatch.setattr(housekeeping, "SWEEP_EVERY", 0.05)
    layer = make_layer()
    await layer.current_connection
    channels = [await layer.new_channel() for _ in range(2000)]
    waiting = [asyncio.create_task(layer.receive(name)) for name in channels]
    for name in channels[:100]:
        await layer.send(name, {})
    await asyncio.gather(*waiting[:100])
    mailboxes = layer._owner._local.mailboxes
    assert sum(mailboxes.find(name) is not None for name in channels) >= 1900
    for each in waiting[100:]:
        each.cancel()
    await until(lambda: not any(map(mailboxes.find, channels)))


async def test_a_channel_keeps_its_latest(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """Past its cap, its oldest messages go, with a warning; others keep theirs."""
    layer = make_layer(channel_capacity={"*!*": 3}, local_capacity=50)
    channel = await layer.new_channel()
    with caplog.at_level(logging.WARNING):
        for n in range(10):
            await layer.send(channel, {"n": n})
        await until(lambda: "channel_capacity (3)" in caplog.text)
        last = await layer.new_channel()
        await layer.send(last, {})
        await layer.receive(last)
    assert [(await layer.receive(channel))["n"] for _ in range(3)] == [7, 8, 9]
    assert channel in caplog.text


async def test_other_channels_are_not_capped(make_layer: MakeLayer) -> None:
    """What no pattern matches has the process's window alone."""
    layer = make_layer(channel_capacity={re.compile("normal"): 1}, capacity=1)
    channel = await layer.new_channel()
    for n in range(10):
        await layer.send(channel, {"n": n})
    assert [(await layer.receive(channel))["n"] for _ in range(10)] == list(range(10))


async def test_channels_own_lookup(make_layer: MakeLayer) -> None:
    """``get_capacity()`` of Channels' base class gives what counts here."""
    layer = make_layer(channel_capacity={"jobs*": 7}, capacity=5)
    assert layer.get_capacity("jobs.small") == 7
    assert layer.get_capacity("other") == layer.capacity == 5
