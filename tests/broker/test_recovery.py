"""The delays between attempts to connect."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.broker.recovery import FIRST_DELAY, LONGEST_DELAY, delays


def test_grow_to_the_longest() -> None:
    """Without jitter the delays double from half a second up to thirty seconds, and stay there."""
    found = list(itertools.islice(delays(lambda low, high: high), 9))

    assert found == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_stay_in_bounds(parts: list[float]) -> None:
    """Whatever the jitter, no delay is under half of the first or over the longest."""
    drawn = iter(parts)
    found = list(
        itertools.islice(delays(lambda low, high: low + next(drawn) * (high - low)), len(parts))
    )

    assert all(FIRST_DELAY / 2 <= delay <= LONGEST_DELAY for delay in found)
    assert len(found) == len(parts)


def test_jitter_spreads_processes() -> None:
    """Processes that lost RabbitMQ at the same moment do not come back at the same moment."""
    assert len({next(delays()) for _ in range(50)}) > 40
