"""What the process remembers when its connection, or the event loop of it, ends."""

from __future__ import annotations

from collections.abc import Callable

from ..config.options import Options
from ..wire.messages import Envelope
from .capped import CappedMailboxes
from .group_expiry import LatestJoins
from .mailboxes import Mailboxes
from .normal_channels import NormalState


class LocalState:
    """Unread messages, memberships of groups, and those who wait."""

    def __init__(self, options: Options, decode: Callable[[bytes], Envelope]) -> None:
        self.mailboxes = (
            CappedMailboxes(
                options.local_capacity, options.local_expiry, decode, cap=options.own_capacity_of
            )
            if options.channel_capacity
            else Mailboxes(options.local_capacity, options.local_expiry, decode)
        )
        self.normal = NormalState(options.local_expiry)
        self.joins = LatestJoins(options.group_expiry)

    @property
    def unused(self) -> bool:
        """Whether no channel is in use here: the process has only sent so far."""
        return self.mailboxes.unused and self.normal.unused

    def take_over(self, other: LocalState) -> None:
        """Take all that another remembers, and leave it only those who wait."""
        self.mailboxes.take_over(other.mailboxes)
        self.normal.take_over(other.normal)
        self.joins.take_over(other.joins)

    def fail_waiters(self, error: Exception) -> None:
        """Wake everyone who waits, with an error."""
        self.mailboxes.fail_waiters(error)
        self.normal.fail_waiters(error)
