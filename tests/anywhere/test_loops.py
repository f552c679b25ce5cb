"""Several event loops, at the same time and one after the other, over one layer."""

from __future__ import annotations

import pytest

from tests.helpers.proxy import Proxy
from tests.helpers.scripts import run, script, started
from tests.helpers.waiting import until


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


@pytest.mark.parametrize(
    "scenario",
    [
        "another waits",
        "another has channels",
        "stops",
        "stops as one joins",
        "crashes",
        "unread messages",
    ],
)
async def test_the_owner_ends_and_another_takes_over(amqp_url: str, scenario: str) -> None:
    """However the owning loop ends, groups, messages and all who wait go on elsewhere."""
    await run("owner_moves", amqp_url, scenario)


async def test_the_owner_is_closed_over_its_tasks(proxy: Proxy) -> None:
    """A loop that is closed without further ado is cut off at the next use."""
    arguments = [*script("owner_moves"), "closed"]
    with started(arguments, proxy.url, flags=["-X", "dev"]) as running:
        ended = await running.end()
    assert ended.code == 0, ended.err
    # Python says what the loop's owner left behind, and nothing else happened.
    assert "Error" not in ended.err
    assert proxy.accepted == 2
    await until(lambda: proxy.connections == 0)


async def test_lasting_loops_after_the_thread(proxy: Proxy) -> None:
    """The connection leaves its thread for a lasting loop only if all was sending so far."""
    await run("thread_then_loop", proxy.url)
    assert proxy.accepted == 3


async def test_uvloop(amqp_url: str) -> None:
    """uvloop can own the layer, and call it from elsewhere."""
    pytest.importorskip("uvloop")
    await run("uvloop_owner", amqp_url)


async def test_asgiref_that_lists_no_loops(amqp_url: str) -> None:
    """Where transient loops cannot be told from others, calls work, if slower."""
    await run("unlisted", amqp_url)
