"""Processes that fork: each child has a connection and a queue of its own."""

from __future__ import annotations

import pytest

from tests.helpers.proxy import Proxy
from tests.helpers.scripts import FORKING, run


@pytest.mark.parametrize(("owner", "connections"), [("thread", 3), ("loop", 2), ("never", 2)])
async def test_fork(proxy: Proxy, owner: str, connections: int) -> None:
    """A child starts anew whichever loop its parent's layer has, and leaves that alone."""
    await run("fork_by_hand", proxy.url, owner, flags=FORKING)
    assert proxy.accepted == connections


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
async def test_multiprocessing(proxy: Proxy, method: str) -> None:
    """Children of multiprocessing write to a channel of their parent's."""
    await run("processes", proxy.url, method, flags=FORKING)
    assert proxy.accepted == 4
