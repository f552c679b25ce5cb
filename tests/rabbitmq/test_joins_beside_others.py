"""A process that joins ten thousand groups at once goes on receiving meanwhile."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from itertools import count
from types import FrameType

import pytest

from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

JOINS = 10_000
#: Calls of the package's Python functions for a join that begins.
CALLS_TO_BEGIN = 20
#: Calls in any other turn of the loop: fewer than would pass over all joins once.
CALLS_IN_A_TURN = JOINS
#: How long a message may take, in seconds; and, where a slow machine takes long for all joins, the
#: part of their time. The joins begin in a single turn: that is a tenth of it already.
LONGEST, LONGEST_PART = 0.25, 0.2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
async def joiner(make_layer: MakeLayer) -> AsyncIterator[RabbitmqChannelLayer]:
    """A layer whose groups are gone from RabbitMQ before the next test begins."""
    layer = make_layer()
    await layer.current_connection
    yield layer
    await layer.close()
    other = make_layer()
    channel = await other.new_channel()
    names = count()

    async def binds_quickly() -> bool:
        started = time.perf_counter()
        await other.group_add(f"after{next(names)}", channel)
        return time.perf_counter() - started < 0.1

    await until(binds_quickly, timeout=60, step=0.1)


async def join_all(layer: RabbitmqChannelLayer, channel: str, prefix: str) -> None:
    """Join all groups at once, by a task each."""
    names = [f"{prefix}{number}" for number in range(JOINS)]
    await asyncio.gather(*(layer.group_add(name, channel) for name in names))


async def test_turns(joiner: RabbitmqChannelLayer) -> None:
    """No turn of the loop passes over all joins, but the one in which the caller begins them."""
    channel = await joiner.new_channel()
    calls = 0
    turns: list[int] = []

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        code = frame.f_code.co_filename
        calls += event == "call" and "channels_rabbitmq" in code and "tests" not in code

    async def count_turns() -> None:
        while True:
            before = calls
            await asyncio.sleep(0)
            turns.append(calls - before)

    counting = asyncio.create_task(count_turns())
    await asyncio.sleep(0)
    sys.setprofile(profile)
    try:
        await join_all(joiner, channel, "group")
    finally:
        sys.setprofile(None)
    counting.cancel()
    *others, first = sorted(turns)
    assert JOINS <= first <= CALLS_TO_BEGIN * JOINS
    assert others[-1] <= CALLS_IN_A_TURN


async def test_waits(joiner: RabbitmqChannelLayer, make_layer: MakeLayer) -> None:
    """Messages to the process that joins take no quarter of a second; one of two bursts counts."""
    other = make_layer()
    await other.current_connection
    channel, joining = await joiner.new_channel(), await joiner.new_channel()
    waits: list[float] = []

    async def exchange() -> None:
        while True:
            started = time.perf_counter()
            await other.send(channel, {"type": "chat.message"})
            await joiner.receive(channel)
            waits.append(time.perf_counter() - started)

    exchanging = asyncio.create_task(exchange())
    found = []
    for prefix in ("first", "second"):
        await until(lambda: len(waits) > 10)
        waits.clear()
        started = time.perf_counter()
        await join_all(joiner, joining, prefix)
        took = time.perf_counter() - started
        answered = len(waits)
        await until(lambda known=answered: len(waits) > known)  # the one under way
        found.append((max(waits), took))
        if max(waits) <= max(LONGEST, LONGEST_PART * took):
            break
    else:
        pytest.fail(f"longest wait, and seconds for all joins: {found}")
    assert not exchanging.done()
    exchanging.cancel()
