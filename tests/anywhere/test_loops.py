"""Several event loops, at the same time and one after the other, over one layer."""

from __future__ import annotations

from tests.anywhere.support import run
from tests.proxy import Proxy


async def test_two_live_loops(proxy: Proxy) -> None:
    """Two loops in two threads each receive their own, and write to each other."""
    await run("two_loops", proxy.url, local_capacity=2000, remote_capacity=2000)


async def test_asyncio_run_again_and_again(proxy: Proxy) -> None:
    """A layer outlives the loops that it is used on, with queue, groups and messages."""
    await run("many_runs", proxy.url)
    assert proxy.accepted == 12


async def test_what_crosses(amqp_url: str) -> None:
    """Cancellations, exceptions and contexts reach the other loop, and come back."""
    await run("crossing", amqp_url)
