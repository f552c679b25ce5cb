"""Tasks and timers that end together."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest

from channels_rabbitmq.local.background import Background
from tests.helpers.clock import Clock


def test_timers() -> None:
    """Each fires once, at its time."""
    clock, fired = Clock(), list[str]()
    background = Background(cast("asyncio.AbstractEventLoop", clock))
    background.call_later(2.0, lambda: fired.append("later"))
    background.call_at(1.0, lambda: fired.append("at"))
    background.call_soon(lambda: fired.append("soon"))
    clock.move(0.0)
    assert fired == ["soon"]
    clock.move(3.0)
    assert fired == ["soon", "at", "later"]
    assert repr(background) == "<Background: 0 tasks, 0 timers>"


def test_cancelled_timers() -> None:
    """Once cancelled, no timer is left, and none can be started."""
    clock, fired = Clock(), list[str]()
    background = Background(cast("asyncio.AbstractEventLoop", clock))
    background.call_later(1.0, lambda: fired.append("before"))
    background.cancel()
    background.call_later(1.0, lambda: fired.append("after"))
    background.call_soon(lambda: fired.append("soon"))
    assert not clock.timers
    clock.move(2.0)
    assert not fired


async def test_cancelled_tasks() -> None:
    """All tasks are cancelled, those that are started later too; but not the one that cancels."""
    background = Background(asyncio.get_running_loop())
    ended: list[str] = []

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(name)
            raise

    async def cancel() -> None:
        background.cancel()
        await asyncio.sleep(0)
        ended.append("the one that cancels")

    first = background.spawn(wait("first"))
    cancels = background.spawn(cancel())
    await cancels
    assert first.cancelled()
    late = background.spawn(wait("late"))
    await asyncio.wait({late})
    assert late.cancelled()
    assert ended == ["first", "the one that cancels"]


async def test_errors(caplog: pytest.LogCaptureFixture) -> None:
    """An error that was expected is nothing; any other is logged."""
    background = Background(asyncio.get_running_loop())

    async def fail(error: Exception) -> None:
        raise error

    await asyncio.wait({background.spawn(fail(KeyError()), LookupError)})
    assert not caplog.records
    await asyncio.wait({background.spawn(fail(ValueError()), LookupError)})
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "ValueError" in caplog.text
