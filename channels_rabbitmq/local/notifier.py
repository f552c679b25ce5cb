"""Calls ``on_event``, and outlives what that does. On whichever thread something happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..amqp.log import NamedLogger
from ..events import Event, EventHook, EventKind

logger = logging.getLogger(__name__)

#: Least seconds between two log lines about what the hook raised.
_LOG_INTERVAL = 10.0


class Notifier:
    """Tells one hook of events, while there is one; without, it costs a look."""

    def __init__(
        self, connection_name: object = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        #: What is called; None for nothing.
        self.hook: EventHook | None = None
        self._name = connection_name
        self._clock = clock
        self._log = NamedLogger(logger, connection_name)
        #: When was last logged what the hook raised.
        self._logged: float | None = None

    def tell(
        self, kind: EventKind, *, cause: str = "", name: str = "", count: int = 1, detail: str = ""
    ) -> None:
        """Call the hook. What it raises is logged, at a limited rate, and goes no further.

        It may use the layer at once, as in an eager task: so all that the event is about is done,
        and nothing is being iterated over.
        """
        hook = self.hook
        if hook is None:
            return
        event = Event(kind, time.time(), str(self._name), cause, name, count, detail)
        try:
            hook(event)
        except Exception:
            now = self._clock()
            if self._logged is None or now - self._logged >= _LOG_INTERVAL:
                self._logged = now
                self._log.exception("%s raised an exception", "on_event")

    def tell_blocked(self, reason: str | None) -> None:
        """Tell that RabbitMQ takes no publishes, or takes them again."""
        if reason is None:
            self.tell(EventKind.UNBLOCKED)
        else:
            self.tell(EventKind.BLOCKED, detail=reason)
