"""Waiting on futures that others rely on."""

from __future__ import annotations

import asyncio
import gc

import pytest

from channels_rabbitmq.amqp.futures import follow, in_time, retrieve, wait_until


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


async def test_wait_until(future: asyncio.Future[str]) -> None:
    """A wait ends with the result, or when the time is due, with the future untouched."""
    loop = asyncio.get_running_loop()
    with pytest.raises(asyncio.TimeoutError):
        await wait_until(future, loop.time() + 0.01)
    with pytest.raises(asyncio.TimeoutError):
        await wait_until(future, loop.time() - 1)
    assert not future.done()

    waiting = asyncio.create_task(wait_until(future, loop.time() + 10))
    await asyncio.sleep(0)
    future.set_result("done")
    assert await waiting == "done"
    assert await wait_until(future, loop.time() - 1) == "done"


async def test_done_as_the_time_is_up(future: asyncio.Future[str]) -> None:
    """A result that comes in the very turn in which the time is up counts."""
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(wait_until(future, loop.time() - 1))
    loop.call_soon(future.set_result, "done")
    assert await waiting == "done"


async def test_wait_until_is_cancelled(future: asyncio.Future[str]) -> None:
    """A wait that is cancelled leaves the future to the others, and no timer behind."""
    waiting = asyncio.create_task(wait_until(future, asyncio.get_running_loop().time() + 3600))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not future.done()


async def test_in_time() -> None:
    """Work that is done in time gives its result, or its error."""

    async def fail() -> None:
        raise LookupError

    assert await in_time(asyncio.sleep(0, "done"), 10) == "done"
    with pytest.raises(LookupError):
        await in_time(fail(), 10)


async def test_not_in_time() -> None:
    """Work that takes too long is cancelled."""
    ended: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append(True)
            raise

    with pytest.raises(asyncio.TimeoutError):
        await in_time(work(), 0.01)
    await asyncio.sleep(0)
    assert ended == [True]


async def test_in_time_is_cancelled() -> None:
    """A cancellation reaches the work, and is not lost even if the work was done just then."""
    release = asyncio.Event()

    async def work() -> str:
        await release.wait()
        return "done"

    waiting = asyncio.create_task(in_time(work(), 3600))
    await asyncio.sleep(0.01)
    release.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_work_that_fails_too_late() -> None:
    """An error that comes after the time is up is nobody's, and is not reported as forgotten."""

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise LookupError

    with pytest.raises(asyncio.TimeoutError):
        await in_time(work(), 0.01)
    await asyncio.sleep(0)
    gc.collect()
