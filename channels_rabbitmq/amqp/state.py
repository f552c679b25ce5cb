"""The one lifecycle of whatever is connected: a state, the moves that are legal, one setter."""

from __future__ import annotations

import enum
import logging

from .errors import IllegalTransition

logger = logging.getLogger(__name__)


class State(enum.Enum):
    """Where a connection, or the link that keeps one alive, stands."""

    CONNECTING = "connecting"
    READY = "ready"
    CLOSING = "closing"
    CLOSED = "closed"


#: From each state, the states that may follow. Only a link goes from READY back to CONNECTING.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.CONNECTING: frozenset({State.READY, State.CLOSING, State.CLOSED}),
    State.READY: frozenset({State.CONNECTING, State.CLOSING, State.CLOSED}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}


class Lifecycle:
    """Holds a state and changes it along the table only."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._state = State.CONNECTING

    @property
    def state(self) -> State:
        """The present state."""
        return self._state

    def move(self, state: State) -> None:
        """Enter ``state``; raise :class:`IllegalTransition`, changing nothing, if it cannot be."""
        if state not in TRANSITIONS[self._state]:
            raise IllegalTransition(f"{self._name}: {self._state.value} -> {state.value}")
        logger.debug("%s: %s -> %s", self._name, self._state.value, state.value)
        self._state = state
