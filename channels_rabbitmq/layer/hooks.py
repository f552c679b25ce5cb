"""Calls ``on_disconnect`` and ``on_reconnect``, and outlives what they do."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable

from ..config.options import Hook, Options

logger = logging.getLogger(__name__)


class Hooks:
    """The hooks of one hub, called on its event loop. What one raises is logged."""

    def __init__(self, options: Options) -> None:
        self._options = options
        #: A connection was lost, and no other made since.
        self._lost = False
        self._tasks: set[asyncio.Task[None]] = set()

    def topology_ended(self) -> None:
        """The connection was lost."""
        self._lost = True
        self._call("on_disconnect", self._options.on_disconnect)

    def topology_started(self) -> None:
        """There is a connection: the first, or another after one was lost."""
        if self._lost:
            self._lost = False
            self._call("on_reconnect", self._options.on_reconnect)

    def cancel(self) -> None:
        """Cancel the hooks that still run, but for one that this is called from."""
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def _call(self, name: str, hook: Hook | None) -> None:
        if hook is None:
            return
        try:
            result = hook()
        except Exception:
            logger.exception("%s raised an exception", name)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(_finish(name, result))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _finish(name: str, result: Awaitable[object]) -> None:
    try:
        await result
    except Exception:
        logger.exception("%s raised an exception", name)
