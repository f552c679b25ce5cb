"""State machines as data: an enum of states, a table of legal moves, and one way to move.

Everything that changes a state goes through :meth:`StateMachine.move`. The table of connections is
here; roles above the engine have tables of their own beside their code.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

from .errors import IllegalTransition
from .log import NamedLogger

__all__ = ["CONNECTION_MOVES", "ConnectionState", "StateMachine"]

S = TypeVar("S", bound=enum.Enum)

logger = logging.getLogger(__name__)


class StateMachine(Generic[S]):
    """The state of one role, which changes along the role's table only."""

    __slots__ = ("_log", "_moves", "_role", "state")

    def __init__(
        self, role: str, moves: Mapping[S, Collection[S]], initial: S, name: object = ""
    ) -> None:
        self._role = role
        self._log = NamedLogger(logger, name)
        self._moves = moves
        #: The present state. Read it anywhere; :meth:`move` alone sets it.
        self.state = initial

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._role} {self.state.value}>"

    def move(self, state: S) -> None:
        """Enter ``state``; raise :class:`.IllegalTransition`, changing nothing, if it cannot be."""
        if state not in self._moves[self.state]:
            raise IllegalTransition(
                f"{self._role}: cannot move from {self.state.value!r} to {state.value!r}"
            )
        self._log.debug("%s: %s -> %s", self._role, self.state.value, state.value)
        self.state = state


class ConnectionState(enum.Enum):
    """Where one connection to the server stands."""

    #: From the making of the protocol to ``connection.open-ok``.
    CONNECTING = "connecting"
    #: Channels may be opened.
    OPEN = "open"
    #: Either side sent ``connection.close``; nothing more is started.
    CLOSING = "closing"
    #: The socket is closed. A new connection is a new object.
    CLOSED = "closed"


#: From each state of a connection, the states that may follow.
CONNECTION_MOVES: Mapping[ConnectionState, Collection[ConnectionState]] = {
    ConnectionState.CONNECTING: {
        ConnectionState.OPEN,
        ConnectionState.CLOSING,
        ConnectionState.CLOSED,
    },
    ConnectionState.OPEN: {ConnectionState.CLOSING, ConnectionState.CLOSED},
    ConnectionState.CLOSING: {ConnectionState.CLOSED},
    ConnectionState.CLOSED: set(),
}
