"""``channel_capacity`` as a cap on a channel of the process, in memory."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pytest

from tests.helpers.support import until

if TYPE_CHECKING:
    from tests.conftest import MakeLayer


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
