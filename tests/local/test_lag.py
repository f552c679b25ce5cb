"""``lag``: how long the loop ran while a message was held."""

from __future__ import annotations

from channels_rabbitmq.local.lag import LAG, TICK, RunningTime
from channels_rabbitmq.local.mailbox import NEVER


def running(*ticks: float) -> RunningTime:
    """A clock that was started at 0 and ticked at these times."""
    time = RunningTime()
    time.start(0.0)
    for tick in ticks:
        time.tick(tick)
    return time


def test_nothing_is_late_at_first() -> None:
    """Until LAG seconds have passed, nothing has been held for too long."""
    ticks = [TICK * number for number in range(1, round(LAG / TICK))]
    assert running().limit == NEVER
    assert running(*ticks).limit == NEVER


def test_limit_follows() -> None:
    """What was held for LAG seconds is late, within a tick."""
    for count in (5, 6, 50):
        now = TICK * count
        limit = running(*(TICK * number for number in range(1, count + 1))).limit
        assert now - LAG - TICK <= limit <= now - LAG + 1e-9


def test_loop_that_stands_still() -> None:
    """Three seconds in which the loop stands still count as one tick, not as three seconds."""
    time = running(0.05, 0.10, 3.10, 3.15)
    assert time.limit == NEVER
    time.tick(3.20)
    assert time.limit == 0.0
    time.tick(3.25)
    assert time.limit == 0.05


def test_slow_turns() -> None:
    """Of a loop whose turns take longer than a tick, each turn counts as one."""
    time = running(0.2, 0.4, 0.6, 0.8)
    assert time.limit == NEVER
    time.tick(1.0)
    assert time.limit == 0.0


def test_start_anew() -> None:
    """Nothing that was held before counts after a new start."""
    time = running(*(TICK * number for number in range(1, 20)))
    time.start(10.0)
    assert time.limit == NEVER
