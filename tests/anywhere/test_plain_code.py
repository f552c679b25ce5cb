"""The layer in plain synchronous code: one lasting connection, whatever thread calls."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

from tests.helpers.proxy import Proxy
from tests.helpers.scripts import run, script, started
from tests.helpers.waiting import until

if TYPE_CHECKING:
    from tests.helpers.rabbit import MakeLayer


async def test_thousand_calls_use_one_connection(proxy: Proxy, make_layer: MakeLayer) -> None:
    """A plain script's calls arrive in order over one connection, and it ends by itself."""
    reader = make_layer(remote_capacity=2000, local_capacity=2000)
    channel = await reader.new_channel()
    await reader.group_add("numbers", channel)
    exchange = reader.options.groups_exchange
    with started(script("plain"), proxy.url, groups_exchange=exchange) as running:
        assert await running.line() == "sent"
        ended = await running.end_well()
    assert ended.lingered < 2
    assert proxy.accepted == 1
    got = [await asyncio.wait_for(reader.receive(channel), 5) for _ in range(1000)]
    assert [message["n"] for message in got] == list(range(1000))
    await until(lambda: proxy.connections == 0)


async def test_a_channel_lasts_across_calls(proxy: Proxy) -> None:
    """What one call joins or sends, the next ones receive."""
    await run("across_calls", proxy.url)
    assert proxy.accepted == 1


async def test_a_cancelled_read_gives_back(proxy: Proxy) -> None:
    """What was on its way to a call that was cancelled, the next one receives, once."""
    await run("cancelled_reads", proxy.url)


async def test_threads_share_the_connection(proxy: Proxy) -> None:
    """Eight threads lose nothing and mix nothing up, on one connection."""
    await run("threads", proxy.url, remote_capacity=2000, local_capacity=2000)
    assert proxy.accepted == 1


async def test_rabbitmq_away(proxy: Proxy) -> None:
    """Without RabbitMQ calls end within send_timeout, and Ctrl-C ends one at once."""
    await proxy.refuse()
    with started(script("away"), proxy.url, send_timeout=1) as running:
        for _ in range(2):
            assert await running.line() == "interrupt"
            await asyncio.sleep(0.3)  # it cannot say that it waits already
            before = time.monotonic()
            running.signal(signal.SIGINT)
            assert await running.line() == "interrupted"
            assert time.monotonic() - before < 1
        ended = await running.end_well()
    assert ended.lingered < 2


async def test_an_interrupt_that_nobody_catches(proxy: Proxy) -> None:
    """Ctrl-C ends the program at once, with Python's own message and nothing else."""
    await proxy.refuse()
    with started([*script("away"), "uncaught"], proxy.url, send_timeout=0.5) as running:
        for _ in range(3):
            while await running.line() != "interrupt":
                pass
            await asyncio.sleep(0.3)
            running.signal(signal.SIGINT)
        before = time.monotonic()
        ended = await running.end()
    assert time.monotonic() - before < 2
    assert ended.code in (-signal.SIGINT, 130)
    assert ended.err.startswith("Traceback"), ended.err
    assert ended.err.endswith("\nKeyboardInterrupt\n"), ended.err
    assert ended.err.count("Traceback") == 1, ended.err


async def test_jobs_are_published_from_plain_code(proxy: Proxy) -> None:
    """The connection that a layer gives to a call works there, with all its methods."""
    await run("connection", proxy.url)
