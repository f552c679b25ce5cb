"""An event loop in a daemon thread, for processes that have none of their own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

#: Seconds for what is left on the loop to take its cancellation.
_CANCEL_TIMEOUT = 5.0


class LoopThread:
    """Runs an event loop in a thread until :meth:`stop`; then cancels what is left on it.

    The thread is a daemon, so that it does not keep the process from ending. Making one raises
    :class:`RuntimeError` if the system, or an interpreter that exits, allows no new thread.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        #: Done when the loop is to end.
        self._stopped: asyncio.Future[None] = self.loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self.loop.close()
            raise

    def run(self, function: Callable[[], _T]) -> _T:
        """Run a function on the loop's thread, and wait for its result."""
        result: concurrent.futures.Future[_T] = concurrent.futures.Future()

        def call() -> None:
            try:
                result.set_result(function())
            except BaseException as err:
                result.set_exception(err)

        self.loop.call_soon_threadsafe(call)
        return result.result()

    def stop(self, timeout: float = 0.0) -> None:
        """Ask the loop to end, and wait for that at most ``timeout`` seconds.

        It may be called again, and on any thread; on the loop's own it does not wait.
        """
        with contextlib.suppress(RuntimeError):  # the loop is closed: the thread is about to end
            self.loop.call_soon_threadsafe(self._stop)
        if timeout and threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _run(self) -> None:
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._stopped)
            self._cancel_all()
            loop.run_until_complete(loop.shutdown_asyncgens())
            self._cancel_all()  # what began meanwhile, for a caller on another loop
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _cancel_all(self) -> None:
        loop = self.loop
        due = loop.time() + _CANCEL_TIMEOUT
        while (tasks := asyncio.all_tasks(loop)) and loop.time() < due:
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks, timeout=due - loop.time()))
