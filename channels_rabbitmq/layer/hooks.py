"""Calls ``on_disconnect`` and ``on_reconnect``, and outlives what they do."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..amqp.log import NamedLogger
from ..config.options import Hook, Options
from ..config.parsers import is_async
from ..events import EventHook
from ..local.background import Background

logger = logging.getLogger(__name__)


def find_hook(name: str, hook: Hook | str | None) -> Hook | None:
    """What an option's dotted path leads to; anything else is given back.

    Raises :class:`django.core.exceptions.ImproperlyConfigured` if that is nothing to be called.
    """
    return _follow(name, hook) if isinstance(hook, str) else hook


def find_event_hook(hook: EventHook | str | None) -> EventHook | None:
    """The same for ``on_event``, whose function is plain."""
    found = _follow("on_event", hook) if isinstance(hook, str) else hook
    if found is not None and is_async(found):
        raise ImproperlyConfigured("Option 'on_event' must be a plain function, not an async one.")
    return found


def _follow(name: str, hook: str) -> Callable[..., Any]:
    wrong = f"Option {name!r} must be a function, or the dotted path of one; {hook!r}"
    try:
        found: object = import_string(hook)
    except ImportError as err:
        raise ImproperlyConfigured(f"{wrong} cannot be imported: {err}") from err
    if not callable(found):
        raise ImproperlyConfigured(f"{wrong} is a {type(found).__name__}.")
    return found


class Hooks:
    """The hooks of one loop layer, called on its event loop. What one raises is logged.

    Dotted paths are followed when it is made. That is at the first use of the layer: the module may
    ask for the layer as it is imported.

    Raises :class:`django.core.exceptions.ImproperlyConfigured` for one that leads nowhere.
    """

    def __init__(self, options: Options) -> None:
        self._on_disconnect = find_hook("on_disconnect", options.on_disconnect)
        self._on_reconnect = find_hook("on_reconnect", options.on_reconnect)
        #: A connection was lost, and no other made since.
        self._lost = False
        self._background = Background(asyncio.get_running_loop(), options.connection_name)
        self._log = NamedLogger(logger, options.connection_name)

    def topology_ended(self) -> None:
        """The connection was lost."""
        self._lost = True
        self._call("on_disconnect", self._on_disconnect)

    def topology_started(self) -> None:
        """There is a connection: the first, or another after one was lost."""
        if self._lost:
            self._lost = False
            self._call("on_reconnect", self._on_reconnect)

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
