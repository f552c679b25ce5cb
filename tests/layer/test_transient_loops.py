"""Which loops are asgiref's for one call, and whether anybody still waits for them."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import AsyncToSync, async_to_sync

from channels_rabbitmq.layer.transient_loops import is_abandoned, is_transient


def test_transient_loops_are_told_from_lasting_ones() -> None:
    """asgiref's loops are transient, all others last."""

    async def ask() -> bool:
        return is_transient(asyncio.get_running_loop())

    assert async_to_sync(ask)()
    assert not asyncio.run(ask())


def test_no_list_of_transient_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asgiref's list every loop counts as lasting, and none as abandoned."""
    monkeypatch.setattr("channels_rabbitmq.layer.transient_loops.AsyncToSync", object)
    loop = asyncio.new_event_loop()
    assert not is_transient(loop)
    assert not is_abandoned(loop)
    loop.close()


def test_a_caller_that_waits_has_not_left() -> None:
    """A transient loop is not abandoned while its caller is inside of the call."""

    async def ask() -> bool:
        return await asyncio.to_thread(is_abandoned, asyncio.get_running_loop())

    assert not async_to_sync(ask)()


def test_a_caller_that_has_left() -> None:
    """It is abandoned once the caller's thread is elsewhere."""

    class Executor:
        _work_thread = threading.main_thread()

    loop = asyncio.new_event_loop()
    AsyncToSync.loop_thread_executors[loop] = Executor()  # type: ignore[assignment]
    try:
        assert is_abandoned(loop)
    finally:
        del AsyncToSync.loop_thread_executors[loop]
        loop.close()
