"""The names of one process's queue: the newest, those that are kept, those that were dropped."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from channels_rabbitmq.local.queue_names import QueueNames


def test_one_name_in_normal_life() -> None:
    """There is one name, with the prefix in it, and nothing is kept."""
    names = QueueNames("shop")
    assert names.newest.startswith("channels_shop_")
    assert names.own(names.newest)
    assert not names.own("channels_shop_other")
    assert names.is_channel(f"{names.newest}!a")
    assert not names.is_channel(f"{names.newest}!a b")
    assert not names.is_channel("channels_shop_other!a")
    assert not names.kept
    assert not names.away
    assert not names.note_use(names.newest, 1.0)
    assert not names.note_use("channels_shop_other", 1.0)
    assert not names.kept


def test_another_name_while_the_first_is_locked() -> None:
    """The first name is kept, and away; its channels are the process's own as before."""
    names = QueueNames()
    first = names.newest
    second = names.take_another(10.0)
    assert second == names.newest != first
    assert list(names.kept) == [first]
    assert names.away == {first}
    assert names.is_channel(f"{first}!a")
    assert names.is_channel(f"{second}!a")
    assert repr(names) == f"<QueueNames {second}, 1 earlier, 1 away>"


def test_kept_while_in_use() -> None:
    """An earlier name is dropped so many seconds after its last channel was in use."""
    names = QueueNames()
    first = names.newest
    second = names.take_another(10.0)
    assert names.drop_unused([f"{first}!a", f"{second}!b"], 50.0, 30.0) == []
    assert names.drop_unused([f"{second}!b"], 79.0, 30.0) == []
    assert names.drop_unused([f"{second}!b"], 80.0, 30.0) == [first]
    assert not names.kept
    assert not names.away


def test_used_again_after_it_was_dropped() -> None:
    """A name that was handed out stays valid: its queue is kept again, and is away at first."""
    names = QueueNames()
    first = names.newest
    names.take_another(10.0)
    assert not names.note_use(first, 20.0)
    assert names.drop_unused([], 60.0, 30.0) == [first]
    assert names.own(first)
    assert names.note_use(first, 70.0)
    assert not names.note_use(first, 71.0)
    assert names.away == {first}
    names.away.clear()
    names.lose_all()
    assert names.away == {first}


class Machine(RuleBasedStateMachine):
    """Any sequence of events."""

    def __init__(self) -> None:
        super().__init__()
        self.names = QueueNames()
        self.had = [self.names.newest]
        self.now = 0.0

    @rule()
    def take_another(self) -> None:
        self.had.append(self.names.take_another(self.now))

    @rule(number=st.integers(0, 5), seconds=st.floats(0, 50))
    def drop_unused(self, number: int, seconds: float) -> None:
        self.now += seconds
        used = self.had[number % len(self.had)]
        kept = used in self.names.kept
        self.names.drop_unused([f"{used}!a"], self.now, 30)
        assert (used in self.names.kept) == kept

    @rule(number=st.integers(0, 5))
    def note_use(self, number: int) -> None:
        used = self.had[number % len(self.had)]
        self.names.note_use(used, self.now)
        assert used == self.names.newest or used in self.names.kept

    @rule()
    def lose_all(self) -> None:
        self.names.lose_all()
        assert self.names.away == set(self.names.kept)

    @invariant()
    def names_stay_valid(self) -> None:
        assert self.names.newest == self.had[-1]
        assert all(self.names.is_channel(f"{name}!a") for name in self.had)
        assert self.names.away <= set(self.names.kept) <= set(self.had[:-1])


TestMachine = Machine.TestCase
