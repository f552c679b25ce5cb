"""Memberships: who is in which group, since when, and who may still take that back."""

from __future__ import annotations

from typing import Literal

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from channels_rabbitmq.local.groups import Memberships

EXPIRY = 10.0


def test_first_and_last_member() -> None:
    """A group is there as long as it has a member."""
    memberships = Memberships()
    memberships.establish("g", "a", 0.0)
    memberships.establish("g", "b", 0.0)
    assert list(memberships.members("g")) == ["a", "b"]
    assert memberships.leave("g", "a")
    assert list(memberships.groups) == ["g"]
    assert memberships.leave("g", "b")
    assert not memberships.leave("g", "b")
    assert list(memberships.groups) == []
    assert list(memberships.members("g")) == []


def test_established() -> None:
    """What is only claimed is a member that may still go."""
    memberships = Memberships()
    claim = object()
    memberships.claim("g", "a", claim, 0.0)
    memberships.establish("g", "b", 0.0)
    assert list(memberships.members("g")) == ["a", "b"]
    assert memberships.established("g") == ["b"]
    memberships.keep("g", "a", 0.0)
    assert memberships.established("g") == ["a", "b"]
    assert memberships.established("other") == []


def test_channels_in_groups() -> None:
    """A channel is in use by groups until it has left the last of them."""
    memberships = Memberships()
    memberships.establish("g", "a", 0.0)
    memberships.establish("h", "a", 0.0)
    memberships.leave("g", "a")
    assert list(memberships.channels) == ["a"]
    memberships.leave("h", "a")
    assert list(memberships.channels) == []
    assert repr(memberships) == "<Memberships: 0 channels in 0 groups>"


def test_a_membership_ends() -> None:
    """It is due once its time has come, and not before."""
    memberships = Memberships(EXPIRY)
    memberships.establish("g", "a", 0.0)
    assert memberships.next_due == 10.0
    assert memberships.due(9.9) == []
    assert memberships.due(10.0) == [("g", "a")]
    memberships.leave("g", "a")
    assert memberships.due(99.0) == []
    assert memberships.next_due is None


def test_the_latest_join_counts() -> None:
    """Joining again starts the time anew, and the oldest is still the first to end."""
    memberships = Memberships(EXPIRY)
    memberships.establish("g", "a", 0.0)
    memberships.establish("g", "b", 1.0)
    memberships.claim("g", "a", "again", 2.0)
    assert memberships.next_due == 11.0
    assert memberships.due(11.5) == [("g", "b")]
    assert memberships.due(12.0) == [("g", "b"), ("g", "a")]


def test_no_expiry() -> None:
    """With an expiry of 0, no membership ends."""
    memberships = Memberships()
    memberships.establish("g", "a", 0.0)
    assert memberships.next_due is None
    assert memberships.due(1e9) == []


def test_two_calls_both_cancelled() -> None:
    """Two calls for one pair, both cancelled as their results come, leave nothing behind."""
    memberships = Memberships()
    memberships.claim("g", "a", 1, 0.0)
    memberships.claim("g", "a", 2, 0.0)
    assert not memberships.withdraw("g", "a", 1)
    assert memberships.withdraw("g", "a", 2)
    assert list(memberships.groups) == []


def test_a_second_call_is_cancelled() -> None:
    """What is established is not undone by a second call that is cancelled."""
    memberships = Memberships()
    memberships.claim("g", "a", 1, 0.0)
    memberships.establish("g", "a", 0.0)
    memberships.claim("g", "a", 2, 0.0)
    assert not memberships.withdraw("g", "a", 1)
    assert not memberships.withdraw("g", "a", 2)
    assert list(memberships.members("g")) == ["a"]


def test_an_old_claim_ends_nothing_new() -> None:
    """A claim that ended with group_discard() does not undo what was joined since."""
    memberships = Memberships()
    memberships.claim("g", "a", 1, 0.0)
    memberships.leave("g", "a")
    memberships.claim("g", "a", 2, 0.0)
    assert not memberships.withdraw("g", "a", 1)
    assert list(memberships.members("g")) == ["a"]


State = Literal["claimed", "established"]

pairs = st.tuples(st.sampled_from("gh"), st.sampled_from("abc"))


class MembershipsMachine(RuleBasedStateMachine):
    """Random calls, ends and cancellations, beside the table of states as the docstring has it."""

    #: Calls under way: the pair, and the claim.
    calls: Bundle[tuple[tuple[str, str], int]] = Bundle("calls")

    @initialize()
    def begin(self) -> None:
        self.memberships = Memberships(EXPIRY)
        self.now = 0.0
        self.serial = 0
        self.states: dict[tuple[str, str], State] = {}
        self.claims: dict[tuple[str, str], set[int]] = {}
        self.joined: dict[tuple[str, str], float] = {}

    def absent(self, pair: tuple[str, str]) -> None:
        self.states.pop(pair, None)
        self.claims.pop(pair, None)
        self.joined.pop(pair, None)

    @rule(target=calls, pair=pairs)
    def claim(self, pair: tuple[str, str]) -> tuple[tuple[str, str], int]:
        self.serial += 1
        self.memberships.claim(*pair, self.serial, self.now)
        self.joined[pair] = self.now
        if self.states.setdefault(pair, "claimed") == "claimed":
            self.claims.setdefault(pair, set()).add(self.serial)
        return pair, self.serial

    @rule(target=calls, call=consumes(calls))
    def establish(self, call: tuple[tuple[str, str], int]) -> object:
        pair, _ = call
        self.memberships.establish(*pair, self.now)
        self.states[pair] = "established"
        self.claims.pop(pair, None)
        self.joined[pair] = self.now
        return multiple()

    @rule(call=consumes(calls))
    def withdraw(self, call: tuple[tuple[str, str], int]) -> None:
        pair, claim = call
        claims = self.claims.get(pair, set())
        last = claims == {claim}
        assert self.memberships.withdraw(*pair, claim) == last
        claims.discard(claim)
        if last:
            self.absent(pair)

    @rule(pair=pairs)
    def leave(self, pair: tuple[str, str]) -> None:
        assert self.memberships.leave(*pair) == (pair in self.states)
        self.absent(pair)

    @rule()
    def give_up(self) -> None:
        self.memberships.give_up()
        for pair, state in list(self.states.items()):
            if state == "claimed":
                self.absent(pair)

    @rule()
    def move(self) -> None:
        old, self.memberships = self.memberships, Memberships(EXPIRY)
        self.memberships.take_over(old)
        assert not old.pairs

    @rule()
    def clear(self) -> None:
        assert set(self.memberships.clear()) == set(self.states)
        for pair in list(self.states):
            self.absent(pair)

    @rule(seconds=st.sampled_from([1.0, EXPIRY / 2]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        ended = {pair for pair, joined in self.joined.items() if joined + EXPIRY <= self.now}
        assert set(self.memberships.due(self.now)) == ended
        for pair in ended:
            self.memberships.leave(*pair)
            self.absent(pair)

    @invariant()
    def members_are_those_of_the_model(self) -> None:
        assert set(self.memberships.pairs) == set(self.states)
        assert set(self.memberships.groups) == {group for group, _ in self.states}
        assert set(self.memberships.channels) == {channel for _, channel in self.states}
        for group in "gh":
            expected = {name for in_group, name in self.states if in_group == group}
            assert set(self.memberships.members(group)) == expected

    @invariant()
    def the_next_to_end_is_known(self) -> None:
        due = min(self.joined.values()) + EXPIRY if self.joined else None
        assert self.memberships.next_due == due


TestMembershipsMachine = MembershipsMachine.TestCase
TestMembershipsMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
