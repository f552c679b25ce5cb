"""Joining and leaving groups, with the bindings that RabbitMQ is told of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from channels.exceptions import StopConsumer
from pamqp.commands import Queue

from channels_rabbitmq.broker import groups as module
from channels_rabbitmq.errors import LoopEnded
from channels_rabbitmq.local.state import LocalState
from tests.helpers.waiting import until

from .fake_rabbit import FakeRabbit
from .process import Process, process


@pytest.fixture
async def here(port: int) -> AsyncIterator[Process]:
    """A process that is connected."""
    async with process(port, "q") as made:
        yield made


async def settle(here: Process) -> None:
    """Wait until RabbitMQ has done what it was told."""
    topology = here.recovery.topology
    assert topology is not None
    await until(lambda: topology.bindings.idle)
    await topology.purge()


def members(here: Process, group: str = "room") -> list[str]:
    """The members of a group."""
    return list(here.state.memberships.members(group))


async def test_the_first_binds_and_the_last_unbinds(here: Process, rabbit: FakeRabbit) -> None:
    """RabbitMQ hears of the first member and of the last one, and of no other."""
    await asyncio.gather(here.groups.add("room", "q!a"), here.groups.add("room", "q!b"))
    assert members(here) == ["q!a", "q!b"]
    assert rabbit.bound() == {"room": ["q"]}
    await here.groups.add("room", "q!c")
    here.groups.discard("room", "q!a")
    here.groups.discard("room", "q!b")
    here.groups.discard("room", "q!x")
    await settle(here)
    assert rabbit.bound() == {"room": ["q"]}
    here.groups.discard("room", "q!c")
    await settle(here)
    assert rabbit.bound() == {}
    bindings = [method.routing_key for method in rabbit.seen(Queue.Bind)]
    assert bindings.count("room") == 1
    assert len(rabbit.seen(Queue.Unbind)) == 1


async def test_slow(
    here: Process, rabbit: FakeRabbit, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A binding that takes longer than send_timeout is told from an outage, and done later."""
    async with process(port, "p", send_timeout=0.3) as other:
        rabbit.silent = (Queue.Bind,)
        await other.groups.add("room", "p!a")
        assert "room is not bound yet: RabbitMQ is slow, 1 of 1 groups not bound yet" in caplog.text
        assert members(other) == ["p!a"]
        rabbit.silent = ()
        rabbit.cut()
        await until(lambda: rabbit.bound() == {"room": ["p"]})


async def test_lost_meanwhile(here: Process, rabbit: FakeRabbit) -> None:
    """A connection that ends meanwhile is no error: the next one has the binding."""
    rabbit.silent = (Queue.Bind,)
    adding = asyncio.create_task(here.groups.add("room", "q!a"))
    await until(lambda: "room" in [bind.routing_key for bind in rabbit.seen(Queue.Bind)])
    rabbit.silent = ()
    rabbit.cut()
    await adding
    assert rabbit.bound() == {"room": ["q"]}


async def test_left_meanwhile(here: Process, rabbit: FakeRabbit) -> None:
    """A group that was left again while RabbitMQ was away is not bound."""
    rabbit.silent = (Queue.Bind,)
    adding = asyncio.create_task(here.groups.add("room", "q!a"))
    await until(lambda: "room" in [bind.routing_key for bind in rabbit.seen(Queue.Bind)])
    here.groups.discard("room", "q!a")
    rabbit.silent = ()
    rabbit.cut()
    await adding
    assert rabbit.bound() == {}
    assert members(here) == []


async def test_a_group_that_is_bound(here: Process, rabbit: FakeRabbit) -> None:
    """Joining it waits for nothing, whether it has members or its binding lingers."""
    await here.groups.add("room", "q!a")
    assert here.groups.join("room", "q!b") is None
    here.groups.discard("room", "q!a")
    here.groups.discard("room", "q!b")
    assert here.groups.join("room", "q!c") is None
    assert members(here) == ["q!c"]
    assert rabbit.bound() == {"room": ["q"]}


async def test_a_plain_loop_of_joins(here: Process, rabbit: FakeRabbit) -> None:
    """Joins of a group that is bound let other tasks run; not one turn was left to them."""
    await here.groups.add("room", "channels_a!x")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for _ in range(2000):
        await here.groups.add("room", "channels_a!y")
    task.cancel()
    assert turns >= 9


class TestCancelling:
    """Calls that are cancelled, alone or beside others."""

    async def test_one(self, here: Process, rabbit: FakeRabbit) -> None:
        """Nothing is left of it, on RabbitMQ neither."""
        adding = asyncio.create_task(here.groups.add("room", "q!a"))
        await asyncio.sleep(0)
        assert members(here) == ["q!a"]
        adding.cancel()
        await asyncio.wait({adding})
        assert members(here) == []
        await settle(here)
        assert rabbit.bound() == {}

    async def test_one_of_two(self, here: Process, rabbit: FakeRabbit) -> None:
        """The other one's membership stands."""
        adding = [asyncio.create_task(here.groups.add("room", "q!a")) for _ in range(2)]
        await asyncio.sleep(0)
        adding[0].cancel()
        await asyncio.wait(adding)
        assert members(here) == ["q!a"]
        assert rabbit.bound() == {"room": ["q"]}

    async def test_of_one_that_is_in(self, here: Process, rabbit: FakeRabbit) -> None:
        """What was established before stays, also while RabbitMQ is away."""
        await here.groups.add("room", "q!a")
        rabbit.silent = (Queue.Bind, Queue.Declare)
        rabbit.cut()
        await until(lambda: here.recovery.topology is None)
        again = asyncio.create_task(here.groups.add("room", "q!a"))
        await asyncio.sleep(0)
        again.cancel()
        await asyncio.wait({again})
        assert members(here) == ["q!a"]

    async def test_claims_whose_results_cross(self, here: Process, rabbit: FakeRabbit) -> None:
        """Two calls of other loops, both done here and both cancelled there, leave nothing."""
        first, second = object(), object()
        await here.groups.add("room", "q!a", first)
        await here.groups.add("room", "q!a", second)
        here.groups.undo_add("room", "q!a", first)
        assert members(here) == ["q!a"]
        here.groups.undo_add("room", "q!a", second)
        assert members(here) == []
        await settle(here)
        assert rabbit.bound() == {}

    async def test_confirmed_claim(self, here: Process) -> None:
        """Once its result has arrived, a claim cannot be undone by those of others."""
        first, second = object(), object()
        await here.groups.add("room", "q!a", first)
        await here.groups.add("room", "q!a", second)
        here.groups.confirm_add("room", "q!a")
        here.groups.undo_add("room", "q!a", second)
        assert members(here) == ["q!a"]


class TestMoving:
    """Another loop takes over."""

    async def test_who_waits_asks_the_next(self, here: Process, rabbit: FakeRabbit) -> None:
        """What is established moves; a call under way is told to ask again, and leaves nothing."""
        await here.groups.add("room", "q!stays")
        rabbit.silent = (Queue.Bind,)
        adding = asyncio.create_task(here.groups.add("other", "q!waits"))
        await asyncio.sleep(0)
        claim = object()
        await here.groups.add("room", "q!claimed", claim)
        here.groups.retire()
        after = LocalState(here.options, here.codec.decode)
        after.take_over(here.state)
        here.groups.stop(LoopEnded(started=False))
        with pytest.raises(LoopEnded):
            await adding
        here.groups.undo_add("room", "q!claimed", claim)  # too late, and for nothing
        assert after.memberships.pairs == [("room", "q!stays")]

    async def test_result_that_crosses_with_the_move(
        self, here: Process, rabbit: FakeRabbit
    ) -> None:
        """A call whose result arrived is confirmed to the next loop, which then binds."""
        here.groups.confirm_add("room", "q!a")
        assert members(here) == ["q!a"]
        await settle(here)
        assert rabbit.bound() == {"room": ["q"]}

    async def test_bound_meanwhile(self, here: Process, rabbit: FakeRabbit) -> None:
        """Also a call whose binding was made before it heard of the move asks again."""
        adding = asyncio.create_task(here.groups.add("room", "q!a"))
        await asyncio.sleep(0)
        here.groups.retire()
        with pytest.raises(LoopEnded):
            await adding
        assert members(here) == []

    async def test_closed(self, here: Process, rabbit: FakeRabbit) -> None:
        """Who waits as the layer is closed is told so."""
        rabbit.silent = (Queue.Bind,)
        adding = asyncio.create_task(here.groups.add("room", "q!a"))
        await asyncio.sleep(0)
        here.groups.stop(StopConsumer())
        with pytest.raises(StopConsumer):
            await adding
        assert members(here) == []


async def test_clear(here: Process, rabbit: FakeRabbit) -> None:
    """All groups are left, and unbound."""
    for group in ("a", "b"):
        await here.groups.add(group, "q!a")
    here.groups.clear()
    await settle(here)
    assert rabbit.bound() == {}
    assert here.state.memberships.pairs == []


async def test_group_expiry(port: int, rabbit: FakeRabbit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memberships end by themselves, each at its time, and so does the binding of the last."""
    monkeypatch.setattr(module, "_EXPIRY_PRECISION", 0.01)
    async with process(port, "q", group_expiry=1) as here:
        loop = asyncio.get_running_loop()
        joined = loop.time()
        await here.groups.add("room", "q!a")
        here.state.memberships.establish("room", "q!older", joined - 0.9)
        await here.groups.add("room", "q!a")  # it starts anew
        await until(lambda: members(here) == [])
        assert loop.time() - joined >= 1
        await settle(here)
        assert rabbit.bound() == {}


async def test_another_prefix(port: int, rabbit: FakeRabbit) -> None:
    """The prefix is a part of the routing key."""
    async with process(port, "q", prefix="site") as here:
        await here.groups.add("room", "q!a")
        assert list(rabbit.bound()) == list(here.groups.routing_keys())
        assert "site" in next(here.groups.routing_keys())
