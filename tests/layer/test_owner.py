"""Which loop owns the layer, with RabbitMQ away: the address leads nowhere."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import StopConsumer

from channels_rabbitmq.broker.recovery import RecoveryState
from channels_rabbitmq.config.options import Options
from channels_rabbitmq.errors import IllegalTransition, LoopEnded
from channels_rabbitmq.layer.loop_layer import LoopLayer
from channels_rabbitmq.layer.owner import OWNERSHIP_MOVES, Owner, Ownership
from channels_rabbitmq.wire.serializers import make_codec
from tests.helpers.waiting import until


@pytest.fixture(autouse=True)
def _no_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("channels_rabbitmq"), "disabled", True)


@pytest.fixture
def owner() -> Iterator[Owner]:
    """An owner without RabbitMQ, closed afterwards."""
    options = Options.from_config({"host": "amqp://127.0.0.1:1", "send_timeout": 0.1})
    owner = Owner(options, make_codec(options))
    yield owner
    asyncio.run(owner.close())
    asyncio.run(until(lambda: threads() == 0))


def threads() -> int:
    """How many threads of the layer are alive."""
    return sum(thread.name == "channels_rabbitmq" for thread in threading.enumerate())


async def look(loop_layer: LoopLayer) -> LoopLayer:
    """An operation: give the LoopLayer that it runs on, and check that it runs there."""
    assert loop_layer.loop is asyncio.get_running_loop()
    return loop_layer


async def owning_loop(owner: Owner) -> asyncio.AbstractEventLoop:
    """The owning loop, after a call that makes one the owner."""
    return (await owner.run(look)).loop


def state(owner: Owner) -> Ownership:
    """Where ownership stands."""
    return owner._ownership.state


# Which loop


def test_a_lasting_loop_becomes_the_owner(owner: Owner) -> None:
    """The first lasting loop owns the layer, without a thread; the next one after it."""

    async def main() -> None:
        assert await owning_loop(owner) is asyncio.get_running_loop()
        assert state(owner) is Ownership.OWNED
        assert threads() == 0

    assert state(owner) is Ownership.UNOWNED
    asyncio.run(main())
    assert state(owner) is Ownership.UNOWNED
    asyncio.run(main())


def test_a_transient_loop_does_not(owner: Owner) -> None:
    """For calls from transient loops there is a thread, the same for all."""
    first = async_to_sync(owning_loop)(owner)
    second = async_to_sync(owning_loop)(owner)
    assert first is second
    assert first.is_running()
    assert threads() == 1


def test_the_thread_yields_to_a_lasting_loop(owner: Owner) -> None:
    """As long as nothing but sending was done, a lasting loop becomes the owner."""

    async def send() -> asyncio.AbstractEventLoop:
        return (await owner.run(look, repeat=False)).loop

    async def main() -> None:
        assert await send() is asyncio.get_running_loop()

    async_to_sync(send)()
    assert threads() == 1
    asyncio.run(main())
    asyncio.run(until(lambda: threads() == 0))


def test_the_thread_stays_the_owner_of_channels(owner: Owner) -> None:
    """Once there may be channels, calls of a lasting loop cross."""

    async def main() -> None:
        assert await owning_loop(owner) is not asyncio.get_running_loop()

    async_to_sync(owning_loop)(owner)
    asyncio.run(main())
    assert threads() == 1


def test_two_running_loops(owner: Owner) -> None:
    """Calls of the second one cross while the first one runs."""

    async def main() -> None:
        own = await owning_loop(owner)
        assert await asyncio.to_thread(lambda: asyncio.run(owning_loop(owner))) is own

    asyncio.run(main())


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_all_tasks_of_the_loop_are_cancelled(owner: Owner, turns: int) -> None:
    """A loop that cancels all it has and goes on is the owner again at the next call."""
    first = await owner.run(look)
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await until(lambda: state(owner) is Ownership.UNOWNED)
    assert first.ended
    assert await owner.run(look) is not first
    await owner.close()


async def test_a_loop_with_users_takes_over(owner: Owner) -> None:
    """When the owning loop ends, a loop whose tasks may have channels becomes the owner."""
    loop = asyncio.get_running_loop()
    owning, finish = threading.Event(), threading.Event()

    async def first() -> None:
        await owner.run(look)
        owning.set()
        await asyncio.to_thread(finish.wait)

    thread = threading.Thread(target=lambda: asyncio.run(first()))
    thread.start()
    await asyncio.to_thread(owning.wait)
    assert await owning_loop(owner) is not asyncio.get_running_loop()
    finish.set()
    await until(lambda: owner._loop_layer is not None and owner._loop_layer.loop is loop)
    await asyncio.to_thread(thread.join)
    await owner.close()


def test_no_thread_can_be_started(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call says so, and the next one tries again."""

    def refuse(name: str) -> None:
        raise RuntimeError("no threads")

    with monkeypatch.context() as patch:
        patch.setattr("channels_rabbitmq.layer.owner.LoopThread", refuse)
        with pytest.raises(RuntimeError, match="no threads"):
            async_to_sync(owning_loop)(owner)
    assert state(owner) is Ownership.UNOWNED
    async_to_sync(owning_loop)(owner)


def test_the_layer_cannot_be_made(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread whose LoopLayer cannot be made does not stay."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("channels_rabbitmq.layer.owner.LoopLayer", refuse)
        with pytest.raises(ZeroDivisionError):
            async_to_sync(owning_loop)(owner)
    asyncio.run(until(lambda: threads() == 0))


# Calls


async def test_what_must_not_happen_twice_is_not_repeated(owner: Owner) -> None:
    """A call that was begun as its loop ended is repeated, unless that is forbidden."""
    begun: list[LoopLayer] = []

    async def once(loop_layer: LoopLayer) -> str:
        begun.append(loop_layer)
        if len(begun) % 2:
            raise LoopEnded(started=True)
        return "done"

    with pytest.raises(LoopEnded):
        await owner.run(once, repeat=False)
    begun.clear()
    assert await owner.run(once) == "done"
    assert len(begun) == 2
    await owner.close()


def test_a_result_that_crosses_with_a_cancellation(owner: Owner) -> None:
    """It is given back on the owning loop, with the arguments of its call."""
    given_back: list[tuple[asyncio.AbstractEventLoop, str, str]] = []

    def give_back(loop_layer: LoopLayer, argument: str, result: str) -> None:
        assert loop_layer.loop is asyncio.get_running_loop()
        given_back.append((loop_layer.loop, argument, result))

    async def main() -> None:
        done = asyncio.Event()
        here = asyncio.get_running_loop()

        async def operation(loop_layer: LoopLayer, argument: str) -> str:
            here.call_soon_threadsafe(done.set)
            return argument.upper()

        call = asyncio.ensure_future(owner.run(operation, "result", give_back=give_back))
        await done.wait()
        call.cancel()
        await asyncio.wait({call})
        if call.cancelled():
            await until(lambda: given_back)
            assert [entry[1:] for entry in given_back] == [("result", "RESULT")]

    own = async_to_sync(owning_loop)(owner)
    asyncio.run(main())
    assert {entry[0] for entry in given_back} <= {own}


def test_what_is_posted_is_kept_for_the_next_owner(owner: Owner) -> None:
    """An action that is posted while no loop owns the layer is done by the next one, in order."""
    done: list[tuple[int, asyncio.AbstractEventLoop]] = []

    def note(loop_layer: LoopLayer, number: int) -> None:
        done.append((number, loop_layer.loop))

    async def main() -> None:
        await owner.run(look)
        await until(lambda: len(done) == 2)
        owner.post(note, 3)
        assert [number for number, _ in done] == [1, 2, 3]
        assert {where for _, where in done} == {asyncio.get_running_loop()}

    owner.post(note, 1)
    owner.post(note, 2)
    asyncio.run(main())
    asyncio.run(owner.close())
    owner.post(note, 4)
    assert len(done) == 3


def test_what_was_posted_comes_first(owner: Owner) -> None:
    """A call on a loop that takes over runs after what was posted before it."""
    order: list[str] = []

    async def call(loop_layer: LoopLayer) -> None:
        order.append("called")

    owner.post(lambda loop_layer: order.append("posted"))
    asyncio.run(owner.run(call))
    assert order == ["posted", "called"]


# The end


def test_close(owner: Owner) -> None:
    """After it every call is refused, from any loop."""
    async_to_sync(owning_loop)(owner)
    async_to_sync(owner.close)()
    assert state(owner) is Ownership.CLOSED
    with pytest.raises(StopConsumer):
        async_to_sync(owning_loop)(owner)
    with pytest.raises(StopConsumer):
        asyncio.run(owning_loop(owner))
    with pytest.raises(StopConsumer):
        owner.require_open()
    assert threads() == 0


@pytest.mark.parametrize("crossing", [False, True], ids=["own loop", "other loop"])
def test_close_ends_calls_that_wait(owner: Owner, crossing: bool) -> None:
    """A call that waits as the layer is closed raises StopConsumer."""

    def wait(loop_layer: LoopLayer) -> Awaitable[object]:
        return loop_layer.recovery.wait_topology()

    async def main() -> None:
        waiting = asyncio.ensure_future(owner.run(wait))
        await asyncio.sleep(0.01)
        await owner.close()
        with pytest.raises(StopConsumer):
            await waiting

    if crossing:
        async_to_sync(owning_loop)(owner)
    asyncio.run(main())


async def test_calls_while_it_closes(owner: Owner) -> None:
    """From the beginning of close() on, calls on the owning loop are refused as well."""
    await owner.run(look)
    closing = asyncio.ensure_future(owner.close())
    await asyncio.sleep(0)
    assert state(owner) is Ownership.CLOSING
    assert owner.here() is None
    with pytest.raises(StopConsumer):
        await owner.run(look)
    await closing


@pytest.mark.parametrize("crossing", [False, True], ids=["own loop", "other loop"])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_close_is_cancelled(
    owner: Owner, monkeypatch: pytest.MonkeyPatch, crossing: bool, turns: int
) -> None:
    """The layer leaves RabbitMQ all the same, and no thread stays."""

    async def give(loop_layer: LoopLayer) -> LoopLayer:
        return loop_layer

    async def main() -> None:
        loop_layer = await owner.run(give)
        monkeypatch.setattr(loop_layer.normal, "close", asyncio.Event().wait)
        closing = asyncio.ensure_future(owner.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        await until(lambda: loop_layer.recovery.state is RecoveryState.CLOSED)
        assert state(owner) is Ownership.CLOSED
        await until(lambda: threads() == 0)

    if crossing:
        async_to_sync(owning_loop)(owner)
    asyncio.run(main())


async def test_a_collected_layer_leaves_its_loop(owner: Owner) -> None:
    """What was dropped ends on its loop, and refuses calls."""
    loop_layer = await owner.run(look)
    owner.drop()
    assert state(owner) is Ownership.CLOSING
    await until(lambda: state(owner) is Ownership.CLOSED)
    assert loop_layer.ended
    with pytest.raises(StopConsumer):
        await owner.run(look)
    owner.drop()
    owner.exit()


def test_dropped_while_a_loop_takes_over(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is collected in the midst of a move leaves nothing behind."""
    made: list[LoopLayer] = []
    make = owner._make_loop_layer

    def make_and_drop(thread: object) -> LoopLayer:
        made.append(make(None))
        owner.drop()
        return made[0]

    async def main() -> None:
        with pytest.raises(StopConsumer):
            await owner.run(look)
        await until(lambda: made[0].ended)

    monkeypatch.setattr(owner, "_make_loop_layer", make_and_drop)
    asyncio.run(main())


class Interrupted:
    """An owner's state machine in which something else comes first, once, at a certain move."""

    def __init__(self, owner: Owner, move: Ownership, interrupt: Callable[[], None]) -> None:
        self._machine = owner._ownership
        self._move = move
        self._interrupts = [interrupt]

    @property
    def state(self) -> Ownership:
        """The present state."""
        return self._machine.state

    def move(self, state: Ownership) -> None:
        """Enter a state."""
        if state is self._move and self._interrupts:
            self._interrupts.pop()()
        self._machine.move(state)


@pytest.mark.parametrize("end", [Owner.drop, Owner.exit])
def test_ended_while_a_loop_is_released(
    owner: Owner, monkeypatch: pytest.MonkeyPatch, end: Callable[[Owner], None]
) -> None:
    """What takes no lock may come in the midst of a release, which ends all the same."""

    async def main() -> LoopLayer:
        loop_layer = await owner.run(look)
        interrupted = Interrupted(owner, Ownership.UNOWNED, lambda: end(owner))
        monkeypatch.setattr(owner, "_ownership", interrupted)
        return loop_layer

    loop_layer = asyncio.run(main())
    assert state(owner) is Ownership.CLOSED
    assert loop_layer.recovery.state is RecoveryState.CLOSED


def test_released_while_it_exits(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the interpreter counts, whatever another thread has just changed."""

    async def main() -> None:
        loop_layer = await owner.run(look)
        interrupted = Interrupted(owner, Ownership.CLOSING, lambda: owner._loop_ended(loop_layer))
        monkeypatch.setattr(owner, "_ownership", interrupted)
        owner.exit()

    asyncio.run(main())
    assert state(owner) is Ownership.CLOSED


def test_a_fork_starts_anew(owner: Owner) -> None:
    """The child has another queue name and no owner; what was there is not touched."""
    before = async_to_sync(owner.run)(look)
    queue = owner.names.newest
    owner.forked()
    assert owner.names.newest != queue
    assert state(owner) is Ownership.UNOWNED
    assert async_to_sync(owning_loop)(owner) is not before.loop
    assert before.loop.is_running()
    assert before.thread is not None
    before.thread.stop(10)


def test_a_fork_of_a_closed_layer(owner: Owner) -> None:
    """It is closed in the child as well."""
    asyncio.run(owner.close())
    owner.forked()
    with pytest.raises(StopConsumer):
        owner.require_open()


# The states


def test_the_end_is_final() -> None:
    """Every state leads to the end, and none leads out of it."""
    assert set(OWNERSHIP_MOVES) == set(Ownership)
    assert not OWNERSHIP_MOVES[Ownership.CLOSED]
    for before, after in OWNERSHIP_MOVES.items():
        assert before not in after
        if before is not Ownership.CLOSED:
            assert after & {Ownership.CLOSING, Ownership.CLOSED}


def test_moves_that_are_not_in_the_table(owner: Owner) -> None:
    """They raise, and change nothing."""
    with pytest.raises(IllegalTransition):
        owner._ownership.move(Ownership.CLOSING)
    assert state(owner) is Ownership.UNOWNED


def test_repr(owner: Owner) -> None:
    """It tells whether there is an owner, and how its connection is."""
    assert repr(owner) == "<Owner unowned, None>"
    async_to_sync(owning_loop)(owner)
    assert repr(owner).startswith("<Owner owned, <LoopLayer")
    assert "connecting" in repr(owner)
