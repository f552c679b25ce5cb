"""What time brings to the mailboxes, on one event loop: expiry, and room in a full window."""

from __future__ import annotations

import asyncio
import logging

from ..config.options import Options
from ..log import RateLimitedWarning
from .mailboxes import STUCK_AFTER, Mailboxes

logger = logging.getLogger(__name__)

#: A message past ``local_expiry`` is dropped within this many seconds.
_EXPIRY_PRECISION = 0.1


class Housekeeping:
    """Drops messages that nobody reads in time, or that stop other channels, and says so.

    Call :meth:`message_held` after each message that is put into the mailboxes.
    """

    def __init__(
        self, options: Options, mailboxes: Mailboxes, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._options = options
        self._mailboxes = mailboxes
        self._loop = loop
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._relief_timer: asyncio.TimerHandle | None = None
        self._relief_scheduled = False
        self._stopped = False
        self._warn_expired = RateLimitedWarning(logger)
        self._warn_dropped = RateLimitedWarning(logger)
        self._warn_back_pressure = RateLimitedWarning(logger)
        if len(mailboxes):
            self._watch_expiry()

    def message_held(self) -> None:
        """There is one more message."""
        if self._expiry_timer is None:
            self._watch_expiry()
        if self._mailboxes.full and not self._relief_scheduled:
            # At the end of this turn of the loop whoever waited has read: it may be full no more.
            self._relief_scheduled = True
            self._loop.call_soon(self._relieve)

    def stop(self) -> None:
        """Drop nothing any more; no timer is left."""
        self._stopped = True
        for timer in (self._expiry_timer, self._relief_timer):
            if timer is not None:
                timer.cancel()

    def _watch_expiry(self) -> None:
        self._expiry_timer = None
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
        if oldest is not None:
            due = max(oldest + self._options.local_expiry, now + _EXPIRY_PRECISION)
            self._expiry_timer = self._loop.call_at(due, self._watch_expiry)

    def _relieve(self) -> None:
        """If the window is still full, see to it that no stuck channel keeps it so."""
        self._relief_scheduled = False
        if self._mailboxes.full and not self._stopped:
            self._free_a_slot()
            if self._mailboxes.full and self._relief_timer is None:
                self._relief_timer = self._loop.call_later(STUCK_AFTER / 2, self._relieve_again)

    def _relieve_again(self) -> None:
        self._relief_timer = None
        self._free_a_slot()
        if self._mailboxes.full:  # not just for the moment
            self._warn_back_pressure(
                "Back-pressuring: local_capacity (%d messages) is used up. Fullest: %s",
                self._options.local_capacity,
                _list_channels(self._mailboxes.fullest()),
            )
            self._relief_timer = self._loop.call_later(STUCK_AFTER / 2, self._relieve_again)

    def _free_a_slot(self) -> None:
        dropped = self._mailboxes.relieve(self._loop.time())
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
