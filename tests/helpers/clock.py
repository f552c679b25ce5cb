"""A clock and timers that a test moves by hand, in place of an event loop's."""

from __future__ import annotations

from collections.abc import Callable


class Timer:
    """What ``call_later()`` gives."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Never call it."""
        self.cancelled = True


class Clock:
    """What a part of the layer needs of a loop to keep time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[Timer] = []

    @property
    def timers(self) -> list[Timer]:
        """The timers that are still to fire, by time."""
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        return sorted(self._timers, key=lambda timer: timer.when)

    def time(self) -> float:
        """The clock's reading, in seconds."""
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Start a timer."""
        self._timers.append(Timer(when, callback))
        return self._timers[-1]

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Start a timer."""
        return self.call_at(self.now + delay, callback)

    def call_soon(self, callback: Callable[[], None]) -> Timer:
        """Call something in the next turn, which :meth:`move` begins."""
        return self.call_at(self.now, callback)

    def move(self, to: float) -> None:
        """Move on to a time; call all that is due on the way, each at its time."""
        while (timers := self.timers) and timers[0].when <= to:
            timer = timers[0]
            timer.cancel()
            self.now = max(self.now, timer.when)
            timer.callback()
        self.now = to

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which no timer fires, as while something blocks the loop."""
        self.now += seconds
