"""What an outage costs the calls in it, by a clock that the tests read for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.broker.outage import Outage


def test_before_the_first() -> None:
    """Nothing is given up before there was an attempt to connect."""
    outage = Outage(10)
    assert outage.due is None
    assert not outage.is_given_up(1000.0)


def test_costs_its_time_once() -> None:
    """All calls give up at one time, and none waits after that until the outage ends."""
    outage = Outage(10)
    outage.begin(100.0)
    assert not outage.is_given_up(109.9)
    assert outage.is_given_up(110.0)
    outage.begin(111.0)  # a later attempt to connect begins nothing anew
    assert outage.due == 110.0
    assert outage.is_given_up(5000.0)
    outage.end()
    assert outage.due is None
    assert not outage.is_given_up(5000.0)


def test_each_outage_is_timed_anew() -> None:
    """The next one has its whole time, however soon it comes."""
    outage = Outage(10)
    outage.begin(100.0)
    outage.end()
    outage.begin(105.0)
    assert outage.due == 115.0


@given(st.lists(st.tuples(st.sampled_from(["begin", "end"]), st.floats(0, 100)), max_size=30))
def test_never_waits_longer_than_the_timeout(steps: list[tuple[str, float]]) -> None:
    """Whatever happens, a call waits at most the timeout from the beginning of its outage."""
    outage = Outage(10)
    now, began = 0.0, None
    for what, passed in steps:
        now += passed
        if what == "begin":
            outage.begin(now)
            began = now if began is None else began
        else:
            outage.end()
            began = None
        assert outage.due == (None if began is None else began + 10)
        assert outage.is_given_up(now) == (began is not None and now >= began + 10)
