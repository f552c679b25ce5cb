"""``group_expiry``: memberships end by themselves."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


async def test_a_membership_ends(make_layer: MakeLayer) -> None:
    """It does so on its second, and its group's binding goes with it."""
    layer = make_layer(group_expiry=1)
    loop = asyncio.get_running_loop()
    channel = await layer.new_channel()
    joined = loop.time()
    await layer.group_add("g", channel)
    await layer.group_send("g", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}

    async def gone() -> bool:
        return not await layer.group_members("g")

    await until(gone, step=0.05)
    assert 1 <= loop.time() - joined < 2
    await layer.group_send("g", {"n": 2})
    await layer.send(channel, {"n": 3})
    assert await layer.receive(channel) == {"n": 3}


async def test_the_attribute(make_layer: MakeLayer) -> None:
    """The specification asks for it; by default memberships do not end."""
    assert make_layer(group_expiry=86400).group_expiry == 86400
    assert make_layer().group_expiry == 0
