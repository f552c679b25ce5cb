"""`hooks`: when they are called, and what becomes of their errors."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest
from django.core.exceptions import ImproperlyConfigured

from channels_rabbitmq.config.options import Options
from channels_rabbitmq.events import Event
from channels_rabbitmq.layer.hooks import Hooks, find_event_hook
from tests.helpers.waiting import until


def hooks(**config: object) -> Hooks:
    """The hooks that a CONFIG names."""
    return Hooks(Options.from_config(config))


async def test_plain_and_async() -> None:
    """Either kind of function will do, and the first connection is no reconnection."""
    calls = []

    async def back() -> None:
        calls.append("back")

    made = hooks(on_disconnect=lambda: calls.append("lost"), on_reconnect=back)
    made.topology_started()
    made.topology_ended()
    made.topology_started()
    await until(lambda: calls == ["lost", "back"])
    made.topology_ended()
    assert calls == ["lost", "back", "lost"]


async def test_no_hooks() -> None:
    """Nothing is called where nothing is set."""
    made = hooks()
    made.topology_ended()
    made.topology_started()
    made.cancel()


async def test_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a hook harms nothing."""

    def lost() -> None:
        raise RuntimeError("from the plain one")

    async def back() -> None:
        raise RuntimeError("from the async one")

    made = hooks(on_disconnect=lost, on_reconnect=back, connection_name="a")
    with caplog.at_level(logging.ERROR):
        made.topology_ended()
        made.topology_started()
        await until(lambda: len(caplog.records) == 2)
    assert caplog.messages == [
        "[a] on_disconnect raised an exception",
        "[a] on_reconnect raised an exception",
    ]


async def test_a_hook_that_hangs_is_cancelled() -> None:
    """The end of the layer is the end of its hooks, but for the one that ends it."""
    ended = []

    async def lost() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("lost")

    async def back() -> None:
        made.cancel()
        await asyncio.sleep(0)
        ended.append("back")

    made = hooks(on_disconnect=lost, on_reconnect=back)
    made.topology_ended()
    await asyncio.sleep(0)
    made.topology_started()
    await until(lambda: sorted(ended) == ["back", "lost"])


class AsyncCallable:
    """A callable object that gives something to await."""

    async def __call__(self, event: Event) -> None:
        """Await nothing."""


def test_path_to_an_async_event_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would await it, in whatever way it is async."""
    for hook in (AsyncCallable(), partial(AsyncCallable())):
        monkeypatch.setattr(asyncio, "note_for_a_test", hook, raising=False)
        with pytest.raises(ImproperlyConfigured, match="'on_event' must be a plain function, not"):
            find_event_hook("asyncio.note_for_a_test")


async def test_dotted_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is followed when the hooks are made, and one that leads nowhere is refused then."""
    calls = []
    monkeypatch.setattr(asyncio, "lost_for_a_test", lambda: calls.append("lost"), raising=False)
    made = hooks(on_disconnect="asyncio.lost_for_a_test")
    made.topology_ended()
    assert calls == ["lost"]
    for path, says in (("asyncio.nothing", "cannot be imported"), ("asyncio.tasks", "is a module")):
        with pytest.raises(ImproperlyConfigured, match=f"'on_reconnect' must be .* {says}"):
            hooks(on_reconnect=path)
