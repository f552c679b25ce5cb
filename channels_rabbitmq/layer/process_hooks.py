"""What is to be done with the process: as the interpreter exits, and in a forked child."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol

#: How long each of them may take to leave RabbitMQ as the interpreter exits, in seconds.
EXIT_TIMEOUT = 2.0


class Ending(Protocol):
    """Something with a connection, or with a thread of its own."""

    def exit(self, timeout: float = 0.0) -> None:
        """End, as the interpreter exits; a lock may be held for ever by then."""

    def forked(self) -> None:
        """Start anew in a forked child, and touch nothing of the parent's."""


_all: weakref.WeakSet[Ending] = weakref.WeakSet()


def follow_process(ending: Ending) -> None:
    """Call ``exit()`` and ``forked()`` when it is time, for as long as ``ending`` is alive."""
    _all.add(ending)


def _exit() -> None:
    endings = list(_all)
    for ending in endings:  # all of them leave RabbitMQ at the same time
        ending.exit()
    for ending in endings:
        ending.exit(EXIT_TIMEOUT)


def _forked() -> None:
    for ending in list(_all):
        ending.forked()


atexit.register(_exit)
os.register_at_fork(after_in_child=_forked)
