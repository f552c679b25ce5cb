"""expiry and local_expiry: how long a message waits, on RabbitMQ and in memory."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from channels.exceptions import ChannelFull

from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


async def test_local_expiry_is_precise(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """A message past local_expiry is dropped, and warned about, within a quarter of a second."""
    layer = make_layer(local_expiry=0.5)
    channel = await layer.new_channel()
    await layer.current_connection
    started = time.monotonic()
    await layer.send(channel, {"n": 1})
    arrived = time.monotonic()
    await until(lambda: "expired" in caplog.text)
    warned = time.monotonic()
    assert warned - started >= 0.5
    assert warned - arrived < 0.75
    assert f"{channel} (1)" in caplog.text
    assert "local_expiry (0.5 s)" in caplog.text
    await layer.send(channel, {"n": 2})
    assert await layer.receive(channel) == {"n": 2}


async def test_local_expiry_frees_the_window(make_layer: MakeLayer) -> None:
    """Expired messages make room: a stuck channel that is alone does not stay full for ever."""
    layer = make_layer(local_capacity=2, remote_capacity=3, local_expiry=0.3)
    channel = await layer.new_channel()
    for number in range(5):
        await layer.send(channel, {"n": number})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"n": "too many"})

    async def sent() -> bool:
        try:
            await layer.send(channel, {"n": "new"})
        except ChannelFull:
            return False
        return True

    await until(sent)
    while (await layer.receive(channel))["n"] != "new":
        pass


async def test_expiry_of_one_member(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """A group message that one member has read expires for just the member that has not."""
    layer = make_layer(local_expiry=0.3)
    reads, stuck = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", stuck)
    await layer.group_add("room", reads)
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(reads) == {"n": 1}
    await until(lambda: "expired" in caplog.text)
    assert f"1 messages expired after local_expiry (0.3 s) unread, in {stuck} (1)" in caplog.text


async def test_warning_is_rate_limited(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """Of many expiries in a short time, one is warned about."""
    layer = make_layer(local_expiry=0.01)
    channel = await layer.new_channel()
    for number in range(5):
        await layer.send(channel, {"n": number})
        await until(lambda: "0 deliveries" in repr(layer))
    expired = [record for record in caplog.records if "expired" in record.message]
    assert len(expired) == 1
    assert expired[0].levelno == logging.WARNING


async def test_expiry_on_rabbitmq(make_layer: MakeLayer) -> None:
    """A message that waits on RabbitMQ for longer than expiry is dropped there, silently."""
    layer = make_layer(local_capacity=1, expiry=0.2, local_expiry=30)
    channel = await layer.new_channel()
    await layer.send(channel, {"n": "in memory"})
    await layer.send(channel, {"n": "on RabbitMQ"})
    await asyncio.sleep(0.4)
    assert await layer.receive(channel) == {"n": "in memory"}
    await layer.send(channel, {"n": "new"})
    assert await layer.receive(channel) == {"n": "new"}


async def test_kept_until_then(make_layer: MakeLayer) -> None:
    """A message that is read before local_expiry is still there."""
    layer = make_layer(local_expiry=1.0)
    channel = await layer.new_channel()
    await layer.send(channel, {"n": 1})
    await asyncio.sleep(0.8)
    assert await layer.receive(channel) == {"n": 1}
