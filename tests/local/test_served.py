"""Which requests were taken already."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.local.served import ServedRequests, Verdict


def test_once() -> None:
    """A request is carried out once, and again only if that failed."""
    served = ServedRequests(10)
    assert served.begin("a", 0) is Verdict.NEW
    assert served.begin("a", 1) is Verdict.UNDER_WAY
    served.end("a", done=False)
    assert served.begin("a", 2) is Verdict.NEW
    served.end("a", done=True)
    served.end("a", done=False)
    assert served.begin("a", 12) is Verdict.DONE
    assert served.begin("a", 12.1) is Verdict.NEW


def test_full() -> None:
    """Where too many are remembered, new ones are refused, none is forgotten too early."""
    served = ServedRequests(10, most=2)
    for request_id in "ab":
        assert served.begin(request_id, 0) is Verdict.NEW
        served.end(request_id, done=True)
    assert served.begin("c", 5) is Verdict.FULL
    assert served.begin("a", 5) is Verdict.DONE
    assert served.begin("c", 11) is Verdict.NEW
    assert repr(served) == "<ServedRequests: 1 remembered>"


def test_take_over() -> None:
    """Another loop goes on with what is done; what was under way may be asked of it again."""
    first, second = ServedRequests(10), ServedRequests(10)
    first.begin("done", 0)
    first.end("done", done=True)
    first.begin("under way", 0)
    second.take_over(first)
    first.end("under way", done=True)
    assert second.begin("done", 1) is Verdict.DONE
    assert second.begin("under way", 1) is Verdict.NEW
    assert first.begin("done", 1) is Verdict.NEW


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3), st.booleans())))
def test_never_twice_within_the_lifetime(steps: list[tuple[str, int, bool]]) -> None:
    """However requests come, one that was carried out is not new again within its lifetime."""
    served, now = ServedRequests(5, most=3), 0.0
    done_at: dict[str, float] = {}
    for request_id, pause, done in steps:
        now += pause
        if served.begin(request_id, now) is Verdict.NEW:
            assert now - done_at.get(request_id, -10) > 5
            served.end(request_id, done=done)
            if done:
                done_at[request_id] = now
