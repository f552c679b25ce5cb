"""How long calls wait for RabbitMQ while it is away: an outage costs ``send_timeout`` once."""

from __future__ import annotations


class Outage:
    """Times one outage after another, by readings of the loop's clock.

    An outage lasts from :meth:`begin` to :meth:`end`. Calls wait until :attr:`due`, which is the
    same for all of them; those made later, in the same outage, do not wait.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        #: When the calls that wait give up; None while there is no outage.
        self.due: float | None = None

    def begin(self, now: float) -> None:
        """Note that RabbitMQ is away. In an outage this begins nothing anew."""
        if self.due is None:
            self.due = now + self._timeout

    def end(self) -> None:
        """Note that RabbitMQ is back."""
        self.due = None

    def is_given_up(self, now: float) -> bool:
        """Whether the outage has lasted so long that no call waits for its end."""
        return self.due is not None and now >= self.due
