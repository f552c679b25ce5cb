"""The end of a layer, wherever it comes from."""

from __future__ import annotations

from tests.anywhere.support import script, started
from tests.proxy import Proxy


async def test_close_from_anywhere(proxy: Proxy) -> None:
    """close() works on any loop and thread, twice, at the same time, and at exit."""
    with started(script("closing"), proxy.url) as running:
        assert await running.line() == "closed"
        ended = await running.end_well()
    assert ended.lingered < 2
    assert proxy.connections == 0
