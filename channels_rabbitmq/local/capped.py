"""Mailboxes for a process that sets ``channel_capacity``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from ..log import RateLimitedWarning
from ..wire.messages import Envelope, decode
from .mailboxes import Delivery, Mailboxes

logger = logging.getLogger(__name__)


class CappedMailboxes(Mailboxes):
    """Mailboxes that hold no more messages of a channel than ``cap()`` says.

    Past it the channel loses its oldest ones, whether or not the window is full; which is told by
    a warning. ``cap()`` gives None for a channel without a cap of its own.
    """

    def __init__(
        self,
        capacity: int,
        expiry: float,
        decode: Callable[[bytes], Envelope] = decode,
        *,
        cap: Callable[[str], int | None],
    ) -> None:
        super().__init__(capacity, expiry, decode)
        self._cap = cap
        self._warn = RateLimitedWarning(logger)

    def put(self, delivery: Delivery, channels: Collection[str]) -> None:
        """Hold a delivery for some channels; those over their caps lose the oldest."""
        super().put(delivery, channels)
        for name in channels:
            cap = self._cap(name)
            if cap is None:
                continue
            queue = self.box(name).queue
            while len(queue) > cap:
                self._release(queue.popleft())
                self._warn("channel_capacity (%d) dropped the oldest message of %s", cap, name)
