"""Which event loop the link lives on, and the bridge from every other loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Concatenate, ParamSpec, TypeVar

from channels.exceptions import StopConsumer

from .hub import Hub
from .mailboxes import Mailboxes
from .names import random_name
from .options import Options

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Home:
    """Owns the process's hub and the event loop that it runs on, its home.

    The first loop that uses the layer becomes home. Once that loop is closed or no longer runs,
    the next one that uses the layer does; queue name, memberships and unread messages move along.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self.queue_name = f"channels_{random_name()}"
        self._mailboxes = Mailboxes(options.local_capacity, options.local_expiry)
        self._lock = threading.Lock()
        self._hub: Hub | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Home: {self._hub!r}>"

    def hub_here(self) -> Hub | None:
        """The hub, if it runs on the loop that is running; made here if there is none."""
        hub = self._hub
        loop = asyncio.get_running_loop()
        if hub is not None and hub.loop is loop:
            return hub
        return self._settle(loop)

    async def call(
        self,
        method: Callable[Concatenate[Hub, _P], Awaitable[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Run a method of the hub on its loop, from any other loop."""
        hub = self.hub_here()
        if hub is not None:
            return await method(hub, *args, **kwargs)
        hub = self._hub
        if hub is None:
            raise StopConsumer("the channel layer is closed")

        async def run() -> _T:
            return await method(hub, *args, **kwargs)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), hub.loop))

    async def close(self) -> None:
        """Close the connection; every call raises StopConsumer from now on."""
        with self._lock:
            self._closed = True
            hub = self._hub
        if hub is None or not hub.loop.is_running():
            return
        if hub.loop is asyncio.get_running_loop():
            await hub.close()
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(hub.close(), hub.loop))

    def drop(self) -> None:
        """The layer was collected: end the link, from whichever thread this is."""
        hub = self._hub
        if hub is not None and not hub.loop.is_closed():
            hub.loop.call_soon_threadsafe(hub.link.abandon)

    def _settle(self, loop: asyncio.AbstractEventLoop) -> Hub | None:
        """Make the running loop home if there is none; None if another is."""
        with self._lock:
            if self._closed:
                raise StopConsumer("the channel layer is closed")
            hub = self._hub
            if hub is not None and hub.loop.is_running():
                return None
            self._mailboxes.forget_waiters()
            self._hub = Hub(self._options, self.queue_name, self._mailboxes)
            return self._hub
