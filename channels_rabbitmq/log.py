"""Warnings at a limited rate: what may come thousands of times a second is logged rarely."""

from __future__ import annotations

import time
from collections.abc import Callable

from .amqp.log import NamedLogger


class RateLimitedWarning:
    """Logs a warning at most once in ``interval`` seconds and counts the ones left out."""

    def __init__(
        self,
        log: NamedLogger,
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._interval = interval
        self._clock = clock
        #: When one was last logged; None before the first.
        self._last: float | None = None
        self._left_out = 0

    @property
    def due(self) -> bool:
        """Whether one would be logged now: for callers that gather what they have to tell."""
        return self._last is None or self._clock() - self._last >= self._interval

    def __call__(self, text: str, *args: object) -> None:
        """Log ``text % args``, unless one was logged a short while ago."""
        now = self._clock()
        if self._last is not None and now - self._last < self._interval:
            self._left_out += 1
            return
        if self._left_out:
            text += " (%d more like this were not logged)"
            args = (*args, self._left_out)
        self._last = now
        self._left_out = 0
        self._log.warning(text, *args)
