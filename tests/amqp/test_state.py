"""State machines: every move that a table has, and every one that it has not."""

from __future__ import annotations

import itertools
import logging

import pytest

from channels_rabbitmq.amqp.errors import IllegalTransition
from channels_rabbitmq.amqp.state import CONNECTION_MOVES, ConnectionState, StateMachine


def machine(state: ConnectionState) -> StateMachine[ConnectionState]:
    """A connection in a state."""
    return StateMachine("connection", CONNECTION_MOVES, state)


@pytest.mark.parametrize(
    ("start", "end"), list(itertools.product(ConnectionState, ConnectionState))
)
def test_moves(start: ConnectionState, end: ConnectionState) -> None:
    """A legal move changes the state; any other names role, state and move, and changes nothing."""
    connection = machine(start)
    if end in CONNECTION_MOVES[start]:
        connection.move(end)
        assert connection.state is end
    else:
        illegal = f"connection: cannot move from '{start.value}' to '{end.value}'"
        with pytest.raises(IllegalTransition, match=illegal):
            connection.move(end)
        assert connection.state is start


def test_table_of_connections_is_complete() -> None:
    """Every state is in the table, none follows itself, and nothing follows the end."""
    assert set(CONNECTION_MOVES) == set(ConnectionState)
    assert all(state not in following for state, following in CONNECTION_MOVES.items())
    assert not CONNECTION_MOVES[ConnectionState.CLOSED]


def test_connection_never_opens_again() -> None:
    """A connection that was open ends: another one is another object."""
    assert ConnectionState.CONNECTING not in CONNECTION_MOVES[ConnectionState.OPEN]


def test_moves_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each move is one line at debug level."""
    with caplog.at_level(logging.DEBUG, "channels_rabbitmq.amqp.state"):
        machine(ConnectionState.CONNECTING).move(ConnectionState.OPEN)

    assert caplog.messages == ["connection: connecting -> open"]


def test_repr() -> None:
    """The role and its state are told."""
    assert repr(machine(ConnectionState.CLOSING)) == "<StateMachine connection closing>"
