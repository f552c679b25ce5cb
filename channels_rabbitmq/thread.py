"""An event loop in a daemon thread, for processes that have none of their own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


class LoopThread:
    """Runs an event loop in a thread until :meth:`stop`; then cancels what is left on it.

    The thread is a daemon, so that it does not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        #: Done when the loop is to end.
        self._stopped: asyncio.Future[None] = self.loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

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

    def stop(self, timeout: float | None = None) -> None:
        """Ask the loop to end, and wait at most ``timeout`` seconds; None does not wait."""
        if self._thread.is_alive():
            try:
                self.loop.call_soon_threadsafe(self._stop)
            except RuntimeError:
                return  # it is closed: the thread is about to end
            if timeout is not None and threading.current_thread() is not self._thread:
                self._thread.join(timeout)

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _run(self) -> None:
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._stopped)
        finally:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks))
            loop.run_until_complete(loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            loop.close()
