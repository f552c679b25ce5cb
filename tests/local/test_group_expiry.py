"""`joins`: when memberships end."""

from __future__ import annotations

from channels_rabbitmq.local.group_expiry import LatestJoins


def test_a_membership_ends() -> None:
    """It does so once, when its time has come."""
    joins = LatestJoins(10)
    joins.note("g", "a", 0.0)
    assert joins.next_due == 10.0
    assert joins.due(9.9) == []
    assert joins.due(10.0) == [("g", "a")]
    assert joins.due(99.0) == []
    assert joins.next_due is None


def test_the_latest_join_counts() -> None:
    """Joining again starts the time anew, and the oldest is still the first to end."""
    joins = LatestJoins(10)
    joins.note("g", "a", 0.0)
    joins.note("g", "b", 1.0)
    joins.note("g", "a", 2.0)
    assert joins.next_due == 11.0
    assert joins.due(11.5) == [("g", "b")]
    assert joins.due(12.0) == [("g", "a")]


def test_who_left_is_forgotten() -> None:
    """Leaving needs no end."""
    joins = LatestJoins(10)
    joins.note("g", "a", 0.0)
    joins.note("h", "a", 0.0)
    joins.forget("g", "a")
    joins.forget("g", "b")
    assert joins.due(10.0) == [("h", "a")]
    joins.note("g", "a", 0.0)
    joins.clear()
    assert len(joins) == 0


def test_no_expiry() -> None:
    """With 0, nothing is remembered."""
    joins = LatestJoins(0)
    joins.note("g", "a", 0.0)
    joins.forget("g", "a")
    assert len(joins) == 0
    assert joins.next_due is None
    assert joins.due(1e9) == []
