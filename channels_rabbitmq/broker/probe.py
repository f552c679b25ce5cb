"""Is the process deaf? A message to oneself through the groups exchange tells, without I/O here."""

from __future__ import annotations

import secrets

import msgpack

from ..wire.messages import GROUP_KEY

__all__ = ["PATIENCE", "Probe"]

#: Least seconds of an open window in which nothing is delivered, though a probe is on its way.
PATIENCE = 5.0

#: What the routing key of a probe begins with: no group's name has an exclamation mark.
_KEY_START = "!probe."


class Probe:
    """Follows one probe after another, by what is known of each and of the deliveries meanwhile.

    RabbitMQ confirms a probe once it is in the process's queue, so it arrives in its turn. A
    backlog before it, or a full window, is no deafness: that is concluded only if more is delivered
    than can have been before the probe, or nothing at all while the window was open.
    """

    def __init__(self, queue_name: str, backlog: int, expiry: float) -> None:
        #: The routing key that only this process binds.
        self.routing_key = f"{_KEY_START}{queue_name}"
        #: A group's message, for a group that nobody is in: other processes pass over it.
        self.body: bytes = msgpack.packb({GROUP_KEY: "!probe", "id": secrets.token_hex(16)})
        #: The most messages that can be before a probe: twice what queue and window hold.
        self._backlog = 2 * backlog
        self._expiry = expiry
        #: Whether a probe has been sent, and nothing known yet of what became of it.
        self.under_way = False
        #: When it was confirmed; None before.
        self._confirmed_at: float | None = None
        #: How many messages had been delivered when it was confirmed.
        self._delivered_before = 0
        #: Since when the window was open at each look; None if it was full at the latest.
        self._open_since: float | None = None

    def send(self) -> None:
        """Note that a probe is sent. It may arrive before it is confirmed."""
        self.under_way = True
        self._confirmed_at = None

    def confirm(self, now: float, delivered: int) -> None:
        """Note that RabbitMQ put the probe into the queue."""
        self._confirmed_at = now
        self._delivered_before = delivered
        self._open_since = None

    def end(self) -> None:
        """Note that the probe was delivered, so all is well; or that it will tell nothing."""
        self.under_way = False

    def is_lost(self, now: float, delivered: int, *, full: bool) -> bool:
        """Look whether a probe has been lost on the way from the queue to us.

        ``delivered`` counts all deliveries of the connection; ``full`` is whether the window is.
        """
        if not self.under_way or self._confirmed_at is None:
            return False
        if now - self._confirmed_at >= self._expiry:
            self.under_way = False  # it may have expired in the queue, as messages do
            return False
        since = delivered - self._delivered_before
        if since > self._backlog:
            return True
        if full or since:
            self._open_since = None
            return False
        if self._open_since is None:
            self._open_since = now
        return now - self._open_since >= PATIENCE
