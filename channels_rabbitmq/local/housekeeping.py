"""The timers over what the process holds, on one event loop: expiry, and room in a full window."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from ..amqp.log import NamedLogger
from ..config.options import Options
from ..log import RateLimitedWarning
from .background import Background
from .lag import TICK, RunningTime
from .state import LocalState

logger = logging.getLogger(__name__)

#: Seconds between two sweeps of the mailboxes that are not in use.
SWEEP_EVERY = 10.0


class Housekeeping:
    """Drops messages that nobody reads in time, or that stop other channels, and warns of it.

    Call :meth:`message_held` after each message that is put into the mailboxes. A timer ticks for
    as long as any message is held.
    """

    def __init__(
        self, options: Options, state: LocalState, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._options = options
        self._mailboxes = state.mailboxes
        self._memberships = state.memberships
        self._loop = loop
        self._timers = Background(loop, options.connection_name)
        self._running_time = RunningTime()
        self._ticking = False
        self._relief_scheduled = False
        #: What each channel has lost since the last warning of that.
        self._expired: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        log = NamedLogger(logger, options.connection_name)
        self._warn_expired = RateLimitedWarning(log, clock=loop.time)
        self._warn_dropped = RateLimitedWarning(log, clock=loop.time)
        self._warn_back_pressure = RateLimitedWarning(log, clock=loop.time)
        if len(self._mailboxes):
            self._start_ticking()
        self._timers.call_later(SWEEP_EVERY, self._sweep)

    def message_held(self) -> None:
        """Take note of one more message."""
        if not self._ticking:
            self._start_ticking()
        if self._mailboxes.full and not self._relief_scheduled:
            # At the end of this turn of the loop whoever waited has read: it may be full no more.
            self._relief_scheduled = True
            self._timers.call_soon(self._relieve)

    def stop(self) -> None:
        """Drop nothing any more; no timer is left."""
        self._timers.cancel()

    def _start_ticking(self) -> None:
        self._ticking = True
        self._running_time.start(self._loop.time())
        self._timers.call_later(TICK, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        self._running_time.tick(now)
        self._expire(now)
        self._ticking = bool(len(self._mailboxes))
        if self._ticking:
            if self._mailboxes.full:
                self._free_a_slot()
                self._warn_of_back_pressure()
            self._timers.call_later(TICK, self._tick)

    def _sweep(self) -> None:
        self._mailboxes.sweep()
        self._timers.call_later(SWEEP_EVERY, self._sweep)

    def _expire(self, now: float) -> None:
        expired = self._mailboxes.expire(now)
        self._expired.update(expired)
        if expired and self._warn_expired.due:
            self._warn_expired(
                "%d messages expired after local_expiry (%g s) unread, in %s. A consumer is too "
                "slow, or a group_discard() is missing",
                self._expired.total(),
                self._options.local_expiry,
                _list_channels(self._expired.most_common(3)),
            )
            self._expired.clear()

    def _relieve(self) -> None:
        """If the window is still full, see to it that no channel that lags keeps it so."""
        self._relief_scheduled = False
        if self._mailboxes.full:
            self._free_a_slot()

    def _free_a_slot(self) -> None:
        limit = self._running_time.limit
        dropped = self._mailboxes.relieve(limit, self._memberships.channels)
        self._dropped.update(dropped)
        if dropped and self._warn_dropped.due:
            self._warn_dropped(
                "local_capacity (%d messages) is used up by channels that lag; dropped the %d "
                "oldest messages of %s",
                self._options.local_capacity,
                self._dropped.total(),
                _list_channels(self._dropped.most_common(3)),
            )
            self._dropped.clear()

    def _warn_of_back_pressure(self) -> None:
        """Warn if the window is still full, and by more than a burst that is being read."""
        oldest = self._mailboxes.oldest
        lags = oldest is not None and oldest <= self._running_time.limit
        if lags and self._mailboxes.full and self._warn_back_pressure.due:
            self._warn_back_pressure(
                "Back-pressuring: local_capacity (%d messages) is used up. Fullest: %s",
                self._options.local_capacity,
                _list_channels(self._mailboxes.fullest()),
            )


def _list_channels(sizes: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sizes)
