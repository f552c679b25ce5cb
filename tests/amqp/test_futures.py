"""Waiting on futures that others rely on."""

from __future__ import annotations

import asyncio
import gc
from typing import cast

import pytest

from channels_rabbitmq.amqp.futures import Deadlines, follow, retrieve, without_result
from tests.helpers.clock import Clock


@pytest.fixture
async def future() -> asyncio.Future[str]:
    """A future that others rely on."""
    return asyncio.get_running_loop().create_future()


async def test_follows_to_a_result(future: asyncio.Future[str]) -> None:
    """A follower gets the result, before or after it is there."""
    follower = follow(future)
    assert not follower.done()
    future.set_result("done")

    assert await follower == "done"
    late = follow(future)
    assert late.done()
    assert late.result() == "done"


async def test_follows_to_an_error(future: asyncio.Future[str]) -> None:
    """A follower gets the error, and need not be asked for it."""
    follower, ignored = follow(future), follow(future)
    future.add_done_callback(retrieve)
    future.set_exception(LookupError())

    with pytest.raises(LookupError):
        await follower
    assert ignored.done()
    del ignored
    gc.collect()


async def test_cancelled_follower(future: asyncio.Future[str]) -> None:
    """A follower that is cancelled cancels nothing else, and is not kept."""
    others = [follow(future) for _ in range(3)]
    others[1].cancel()
    await asyncio.sleep(0)
    callbacks = future._callbacks
    assert len(callbacks) == 2
    others[0].cancel()
    future.set_result("done")
    await asyncio.sleep(0)

    assert others[0].cancelled()
    assert others[2].result() == "done"


async def test_deadlines() -> None:
    """Futures fail once their time is up, each at its own, with one timer for all of them."""
    clock = Clock()
    deadlines = Deadlines(cast("asyncio.AbstractEventLoop", clock), 10)
    futures: list[asyncio.Future[None]] = []
    for now in range(5):
        clock.move(now)
        futures.append(asyncio.get_running_loop().create_future())
        deadlines.watch(futures[-1])
        assert len(clock.timers) == 1
    futures[0].set_result(None)
    futures[2].cancel()

    clock.move(10)
    assert [future.done() for future in futures] == [True, False, True, False, False]
    clock.move(11)
    with pytest.raises(asyncio.TimeoutError):
        await futures[1]
    assert not futures[3].done()
    clock.move(14)
    for future in futures[3:]:
        with pytest.raises(asyncio.TimeoutError):
            await future
    assert not clock.timers


async def test_deadlines_shared() -> None:
    """Futures that are watched at about the same time share a deadline; no later one is missed."""
    clock = Clock()
    deadlines = Deadlines(cast("asyncio.AbstractEventLoop", clock), 10)
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[None]] = [loop.create_future() for _ in range(5)]
    deadlines.watch(futures[0])
    clock.move(0.005)
    deadlines.watch(futures[1])
    futures[0].set_result(None)
    clock.move(9.999)
    deadlines.watch(futures[2])
    futures[2].set_result(None)
    assert not futures[1].done()
    clock.move(10)
    assert isinstance(futures[1].exception(), TimeoutError)
    # What was there is done, and what comes now is not forgotten with it.
    deadlines.watch(futures[3])
    deadlines.watch(futures[4])
    futures[4].set_result(None)
    clock.move(20)
    assert isinstance(futures[3].exception(), TimeoutError)
    assert not clock.timers


async def test_deadlines_end() -> None:
    """What still waits fails at once, and no timer is left."""
    clock = Clock()
    deadlines = Deadlines(cast("asyncio.AbstractEventLoop", clock), 10)
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    deadlines.watch(future)
    deadlines.watch(done)
    done.set_result(None)
    deadlines.end(LookupError())
    assert not clock.timers
    with pytest.raises(LookupError):
        await future
    deadlines.end(LookupError())


@pytest.mark.parametrize("early", [False, True])
async def test_without_result(future: asyncio.Future[str], early: bool) -> None:
    """The outer future ends as the inner one does, and has no result."""
    if early:
        future.set_result("done")
    outer = without_result(future)
    if not early:
        future.set_result("done")

    assert await outer is None


async def test_without_result_passes_errors_on(future: asyncio.Future[str]) -> None:
    """An error is the outer future's too."""
    outer = without_result(future)
    future.set_exception(LookupError())

    with pytest.raises(LookupError):
        await outer


async def test_without_result_is_cancelled_in_both_directions(future: asyncio.Future[str]) -> None:
    """Cancelling either future cancels the other."""
    outer = without_result(future)
    outer.cancel()
    await asyncio.sleep(0)
    assert future.cancelled()

    inner: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    outer = without_result(inner)
    inner.cancel()
    await asyncio.sleep(0)
    assert outer.cancelled()


async def test_error_after_the_outer_future_was_cancelled(future: asyncio.Future[str]) -> None:
    """An error that comes when nobody waits any more is not reported as forgotten."""
    outer = without_result(future)
    future.set_exception(LookupError())
    outer.cancel()
    del future
    await asyncio.sleep(0)
    gc.collect()
