"""Tasks and timers that end together, on one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial

from ..amqp.log import NamedLogger

logger = logging.getLogger(__name__)


class Background:
    """Tasks and timers of one owner. Its :meth:`cancel` leaves none of them behind."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: object = "") -> None:
        self._loop = loop
        self._log = NamedLogger(logger, name)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.Handle] = set()
        self._cancelled = False

    def __repr__(self) -> str:
        return f"<Background: {len(self._tasks)} tasks, {len(self._timers)} timers>"

    def spawn(
        self, work: Coroutine[object, object, None], *expected: type[Exception]
    ) -> asyncio.Task[None]:
        """Run a task. Its errors are logged, as a bug, but for those that are ``expected``."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._task_done, expected))
        if self._cancelled:
            task.cancel()
        return task

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call something in the next turn of the loop, unless :meth:`cancel` comes first."""
        if not self._cancelled:
            handle: asyncio.Handle = self._loop.call_soon(lambda: self._fire(handle, callback))
            self._timers.add(handle)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        """Call something after so many seconds, unless :meth:`cancel` comes first."""
        self.call_at(self._loop.time() + delay, callback)

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call something at a time of the loop's clock, unless :meth:`cancel` comes first."""
        if not self._cancelled:
            handle: asyncio.Handle = self._loop.call_at(when, lambda: self._fire(handle, callback))
            self._timers.add(handle)

    def cancel(self) -> None:
        """Cancel all of them, except for the task that calls this, as a user's hook may."""
        self._cancelled = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        current = asyncio.current_task(self._loop) if self._tasks else None
        for task in self._tasks:
            if task is not current:
                task.cancel()

    def _fire(self, handle: asyncio.Handle, callback: Callable[[], None]) -> None:
        self._timers.discard(handle)
        callback()

    def _task_done(self, expected: tuple[type[Exception], ...], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, expected):
            self._log.error("A bug in channels_rabbitmq: a task failed", error=error)
