"""The timers over what the process holds, on one event loop: expiry, and room in a full window."""

from __future__ import annotations

import asyncio
import logging

from ..config.options import Options
from ..log import RateLimitedWarning
from .background import Background
from .mailboxes import STUCK_AFTER
from .state import LocalState

logger = logging.getLogger(__name__)

#: Messages past ``local_expiry`` are dropped at most once in so many seconds.
_EXPIRY_PRECISION = 0.1


class Housekeeping:
    """Drops messages that nobody reads in time, or that stop other channels, and warns of it.

    Call :meth:`message_held` after each message that is put into the mailboxes.
    """

    def __init__(
        self, options: Options, state: LocalState, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._options = options
        self._mailboxes = state.mailboxes
        self._memberships = state.memberships
        self._loop = loop
        self._timers = Background(loop)
        #: A timer runs: for the expiry of the oldest message, and for the next look at the window.
        self._watches_expiry = False
        self._watches_window = False
        self._relief_scheduled = False
        self._warn_expired = RateLimitedWarning(logger)
        self._warn_dropped = RateLimitedWarning(logger)
        self._warn_back_pressure = RateLimitedWarning(logger)
        if len(self._mailboxes):
            self._watch_expiry()

    def message_held(self) -> None:
        """Take note of one more message."""
        if not self._watches_expiry:
            self._watch_expiry()
        if self._mailboxes.full and not self._relief_scheduled:
            # At the end of this turn of the loop whoever waited has read: it may be full no more.
            self._relief_scheduled = True
            self._timers.call_soon(self._relieve)

    def stop(self) -> None:
        """Drop nothing any more; no timer is left."""
        self._timers.cancel()

    def _watch_expiry(self) -> None:
        now = self._loop.time()
        expired = self._mailboxes.expire(now)
        if expired:
            self._warn_expired(
                "%d messages expired after local_expiry (%g s) unread, in %s. A consumer is too "
                "slow, or a group_discard() is missing",
                sum(expired.values()),
                self._options.local_expiry,
                _list_channels(expired.most_common(3)),
            )
        oldest = self._mailboxes.oldest
        self._watches_expiry = oldest is not None
        if oldest is not None:
            due = max(oldest + self._options.local_expiry, now + _EXPIRY_PRECISION)
            self._timers.call_at(due, self._watch_expiry)

    def _relieve(self) -> None:
        """If the window is still full, see to it that no stuck channel keeps it so."""
        self._relief_scheduled = False
        if self._mailboxes.full:
            self._free_a_slot()
            if self._mailboxes.full and not self._watches_window:
                self._watches_window = True
                self._timers.call_later(STUCK_AFTER / 2, self._watch_window)

    def _watch_window(self) -> None:
        """Look again while the window stays full, and warn of that."""
        self._free_a_slot()
        self._watches_window = self._mailboxes.full
        if self._watches_window:
            self._warn_back_pressure(
                "Back-pressuring: local_capacity (%d messages) is used up. Fullest: %s",
                self._options.local_capacity,
                _list_channels(self._mailboxes.fullest()),
            )
            self._timers.call_later(STUCK_AFTER / 2, self._watch_window)

    def _free_a_slot(self) -> None:
        dropped = self._mailboxes.relieve(self._loop.time(), self._memberships.channels)
        if dropped:
            self._warn_dropped(
                "local_capacity (%d messages) is used up by channels that are not read; dropped "
                "the %d oldest messages of %s",
                self._options.local_capacity,
                sum(dropped.values()),
                _list_channels(dropped.most_common(3)),
            )


def _list_channels(sizes: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sizes)
