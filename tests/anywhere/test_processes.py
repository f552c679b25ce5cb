"""Processes that fork: each child has a connection and a queue of its own."""

from __future__ import annotations

import pytest

from tests.helpers.proxy import Proxy
from tests.helpers.scripts import FORKING, run


@pytest.mark.parametrize(("home", "connections"), [("thread", 3), ("loop", 2), ("never", 2)])
async def test_fork(proxy: Proxy, home: str, connections: int) -> None:
    """A child starts anew wherever its parent's link lives, and leaves that alone."""
    await run("fork_by_hand", proxy.url, home, flags=FORKING)
    assert proxy.accepted == connections


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
async def test_multiprocessing(proxy: Proxy, method: str) -> None:
    """Children of multiprocessing write to a channel of their parent's."""
    await run("processes", proxy.url, method, flags=FORKING)
    assert proxy.accepted == 4
