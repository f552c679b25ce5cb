"""The projects of ``docs/events.rst`` and ``docs/workers.rst``, made as they say, and served."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import django
import pytest

from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.helpers.pages import snippet, snippets
from tests.helpers.rabbit import MakeLayer
from tests.helpers.site import HOST, free_port, make_site, said, serving, visit
from tests.helpers.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.skipif(django.VERSION < (5, 0), reason="Django 4.2 does not end a view without client")
async def test_server_sent_events(amqp_url: str, make_layer: MakeLayer, tmp_path: Path) -> None:
    """A view streams what is said in a group, by any process, and leaves with its client."""
    site = make_site(tmp_path, amqp_url)
    for name in ("events-view", "events-urls"):
        code = snippet("docs/events.rst", name)
        (site / code.partition("\n")[0].removeprefix("# ")).write_text(code)
    layer = make_layer(host=amqp_url, groups_exchange="groups")
    port = free_port()
    with serving(site, f"daphne -b {HOST} -p {port} mysite.asgi:application") as server:
        async with visit(server, port):
            pass
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(f"GET /events/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"retry: 2000\n\n"), 20)
        assert b" 200 OK" in head
        assert b"text/event-stream" in head
        await layer.group_send("lobby", {"type": "chat.line", "text": "news"})
        event = await asyncio.wait_for(reader.readuntil(b"}\n\n"), 20)
        assert b'data: {"text": "news"}' in event

        assert await layer.group_members("lobby")
        writer.close()
        await until(lambda: _nobody(layer), timeout=20)


async def _nobody(layer: RabbitmqChannelLayer) -> bool:
    return await layer.group_members("lobby") == []


async def test_a_worker_shouts(amqp_url: str, tmp_path: Path) -> None:
    """What is ordered on a websocket is done by a worker, and read by all."""
    site = make_site(tmp_path, amqp_url)
    for name in ("workers-consumer", "workers-order"):
        code = snippet("docs/workers.rst", name)
        (site / code.partition("\n")[0].removeprefix("# ")).write_text(code)
    for file, name in (("asgi.py", "workers-asgi"), ("settings.py", "workers-settings")):
        path = site / "mysite" / file
        path.write_text(path.read_text() + snippet("docs/workers.rst", name))
    port = free_port()
    command = dict(snippets("docs/workers.rst", "shell"))["workers-run"]
    with (
        serving(site, f"daphne -b {HOST} -p {port} mysite.asgi:application") as server,
        serving(site, command),
    ):
        async with visit(server, port) as one, visit(server, port) as other:
            await one.send(json.dumps({"text": "/shout hello"}))
            assert await said(one) == await said(other) == "HELLO"
