"""For tests of programs that use the layer: one of a test's own, and waiting for joins.

It works under any runner of tests. For pytest it has the fixture ``channel_layer``, which
``pytest_plugins = ["channels_rabbitmq.testing"]`` in ``conftest.py`` turns on; pytest need not be
installed otherwise.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Unpack

from asgiref.sync import async_to_sync
from channels.layers import channel_layers
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .core import Config, RabbitmqChannelLayer, get_layer
from .errors import NotAnswered
from .layer.loop_layer import LoopLayer

__all__ = ["IsolatedLayer", "wait_for_group"]

#: How long :func:`wait_for_group` waits between two questions, in seconds.
_INTERVAL = 0.01
#: How long one question waits for processes that do not answer, in seconds.
_ANSWER_TIMEOUT = 1.0


class IsolatedLayer:
    """A layer with a prefix of its own, in the place of one in ``CHANNEL_LAYERS`` for a while.

    No other test, process or developer on the same RabbitMQ has to do with its channels and
    groups::

        with IsolatedLayer() as layer:
            ...

    It is a plain context manager and an async one; use the latter where an event loop is running.
    Within it, ``get_channel_layer()`` gives the layer, to consumers as well. Then its channels and
    groups are emptied, it is closed, and the one before is back. Class and options are those of
    ``CHANNEL_LAYERS``, but for the options in ``config`` (``host=``, for a virtual host of tests).
    Tests that use no layer cost no connection.

    Entering raises :class:`django.core.exceptions.ImproperlyConfigured` where ``CHANNEL_LAYERS``
    has no such alias, or another backend than ours or a subclass.
    """

    def __init__(self, alias: str = "default", **config: Unpack[Config]) -> None:
        self._alias = alias
        #: Gives the options. Whatever shows an object's attributes then shows no URL and no key.
        self._config: Callable[[], Config] = lambda: config
        #: The layer, within the context.
        self._layer: RabbitmqChannelLayer | None = None
        #: What was in its place; None for one that nobody had used.
        self._replaced: object = None

    def __enter__(self) -> RabbitmqChannelLayer:
        if self._layer is not None:
            raise RuntimeError("an IsolatedLayer cannot be entered twice")
        backend, config = _configured(self._alias)
        try:
            config = {**config, "prefix": f"test-{secrets.token_hex(6)}", **self._config()}
            self._layer = backend(**config)
        finally:
            # Error trackers, and ``pytest --showlocals``, show the variables of this frame.
            del config
        self._replaced = channel_layers.set(self._alias, self._layer)
        return self._layer

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        layer = self._put_back()
        if layer is not None:
            async_to_sync(_end)(layer)

    async def __aenter__(self) -> RabbitmqChannelLayer:
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        layer = self._put_back()
        if layer is not None:
            await _end(layer)

    def _put_back(self) -> RabbitmqChannelLayer | None:
        """Put back what was there before; give the layer that is to end."""
        layer, self._layer = self._layer, None
        # The test may have put another there, or changed the settings.
        if layer is not None and channel_layers.backends.get(self._alias) is layer:
            if self._replaced is None:
                del channel_layers.backends[self._alias]
            else:
                channel_layers.set(self._alias, self._replaced)
        self._replaced = None
        return layer


def _configured(alias: str) -> tuple[type[RabbitmqChannelLayer], Config]:
    """The class of a layer in ``CHANNEL_LAYERS``, and its ``CONFIG``."""
    # No variable has options: see IsolatedLayer.__enter__().
    there = list(getattr(settings, "CHANNEL_LAYERS", {}))
    if alias not in there:
        names = ", ".join(map(repr, there)) or "none"
        raise ImproperlyConfigured(f"CHANNEL_LAYERS has no {alias!r}; there are: {names}.")
    path = settings.CHANNEL_LAYERS[alias].get("BACKEND")
    wrong = f"BACKEND of CHANNEL_LAYERS[{alias!r}] is {path!r}, which"
    try:
        backend: object = import_string(str(path))
    except ImportError as err:
        raise ImproperlyConfigured(f"{wrong} cannot be imported: {err}") from err
    if not (isinstance(backend, type) and issubclass(backend, RabbitmqChannelLayer)):
        raise ImproperlyConfigured(f"{wrong} is no channel layer of channels_rabbitmq.")
    return backend, settings.CHANNEL_LAYERS[alias].get("CONFIG", {})


async def _end(layer: RabbitmqChannelLayer) -> None:
    try:
        if layer.statistics().connected:
            await layer.flush()
    finally:
        await layer.close()


async def wait_for_group(
    group: str, members: int = 1, *, alias: str = "default", timeout: float = 10.0
) -> list[str]:
    """Wait until so many channels are in a group, and get what is sent to it; give their names.

    They may be of any process. Raises :class:`TimeoutError` after so many seconds, and
    :class:`~channels_rabbitmq.errors.NotAnswered` where processes may not ask each other.
    """
    layer = get_layer(alias)
    names: list[str] = []
    try:
        async with asyncio.timeout(timeout):
            # A member is named from when it asked to join; its group may be bound a moment later.
            while len(names := await layer._owner.run(_bound_members, group)) < members:
                await asyncio.sleep(_INTERVAL)
    except NotAnswered:  # a TimeoutError, too
        raise
    except TimeoutError:
        reached = f"{len(names)} of {members} members"
        raise TimeoutError(
            f"messages of group {group!r} reached {reached} after {timeout:g} s"
        ) from None
    return names


async def _bound_members(loop_layer: LoopLayer, group: str) -> list[str]:
    return await loop_layer.bound_members(group, _ANSWER_TIMEOUT)


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture(name="channel_layer")
    def _channel_layer() -> Iterator[RabbitmqChannelLayer]:
        """The default layer, with a prefix of the test's own; see :class:`IsolatedLayer`."""
        with IsolatedLayer() as layer:
            yield layer
