"""The event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from channels_rabbitmq.layer.loop_thread import LoopThread


@pytest.fixture
def thread() -> LoopThread:
    """A loop in a thread. Each test stops it."""
    return LoopThread("a loop")


def running(name: str = "a loop") -> int:
    """How many threads of that name are alive."""
    return sum(thread.name == name for thread in threading.enumerate())


def test_runs_functions_on_the_loop(thread: LoopThread) -> None:
    """A function runs where the loop does; its result or exception comes back."""
    assert thread.run(asyncio.get_running_loop) is thread.loop
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda: 1 // 0)
    assert running() == 1
    thread.stop(10)
    assert running() == 0


def test_stop_cancels_what_is_left(thread: LoopThread) -> None:
    """Tasks are cancelled, and have time to end; nothing is left open."""
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(True)

    task = thread.run(lambda: thread.loop.create_task(work()))
    thread.stop(10)
    assert ended == [True]
    assert task.cancelled()
    assert thread.loop.is_closed()


def test_stop_again_and_anywhere(thread: LoopThread) -> None:
    """Stopping may be repeated, without waiting, and from the loop itself."""
    thread.run(lambda: thread.stop(10))  # does not wait for itself
    thread.stop()
    thread.stop(10)
    assert running() == 0
    thread.stop(10)


def test_stop_waits_no_longer_than_it_is_told(thread: LoopThread) -> None:
    """A loop that is stuck does not keep whoever stops it."""
    release = threading.Event()
    thread.loop.call_soon_threadsafe(release.wait)
    before = time.monotonic()
    thread.stop(0.1)
    assert time.monotonic() - before < 5
    assert running() == 1
    release.set()
    thread.stop(10)
    assert running() == 0


def test_no_new_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started that is said, and the loop does not stay open."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="start new thread"):
        LoopThread("a loop")
