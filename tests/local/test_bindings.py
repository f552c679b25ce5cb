"""What is bound, to be bound, or kept for a while; the server and the clock are made up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from channels_rabbitmq.local.bindings import Binding, BindingState, BindingTable

LINGER = 5.0


@pytest.fixture
def table() -> BindingTable:
    """A table without bindings."""
    return BindingTable(LINGER, 3)


def bind_all(table: BindingTable, now: float = 0.0) -> list[str]:
    """Have RabbitMQ make all that waits; give their keys."""
    taken = table.take_to_bind(1000)
    table.bound(taken, now)
    return [binding.key for binding in taken]


def test_first_come_first_served(table: BindingTable) -> None:
    """The line keeps its order, also where some leave it and join again."""
    for key in "abcd":
        table.join(key)
    table.leave("b", 0)
    table.join("b")
    table.leave("c", 0)
    assert table.waiting == table.unconfirmed == 3
    assert [binding.key for binding in table.take_to_bind(2)] == ["a", "d"]
    assert bind_all(table) == ["b"]
    assert repr(table) == "<BindingTable: 3 bindings, 2 unconfirmed, 0 lingering>"


def test_lingers(table: BindingTable) -> None:
    """A binding that nobody wants can be had back at once, until its time is over."""
    table.join("a")
    bind_all(table)
    table.leave("a", 10)
    assert not table.is_bound("a")
    assert table.lingering == 1
    assert table.next_due == 10 + LINGER
    table.expire(10 + LINGER - 0.1)
    table.join("a")
    assert table.is_bound("a")
    assert (table.lingering, table.waiting, table.next_due) == (0, 0, None)
    table.leave("a", 20)
    table.expire(20 + LINGER)
    assert table.leaving == table.lingering == 1
    table.join("a")  # RabbitMQ was not told yet
    assert table.is_bound("a")
    assert not table.take_to_unbind(10)


def test_message_in_vain(table: BindingTable) -> None:
    """One that lingers goes at once when a message comes by it for nobody; others stay."""
    for key in "ab":
        table.join(key)
    bind_all(table)
    table.leave("a", 0)
    for key in "abc":
        table.leave_now(key)
    assert [binding.key for binding in table.take_to_unbind(10)] == ["a"]
    assert table.is_bound("b")


def test_not_too_many_linger(table: BindingTable) -> None:
    """Beyond the bound the oldest go, and room for them is made even while others join."""
    for key in "abcde":
        table.join(key)
    bind_all(table)
    for key in "abcde":
        table.leave(key, 0)
    assert table.crowded
    assert [binding.key for binding in table.take_to_unbind(10)] == ["a", "b"]
    assert not table.crowded
    assert table.lingering == 3


def test_joins_while_it_is_unbound(table: BindingTable) -> None:
    """It is bound again once it is gone, ahead of those who came later."""
    table.join("a")
    bind_all(table)
    table.leave("a", 0)
    table.leave_now("a")
    unbinding = table.take_to_unbind(10)
    table.join("b")
    table.join("a")
    assert table.unconfirmed == 2
    table.unbound(unbinding)
    assert bind_all(table) == ["a", "b"]


async def test_who_waits(table: BindingTable) -> None:
    """They go on when it is bound, or not wanted any more, or all is over."""
    loop = asyncio.get_running_loop()
    waiters: list[asyncio.Future[None]] = [loop.create_future() for _ in range(4)]
    for key, waiter in zip("aabc", waiters, strict=True):
        table.join(key).add_waiter(waiter)
    waiters[1].cancel()
    table.leave("b", 0)
    assert [waiter.done() for waiter in waiters] == [False, True, True, False]
    table.bound(table.take_to_bind(1), 0)
    assert waiters[0].result() is None
    table.fail(LookupError())
    assert isinstance(waiters[3].exception(), LookupError)


async def test_nothing_is_kept_of_who_gave_up(table: BindingTable) -> None:
    """While RabbitMQ answers nothing, joins that end leave nothing: 100,000 futures and entries."""
    loop = asyncio.get_running_loop()
    bound = table.join("a")
    for number in range(1000):
        table.join(f"b{number}")
        table.leave(f"b{number}", 0)
        waiter: asyncio.Future[None] = loop.create_future()
        bound.add_waiter(waiter)
        waiter.cancel()
    staying: asyncio.Future[None] = loop.create_future()
    bound.add_waiter(staying)
    assert len(bound.waiters) < 200
    assert len(table._line) < 200
    assert bind_all(table) == ["a"]
    assert staying.done()


class Story(RuleBasedStateMachine):
    """Joins and leaves, and a server that does what it is asked for when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = BindingTable(LINGER, 4)
        self.wanted: set[str] = set()
        #: What the server has, and what it was asked for: batches that it does in any order.
        self.server: set[str] = set()
        self.asked: list[tuple[bool, list[Binding]]] = []

    keys = st.sampled_from("abcdefgh")

    @rule(key=keys)
    def join(self, key: str) -> None:
        """Somebody joins."""
        self.table.join(key)
        self.wanted.add(key)

    @rule(key=keys)
    def leave(self, key: str) -> None:
        """The last one leaves."""
        self.table.leave(key, self.now)
        self.wanted.discard(key)

    @rule(key=keys)
    def message_in_vain(self, key: str) -> None:
        """A message comes; where somebody wants it that changes nothing."""
        self.table.leave_now(key)

    @rule(seconds=st.floats(0, 4))
    def move(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.table.expire(self.now)

    @rule(most=st.integers(1, 4), binds=st.booleans())
    def ask(self, most: int, binds: bool) -> None:
        """The server is asked for something, on a channel of its own."""
        take = self.table.take_to_bind if binds else self.table.take_to_unbind
        batch = take(most)
        under_way = {binding.key for _, others in self.asked for binding in others}
        assert under_way.isdisjoint(binding.key for binding in batch), "may overtake"
        if batch:
            self.asked.append((binds, batch))

    @rule(data=st.data())
    def answer(self, data: Any) -> None:
        """The server does one of the batches, whichever was first."""
        if not self.asked:
            return
        binds, batch = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        keys = {binding.key for binding in batch}
        if binds:
            self.server |= keys
            self.table.bound(batch, self.now)
        else:
            assert keys <= self.server, "unbound what was not bound"
            self.server -= keys
            self.table.unbound(batch)

    @invariant()
    def is_true(self) -> None:
        """What is said to be bound is; counts are right; nothing is forgotten."""
        table = self.table
        states = {key: table.get(key).state for key in table.keys}  # type: ignore[union-attr]
        bound = {key for key in states if table.is_bound(key)}
        assert bound <= self.wanted & self.server
        assert self.server <= states.keys()
        assert self.wanted <= states.keys()
        counted = list(states.values()).count
        assert table.waiting == counted(BindingState.WAITING)
        assert table.lingering == counted(BindingState.LINGERING)
        again = self.wanted & {
            key for key, state in states.items() if state is BindingState.UNBINDING
        }
        expected = table.waiting + counted(BindingState.BINDING) + len(again)
        assert table.unconfirmed == expected
        assert table.lingering - table.leaving <= 4

    def teardown(self) -> None:
        """Once all is done, the server has what is wanted, and nothing else."""
        for _ in range(3):
            for binds, batch in self.asked:
                (self.table.bound if binds else self.table.unbound)(batch, *[self.now] * binds)
                for binding in batch:
                    (self.server.add if binds else self.server.discard)(binding.key)
            self.now += LINGER
            self.table.expire(self.now)
            self.asked = [
                (True, self.table.take_to_bind(100)),
                (False, self.table.take_to_unbind(100)),
            ]
        assert self.asked == [(True, []), (False, [])]
        assert self.server == self.wanted == set(self.table.keys)


TestStory = Story.TestCase
TestStory.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
