"""How many AMQP channels a burst of bindings is spread over. Decisions only: no I/O, no clock.

What a server rewards differs by version, nodes and load: RabbitMQ 4.3 commits bindings to a log,
in batches of what comes over different channels; 3.10 locks tables, for which few channels contend
less. So it is found out by measuring: four times as many channels are kept while bindings are made
faster with them, and half as many if nothing is lost.
"""

from __future__ import annotations

#: The most AMQP channels that bindings are spread over.
MOST_CHANNELS = 128

#: More channels are kept if they make bindings so many times as fast; fewer, if they lose nothing.
_REWARD = 1.1
#: With so much, one measurement is enough.
_CLEAR_REWARD = 1.5
#: The next number upwards is so many times the best one: with twice as many a server that rewards
#: many may look as if it did not, as they have to be opened first, and other things go on.
_UP = 4
#: A pace that differs from the one known by this factor is that of another server, or load.
_OTHER_SERVER = 2
#: Seconds that a measurement takes at least.
_LEAST_SECONDS = 0.01
#: Measurements from the end of one search for a better number to the next: after the first, and
#: at most; each search that finds none doubles it.
_PAUSE = (4, 32)


def batch_size(channels: int) -> int:
    """The bindings that travel to the server together on each of so many channels.

    An answer to each batch is enough. Over many channels small ones do: together they keep the
    server busy, and whoever asked first need not wait for many others.
    """
    return max(4, 16 // channels)


class Pace:
    """Finds the number of channels by the pace of a burst, and keeps it for the next burst.

    Tell it of every answer by :meth:`answered`, and by :meth:`pause` when nothing more waits for
    being sent: only what the server does under full load is measured. The clock's readings are
    handed in, in seconds.
    """

    def __init__(self) -> None:
        #: How many channels may be used just now.
        self.channels = 1
        #: The best number that is known, and bindings a second with it; None until measured.
        self._best = 1
        self._best_rate: float | None = None
        #: Whether the search tries four times as many, or half as many.
        self._upwards = True
        #: Measurements until the next search, and how many there are to be before that.
        self._left = 0
        self._pause = _PAUSE[0]
        #: Whether the last measurement has to be confirmed by another one.
        self._doubted = False
        #: Answers that are not measured: they are for what was sent before the number changed.
        self._skip = 0
        #: When the measurement began; None until the first answer that counts.
        self._since: float | None = None
        self._count = 0

    def __repr__(self) -> str:
        rate = "" if self._best_rate is None else f" at {self._best_rate:.0f} a second"
        return f"<Pace: {self.channels} channels; best {self._best}{rate}>"

    @property
    def rate(self) -> float | None:
        """How many bindings a second are known to be made; None if nothing was measured."""
        return self._best_rate

    def pause(self) -> None:
        """Forget the measurement under way: the server has nothing more to do."""
        self._since = None
        self._skip = 0

    def forget(self) -> None:
        """Forget how fast the server was: it is slow now, and for long."""
        self._best_rate = None
        self._doubted = False
        self.pause()

    def answered(self, count: int, now: float, most: int = MOST_CHANNELS) -> None:
        """Note that so many bindings were made. At most ``most`` channels may be used."""
        if self._skip > 0:
            self._skip -= count
            return
        if self._since is None:
            self._since, self._count = now, 0  # these were made before
            return
        self._count += count
        seconds = now - self._since
        if self._count >= self._in_flight and seconds >= _LEAST_SECONDS:
            self._since = None
            self._measured(self._count / seconds, max(1, most))

    @property
    def _in_flight(self) -> int:
        """About how many bindings are under way."""
        return 2 * self.channels * batch_size(self.channels)

    def _measured(self, rate: float, most: int) -> None:
        known = self._best_rate
        doubtful = known is not None and self._is_doubtful(rate / known)
        if doubtful and not self._doubted:
            self._doubted = True
            return
        self._doubted = False
        if self.channels == self._best:
            if known is None or doubtful:
                known = rate
                self._left, self._pause = 0, _PAUSE[0]
            # Half of it is what was known: one measurement is no great help.
            self._best_rate = (known + rate) / 2
            self._left -= 1
            if self._left <= 0:
                self._search(most)
            return
        if known is not None and rate < known * (_REWARD if self._upwards else 1):
            self._use(self._best)
            self._rest()
            return
        self._best, self._best_rate = self.channels, rate
        self._pause = _PAUSE[0]
        if not self._step(most):
            self._rest()

    def _is_doubtful(self, times: float) -> bool:
        """Whether a pace of so many times the known one is to be measured twice."""
        if self.channels == self._best:
            return not 1 / _OTHER_SERVER < times < _OTHER_SERVER
        return self._upwards and _REWARD <= times < _CLEAR_REWARD

    def _search(self, most: int) -> None:
        """Try a number beside the best one: more and fewer by turns."""
        if not self._step(most):
            self._upwards = not self._upwards
            if not self._step(most):
                self._rest()

    def _rest(self) -> None:
        self._upwards = not self._upwards
        self._left = self._pause
        self._pause = min(2 * self._pause, _PAUSE[1])

    def _step(self, most: int) -> bool:
        """Try the next number in the direction of the search; False if there is none."""
        number = min(most, _UP * self._best) if self._upwards else max(1, self._best // 2)
        if number == self._best:
            return False
        self._use(number)
        return True

    def _use(self, channels: int) -> None:
        self._skip = self._in_flight
        self.channels = channels
        self._since = None
        self._doubted = False
