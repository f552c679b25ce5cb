"""When bindings rest, so that the server gets done with something else. Decisions only: no I/O.

RabbitMQ 3 removes the bindings of a queue that is deleted in one transaction, and has it begin anew
for each binding that is made meanwhile. A process with 10,000 groups that ends beside a burst of
joins keeps 3.10 busy for 5 to 16 seconds, in which it makes about 100 bindings a second; where the
burst rests, it takes 0.8 seconds. So, when answers are overdue, those who bind pause, try one
binding, then a few, and go on as before once these are quick.
"""

from __future__ import annotations

import random
from collections.abc import Callable

#: Seconds of one rest after the other. If these do not help, the server is merely slow.
_RESTS = (0.2, 0.4, 0.8, 1.6)
#: Seconds without an overdue answer from which on the first rest is next again.
_FORGIVEN = 10.0
#: Seconds in which an answer is never overdue, however few bindings are under way.
LEAST_PATIENCE = 0.1
#: An answer may take so many times what the known pace comes to: other processes have their part
#: of it, and beside a deletion it is sixty times.
_TIMES = 30
#: The pace that a server is presumed to have until it was seen to be faster, or to be merely slow,
#: in bindings a second. Beside a deletion it makes a fiftieth.
_PRESUMED = 4500.0
#: After a rest one binding may be under way, then so many times as many when these are made...
_GROWTH = 4
#: ... until there are so many: then as many as are worth it.
_ALL = 64


class Contention:
    """How many bindings may be under way, and when there are to be none.

    The clock's readings are handed in, in seconds.
    """

    def __init__(self, uniform: Callable[[float, float], float] = random.uniform) -> None:
        #: The most bindings under way; None for as many as are worth it.
        self.window: int | None = None
        #: How many of them were answered since it was set.
        self._answered = 0
        #: The jitter keeps the processes of a site from trying again all at once.
        self._uniform = uniform
        #: How many rests there were since answers were last in time for long, and when the last
        #: one was overdue.
        self._rests = 0
        self._overdue_at = float("-inf")
        #: The fastest pace of the server, in bindings a second: what it makes beside something
        #: else is no measure.
        self._fastest = _PRESUMED

    def __repr__(self) -> str:
        window = "unlimited" if self.window is None else self.window
        return f"<Contention: {window} under way, {self._rests} rests>"

    def patience(self, under_way: int, rate: float | None) -> float:
        """Seconds from which on an answer is overdue.

        ``rate`` is the server's pace just now, in bindings a second; None if it is not known.
        """
        self._fastest = max(self._fastest, rate or 0.0)
        return max(LEAST_PATIENCE, _TIMES * under_way / max(self._fastest, 1.0))

    def overdue(self, now: float) -> float | None:
        """Note that an answer is overdue; return how long to rest. None: it is of no use.

        Then the server is merely slow, and :meth:`patience` has to be told of no faster pace.
        """
        if now - self._overdue_at > _FORGIVEN:
            self._rests = 0
        self._overdue_at, self._answered = now, 0
        if self._rests == len(_RESTS):
            self._rests, self._fastest, self.window = 0, 0.0, None
            return None
        seconds = _RESTS[self._rests] * self._uniform(0.75, 1.25)
        self._rests += 1
        self.window = 1
        return seconds

    def in_time(self, count: int) -> None:
        """Note that so many bindings were made in time."""
        if self.window is None:
            return
        self._answered += count
        if self._answered >= self.window:
            self._answered = 0
            self.window *= _GROWTH
            if self.window >= _ALL:
                self.window = None
