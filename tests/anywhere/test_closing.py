"""The end of a layer, wherever it comes from."""

from __future__ import annotations

import pytest

from tests.helpers.proxy import Proxy
from tests.helpers.scripts import run, script, started
from tests.helpers.waiting import until


async def test_close_from_anywhere(proxy: Proxy) -> None:
    """close() works on any loop and thread, twice, at the same time, and at exit."""
    with started(script("closing"), proxy.url) as running:
        assert await running.line() == "closed"
        ended = await running.end_well()
    assert ended.lingered < 2
    await until(lambda: proxy.connections == 0)


async def test_collected_layers(proxy: Proxy) -> None:
    """A layer that is dropped, in whatever state, leaves no socket, thread, task or memory."""
    await run("collected", proxy.url)
    await until(lambda: proxy.connections == 0)


@pytest.mark.parametrize("hung", [False, True])
async def test_exit(proxy: Proxy, hung: bool) -> None:
    """The process ends soon, and takes leave of RabbitMQ, or not, if that hangs."""
    with started(script("hung"), proxy.url) as running:
        assert await running.line() == "sent"
        if hung:
            proxy.freeze()
        running.say()
        assert await running.line() == "exit"
        ended = await running.end_well()
    assert ended.lingered < 4
    proxy.thaw()
