"""Where the link lives, with RabbitMQ away: the address leads nowhere."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest
from asgiref.sync import AsyncToSync, async_to_sync
from channels.exceptions import StopConsumer

from channels_rabbitmq.config.options import Options
from channels_rabbitmq.layer.loop_layer import LoopLayer
from channels_rabbitmq.layer.owner import Owner
from channels_rabbitmq.layer.transient_loops import is_abandoned, is_passing
from tests.helpers.support import until


@pytest.fixture(autouse=True)
def _no_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("channels_rabbitmq"), "disabled", True)


@pytest.fixture
def home() -> Iterator[Owner]:
    """A home without RabbitMQ, closed afterwards."""
    home = Owner(Options.from_config({"host": "amqp://127.0.0.1:1", "send_timeout": 0.1}))
    yield home
    asyncio.run(home.close())
    assert threads() == 0


def threads() -> int:
    """How many threads of the layer are alive."""
    return sum(thread.name == "channels_rabbitmq" for thread in threading.enumerate())


async def loop_of(home: Owner) -> asyncio.AbstractEventLoop:
    """The loop that is home, after a call that would do for a home."""

    async def ask(loop_layer: LoopLayer) -> asyncio.AbstractEventLoop:
        assert loop_layer.loop is asyncio.get_running_loop()
        return loop_layer.loop

    return await home.call(ask)


def test_a_lasting_loop_is_home(home: Owner) -> None:
    """The first lasting loop becomes home, without a thread; the next one after it."""

    async def main() -> None:
        assert home.loop_layer_here() is not None
        assert await loop_of(home) is asyncio.get_running_loop()
        assert threads() == 0

    asyncio.run(main())
    asyncio.run(main())


def test_a_passing_loop_is_not(home: Owner) -> None:
    """For calls from passing loops there is a thread, the same for all."""
    first = async_to_sync(loop_of)(home)
    second = async_to_sync(loop_of)(home)
    assert first is second
    assert first.is_running()
    assert threads() == 1


def test_passing_loops_are_told_from_lasting_ones() -> None:
    """asgiref's loops are passing, all others last."""

    async def ask() -> bool:
        return is_passing(asyncio.get_running_loop())

    assert async_to_sync(ask)()
    assert not asyncio.run(ask())


def test_no_list_of_passing_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asgiref's list every loop counts as lasting, and none as abandoned."""
    monkeypatch.setattr("channels_rabbitmq.layer.transient_loops.AsyncToSync", object)
    loop = asyncio.new_event_loop()
    assert not is_passing(loop)
    assert not is_abandoned(loop)
    loop.close()


def test_a_caller_that_waits_has_not_left() -> None:
    """A passing loop is not abandoned while its caller is inside of the call."""

    async def ask() -> bool:
        return await asyncio.to_thread(is_abandoned, asyncio.get_running_loop())

    assert not async_to_sync(ask)()


def test_a_caller_that_has_left() -> None:
    """It is abandoned once the caller's thread is elsewhere."""

    class Executor:
        _work_thread = threading.main_thread()

    loop = asyncio.new_event_loop()
    AsyncToSync.loop_thread_executors[loop] = Executor()  # type: ignore[assignment]
    try:
        assert is_abandoned(loop)
    finally:
        del AsyncToSync.loop_thread_executors[loop]
        loop.close()


def test_the_thread_yields_to_a_lasting_loop(home: Owner) -> None:
    """As long as nothing but sending was done, the link moves to a lasting loop."""

    async def send() -> None:
        await home.send_group("room", b"")

    async def main() -> None:
        await send()
        assert home.loop_layer_here() is not None

    async_to_sync(send)()
    assert threads() == 1
    asyncio.run(main())
    assert threads() == 0


def test_the_thread_stays_home_of_channels(home: Owner) -> None:
    """Once there may be channels, a lasting loop is a guest."""

    async def main() -> None:
        assert home.loop_layer_here() is None
        assert await loop_of(home) is not asyncio.get_running_loop()

    async_to_sync(loop_of)(home)
    asyncio.run(main())
    assert threads() == 1


def test_two_running_loops(home: Owner) -> None:
    """The second one is a guest while the first one runs."""

    async def guest() -> asyncio.AbstractEventLoop:
        return await loop_of(home)

    async def main() -> None:
        own = await loop_of(home)
        assert await asyncio.to_thread(lambda: asyncio.run(guest())) is own

    asyncio.run(main())


def test_close(home: Owner) -> None:
    """After it every call is refused, from any loop."""

    async def use() -> None:
        await loop_of(home)

    async_to_sync(use)()
    async_to_sync(home.close)()
    with pytest.raises(StopConsumer):
        async_to_sync(use)()
    with pytest.raises(StopConsumer):
        asyncio.run(use())
    with pytest.raises(StopConsumer):
        home.require_open()
    assert threads() == 0


def test_a_fork_starts_anew(home: Owner) -> None:
    """The child has another queue name and no home; what was there is not touched."""
    before = async_to_sync(loop_of)(home)
    queue = home.queue_name
    residence = home._residence
    home.forked()
    assert home.queue_name != queue
    assert async_to_sync(loop_of)(home) is not before
    assert before.is_running()
    assert residence is not None
    assert residence.thread is not None
    residence.thread.stop(10)


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_all_tasks_of_home_are_cancelled(home: Owner, turns: int) -> None:
    """A loop that cancels all it has and goes on is home again at the next call."""
    first = home.loop_layer_here()
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await until(lambda: home._residence is None)
    second = home.loop_layer_here()
    assert second is not None
    assert second is not first
    await home.close()


def test_no_thread_can_be_started(home: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call says so, and the next one tries again."""
    with monkeypatch.context() as patch:
        patch.setattr("channels_rabbitmq.layer.owner.LoopThread", _refuse)
        with pytest.raises(RuntimeError, match="no threads"):
            async_to_sync(loop_of)(home)
    async_to_sync(loop_of)(home)


def _refuse(name: str) -> None:
    raise RuntimeError("no threads")


def test_repr(home: Owner) -> None:
    """It tells whether there is a home, and how the link is."""
    assert repr(home) == "<Home: None>"
    async_to_sync(loop_of)(home)
    assert "connecting" in repr(home)
