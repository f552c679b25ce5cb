"""``contention``: when bindings rest, and how they begin again."""

from __future__ import annotations

import pytest

from channels_rabbitmq.local.contention import LEAST_PATIENCE, Contention


@pytest.fixture
def contention() -> Contention:
    """What a new connection has, without jitter."""
    return Contention(lambda low, high: (low + high) / 2)


def in_time(contention: Contention, count: int) -> None:
    """So many bindings are answered, one after the other."""
    for _ in range(count):
        contention.in_time(1)


def test_what_is_overdue(contention: Contention) -> None:
    """An answer is overdue by the fastest pace seen, not by one that has broken down."""
    assert contention.patience(1, 6000) == LEAST_PATIENCE
    patience = contention.patience(64, 6000)
    assert 64 / 6000 < patience < 64 / 100
    assert contention.patience(64, 100) == patience
    assert contention.patience(640, None) == pytest.approx(10 * patience)
    assert contention.patience(64, 12_000) == pytest.approx(patience / 2)


def test_unknown_server(contention: Contention) -> None:
    """A server that was never seen without a deletion under way is not taken for a slow one."""
    patience = contention.patience(32, None)
    assert 32 / 545 < patience < 32 / 100
    assert contention.patience(32, 100) == patience


def test_rests_longer_and_longer(contention: Contention) -> None:
    """Each rest is twice as long; after it one binding is tried, and more if it is made in time."""
    assert contention.window is None
    rests = []
    for now in range(3):
        rests.append(contention.overdue(now))
        assert contention.window == 1
        in_time(contention, 1)
        assert contention.window == 4
    assert rests == [0.2, 0.4, 0.8]
    assert repr(contention) == "<Contention: 4 under way, 3 rests>"
    in_time(contention, 4 + 16)
    assert contention.window is None
    in_time(contention, 1)
    assert contention.window is None
    assert repr(contention) == "<Contention: unlimited under way, 3 rests>"


def test_merely_slow(contention: Contention) -> None:
    """A server that rests do not help has lost seconds, not hours: its pace is the new measure."""
    contention.patience(1, 6000)
    rests = [contention.overdue(now) for now in range(5)]
    assert rests.pop() is None
    assert sum(rest for rest in rests if rest is not None) < 4
    assert contention.window is None
    assert contention.patience(32, 100) > 3
    assert contention.overdue(6) == 0.2


def test_long_ago(contention: Contention) -> None:
    """What was overdue long ago does not make the next rest longer."""
    assert contention.overdue(0) == 0.2
    assert contention.overdue(60) == 0.2
    assert contention.overdue(61) == 0.4


def test_jitter() -> None:
    """Processes that rest at the same moment do not begin again at the same moment."""
    assert len({Contention().overdue(0) for _ in range(20)}) > 10
