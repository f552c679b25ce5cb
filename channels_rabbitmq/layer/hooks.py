"""Calls ``on_disconnect`` and ``on_reconnect``, and outlives what they do."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable

from ..amqp.log import NamedLogger
from ..config.options import Hook, Options
from ..local.background import Background

logger = logging.getLogger(__name__)


class Hooks:
    """The hooks of one loop layer, called on its event loop. What one raises is logged."""

    def __init__(self, options: Options) -> None:
        self._options = options
        #: A connection was lost, and no other made since.
        self._lost = False
        self._background = Background(asyncio.get_running_loop(), options.connection_name)
        self._log = NamedLogger(logger, options.connection_name)

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
        self._background.cancel()

    def _call(self, name: str, hook: Hook | None) -> None:
        if hook is None:
            return
        try:
            result = hook()
        except Exception:
            self._log.exception("%s raised an exception", name)
            return
        if inspect.isawaitable(result):
            self._background.spawn(self._finish(name, result))

    async def _finish(self, name: str, result: Awaitable[object]) -> None:
        try:
            await result
        except Exception:
            self._log.exception("%s raised an exception", name)
