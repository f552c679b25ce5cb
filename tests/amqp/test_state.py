"""The one lifecycle: every move that is legal, and every one that is not."""

from __future__ import annotations

import itertools
import logging

import pytest

from channels_rabbitmq.amqp.state import TRANSITIONS, IllegalTransition, Lifecycle, State

#: How to come to each state.
WAYS = {
    State.CONNECTING: [],
    State.READY: [State.READY],
    State.CLOSING: [State.CLOSING],
    State.CLOSED: [State.CLOSED],
}


def lifecycle_in(state: State) -> Lifecycle:
    """A lifecycle in a state."""
    lifecycle = Lifecycle("link")
    for step in WAYS[state]:
        lifecycle.move(step)
    return lifecycle


def test_begins_by_connecting() -> None:
    """Whatever is connected begins by connecting."""
    assert Lifecycle("link").state is State.CONNECTING


@pytest.mark.parametrize(("start", "end"), list(itertools.product(State, State)))
def test_moves(start: State, end: State) -> None:
    """A move along the table changes the state; any other names both, and changes nothing."""
    lifecycle = lifecycle_in(start)
    if end in TRANSITIONS[start]:
        lifecycle.move(end)
        assert lifecycle.state is end
    else:
        with pytest.raises(IllegalTransition, match=f"link: {start.value} -> {end.value}"):
            lifecycle.move(end)
        assert lifecycle.state is start


def test_table_is_complete() -> None:
    """Every state is in the table, none follows itself, and nothing follows the end."""
    assert set(TRANSITIONS) == set(State)
    assert all(state not in following for state, following in TRANSITIONS.items())
    assert not TRANSITIONS[State.CLOSED]


def test_moves_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each move is one line at debug level."""
    with caplog.at_level(logging.DEBUG, "channels_rabbitmq.amqp.state"):
        Lifecycle("connection").move(State.READY)

    assert caplog.messages == ["connection: connecting -> ready"]
