"""Calls from loop to loop, with real loops in real threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import random
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator

import pytest

from channels_rabbitmq.errors import LoopEnded
from channels_rabbitmq.layer.loop_thread import LoopThread
from channels_rabbitmq.layer.portal import Portal
from tests.helpers.waiting import until

number = contextvars.ContextVar("number", default=0)


class Target:
    """A loop in a thread, and the portal to it."""

    def __init__(self) -> None:
        self.thread = LoopThread("owning loop")
        #: How often the portal said that the loop has ended.
        self.ended = 0
        self.portal = Portal(self.thread.loop, self._end)

    def _end(self) -> None:
        self.ended += 1

    def stop(self) -> None:
        """End the loop, as ``asyncio.run()`` does: tasks are cancelled."""
        self.thread.stop(10)


@pytest.fixture
def target() -> Iterator[Target]:
    """A loop that is stopped afterwards."""
    target = Target()
    yield target
    target.stop()


def close(loop: asyncio.AbstractEventLoop) -> None:
    """End a loop in an orderly way."""
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


async def give(value: object) -> object:
    """Return a value, from whichever loop this runs on."""
    return value


async def test_a_result_crosses(target: Target) -> None:
    """A call runs on the owning loop, and gives its result here."""

    async def where() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert await target.portal.call(where) is target.thread.loop
    assert await target.portal.call(lambda: give("result")) == "result"


async def test_an_error_crosses(target: Target) -> None:
    """An exception arrives as itself, with both sides in its traceback, and is freed at once."""

    class Failure(Exception):
        pass

    async def fail() -> None:
        raise Failure("text")

    references = []
    gc.disable()
    try:
        try:
            await target.portal.call(fail)
        except Failure as error:
            names = []
            traceback = error.__traceback__
            while traceback is not None:
                names.append(traceback.tb_frame.f_code.co_name)
                traceback = traceback.tb_next
            references.append(weakref.ref(error))
        assert names[0] == "test_an_error_crosses"
        assert names[-1] == "fail"
        await until(lambda: references[0]() is None)
    finally:
        gc.enable()


async def test_a_refusal_crosses(target: Target) -> None:
    """What is raised before there is anything to await reaches the caller as well."""

    def refuse() -> Awaitable[None]:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        await target.portal.call(refuse)
    assert await target.portal.call(lambda: give("the next")) == "the next"


async def test_the_context_crosses(target: Target) -> None:
    """A call sees the context variables of its caller, and changes none of them."""

    async def read_and_set() -> int:
        before = number.get()
        number.set(-1)
        return before

    number.set(7)
    assert await target.portal.call(read_and_set) == 7
    assert number.get() == 7


async def test_a_future_is_work_too(target: Target) -> None:
    """What a call starts may be a future of the owning loop."""
    loop = target.thread.loop

    def start() -> Awaitable[str]:
        future: asyncio.Future[str] = loop.create_future()
        loop.call_later(0.01, future.set_result, "done")
        return future

    assert await target.portal.call(start) == "done"


async def test_many_calls_at_once(target: Target) -> None:
    """A thousand calls under way do not get mixed up, and leave nothing."""
    results = await asyncio.gather(
        *(target.portal.call(lambda n=n: give(n)) for n in range(1000))  # type: ignore[misc]
    )
    assert results == list(range(1000))
    assert target.portal.end_if_idle()


async def test_cancelling_cancels_the_work(target: Target) -> None:
    """Cancelling one call cancels that one there, and no other."""
    cancelled = threading.Event()
    release = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def other() -> str:
        await release.wait()
        return "untouched"

    first = asyncio.ensure_future(target.portal.call(wait))
    second = asyncio.ensure_future(target.portal.call(other))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await until(cancelled.is_set)
    target.portal.tell(lambda event: event.set(), release)
    assert await second == "untouched"


async def test_results_that_cross_with_a_cancellation(target: Target) -> None:
    """Cancelled at any moment, a call's result is taken or given back: one of them, once."""
    given_back: list[int] = []
    made: list[int] = []
    taken: list[int] = []

    async def make(n: int) -> int:
        made.append(n)
        return n

    for n in range(500):
        task = asyncio.ensure_future(target.portal.call(lambda n=n: make(n), given_back.append))  # type: ignore[misc]
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        if n % 3 == 0:
            await asyncio.sleep(random.random() * 1e-3)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            taken.append(await task)
    await target.portal.call(lambda: give(None))
    await until(lambda: sorted(taken + given_back) == sorted(made))
    assert target.portal.end_if_idle()


async def test_a_call_that_was_begun_when_the_loop_ended(target: Target) -> None:
    """It fails, and says that it was begun; the loop is said to have ended once."""
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.sleep(60)

    calls = [asyncio.ensure_future(target.portal.call(wait)) for _ in range(3)]
    await until(begun.is_set)
    await asyncio.to_thread(target.stop)
    for call in calls:
        with pytest.raises(LoopEnded) as ended:
            await call
        assert ended.value.started
    assert target.ended == 1


async def test_a_call_after_the_loop_ended(target: Target) -> None:
    """It fails, and says that it was not begun."""
    await asyncio.to_thread(target.stop)
    with pytest.raises(LoopEnded) as ended:
        await target.portal.call(lambda: give(1))
    assert not ended.value.started
    with pytest.raises(LoopEnded):
        await target.portal.call(lambda: give(1))
    assert target.ended == 1


async def test_the_loop_stops_without_a_word() -> None:
    """A loop that stops running with calls under way is found out; what was done counts."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    portal = Portal(loop, lambda: None)

    async def done_as_it_stops() -> str:
        loop.stop()
        return "done"

    def never() -> Awaitable[None]:
        return loop.create_future()

    waiting = asyncio.ensure_future(portal.call(lambda: asyncio.sleep(60)))
    future = asyncio.ensure_future(portal.call(never))
    await asyncio.sleep(0.01)
    assert await portal.call(done_as_it_stops) == "done"
    for call in (waiting, future):
        with pytest.raises(LoopEnded) as ended:
            await call
        assert ended.value.started
    thread.join()
    await asyncio.to_thread(close, loop)


async def test_a_future_outlives_the_cancelling_of_tasks(target: Target) -> None:
    """While the loop ends, a call that waits for a future gets that future's answer."""
    loop = target.thread.loop
    futures: list[asyncio.Future[str]] = []

    def start() -> Awaitable[str]:
        futures.append(loop.create_future())
        return futures[0]

    async def cancelled() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            futures[0].set_result("confirmed")

    waiting = asyncio.ensure_future(target.portal.call(start))
    ending = asyncio.ensure_future(target.portal.call(cancelled))
    await until(lambda: futures)
    await asyncio.sleep(0.01)
    await asyncio.to_thread(target.stop)
    assert await waiting == "confirmed"
    with pytest.raises(LoopEnded):
        await ending


async def test_no_call_is_done_twice_or_forgotten() -> None:
    """Whenever the loop ends, each call is done, or not begun and never will be."""
    for attempt in range(20):
        target = Target()
        begun: set[int] = set()

        async def work(n: int, begun: set[int] = begun) -> int:
            assert n not in begun
            begun.add(n)
            await asyncio.sleep(0)
            return n

        async def call(n: int, target: Target = target) -> tuple[int, bool]:
            try:
                assert await target.portal.call(lambda: work(n)) == n
            except LoopEnded as ended:
                return n, ended.started
            return n, True

        calls = [asyncio.ensure_future(call(n)) for n in range(200)]
        await asyncio.sleep(attempt * 2e-4)
        stopping = asyncio.to_thread(target.stop)
        calls += [asyncio.ensure_future(call(n)) for n in range(200, 400)]
        await stopping
        started = {n for n, was_started in await asyncio.gather(*calls) if was_started}
        # A task that was begun may be cancelled ahead of its first step.
        assert begun <= started


def test_loops_that_are_closed_over_their_calls(target: Target) -> None:
    """Their calls end, sooner or later; what was for them is given back."""
    given_back: list[object] = []
    release: list[Callable[[], None]] = []

    async def wait() -> str:
        event = asyncio.Event()
        release.append(event.set)
        await event.wait()
        return "late"

    async def start() -> None:
        tasks.append(asyncio.ensure_future(target.portal.call(wait, given_back.append)))
        while not release:
            await asyncio.sleep(0.001)

    async def some_more() -> None:
        assert await target.portal.call(lambda: give("served")) == "served"

    tasks: list[asyncio.Task[str]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    loop.close()
    target.thread.loop.call_soon_threadsafe(release[0])
    asyncio.run(until(lambda: given_back == ["late"]))
    asyncio.run(some_more())
    assert target.portal.end_if_idle()
    tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]


def test_abandoned_loops_are_swept_away(target: Target) -> None:
    """Calls that wait for ever, for loops that are closed, are cancelled before they are many."""
    cancelled: list[int] = []
    begun: list[int] = []

    async def wait(n: int) -> None:
        begun.append(n)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(n)
            raise

    async def start(n: int) -> None:
        tasks.append(asyncio.ensure_future(target.portal.call(lambda: wait(n))))
        while n not in begun:
            await asyncio.sleep(0.001)

    tasks: list[asyncio.Task[None]] = []
    for n in range(65):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(start(n))
        loop.close()
    asyncio.run(until(lambda: len(cancelled) >= 64))
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
