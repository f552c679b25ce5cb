"""Each ASGI server with the chat of ``docs/start.rst``: how it starts, serves and stops."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import signal
import sys
from pathlib import Path

import pytest
import websockets

from channels_rabbitmq.core import RabbitmqChannelLayer
from devtools.broker import Broker
from tests.helpers.pages import snippet, snippets, table
from tests.helpers.rabbit import MakeLayer, queue_names
from tests.helpers.site import HOST, free_port, make_site, said, serving, visit
from tests.helpers.waiting import until

_WITHOUT_LIFESPAN = {"daphne", "runserver"}
_MISSING = [
    name
    for name in ("granian", "hypercorn", "uvicorn", "uvicorn_worker")
    if importlib.util.find_spec(name) is None
]
#: What the documentation leaves to the reader, and a consumer that tells of its end.
_ASGI = """
from .lifespan import lifespan

application.application_mapping["lifespan"] = lifespan
"""
_CONSUMER = """

async def disconnect(self, code):
    import sys
    print("disconnect()", code, file=sys.stderr, flush=True)

ChatConsumer.disconnect = disconnect
"""


def documented() -> dict[str, tuple[str, str]]:
    """Server -> what the page says of its websockets, and of ``disconnect()``."""
    rows = [[cell.astext() for cell in row] for row in table("docs/servers.rst", "servers-table")]
    return {row[0].partition(",")[0].lower(): (row[1], row[2]) for row in rows}


def command(name: str, port: int) -> str:
    """The command of a server's page, with a port of its own."""
    last = dict(snippets(f"docs/servers-{name}.rst", "shell"))[f"server-{name}"].splitlines()[-1]
    assert "8000" in last
    return last.replace("8000", str(port))


async def _ends(socket: websockets.ClientConnection) -> str:
    """How a server ends a websocket, in the page's words."""
    try:
        while True:
            await asyncio.wait_for(socket.recv(), 40)
    except websockets.ConnectionClosed as error:
        return f"closed with {error.rcvd.code}" if error.rcvd else "cut off"


async def _trial(name: str, site: Path, layer: RabbitmqChannelLayer) -> tuple[str, bool]:
    """Start a server, chat, and end it. Say how a websocket ends; whether it is disconnected."""
    port = free_port()
    with serving(site, command(name, port)) as server:
        async with visit(server, port) as one, visit(server, port) as other:
            await one.send(json.dumps({"text": f"by {name}"}))
            for socket in (one, other):
                async with asyncio.timeout(30):
                    while await said(socket) != f"by {name}":
                        pass
            await layer.group_send("lobby", {"type": "chat.line", "text": f"to {name}"})
            async with asyncio.timeout(30):
                while await said(other) != f"to {name}":
                    pass
            server.signal(signal.SIGTERM)
            if name == "hypercorn" and sys.version_info >= (3, 12):
                # It waits for its clients, as its page says.
                await asyncio.gather(one.close(), other.close())
                assert (await server.end()).code == 0
                return "closed with 1011", False
            ends = await asyncio.gather(_ends(one), _ends(other))
            ended = await server.end()
        assert ended.code in (0, -signal.SIGTERM, -signal.SIGSEGV), ended.err
        assert len(set(ends)) == 1
        return ends[0], "disconnect()" in ended.err


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}")
async def test_servers_do_as_documented(
    broker: Broker, vhost: str, make_layer: MakeLayer, tmp_path: Path
) -> None:
    """Each server serves the chat by its page's command, and stops as the table says."""
    site = make_site(tmp_path, f"{broker.url}/{vhost}")
    (site / "mysite" / "lifespan.py").write_text(snippet("docs/servers.rst", "servers-lifespan"))
    for file, more in (("mysite/asgi.py", _ASGI), ("chat/consumers.py", _CONSUMER)):
        path = site / file
        path.write_text(path.read_text() + more)
    layer = make_layer(host=f"{broker.url}/{vhost}")

    names = list(documented())
    trials = await asyncio.gather(*[_trial(name, site, layer) for name in names])
    seen = dict(zip(names, trials, strict=True))
    for name, (websocket, disconnect) in documented().items():
        assert websocket.startswith(seen[name][0]), f"{name}: {seen[name]}"
        if disconnect in ("is called", "is not called"):
            assert seen[name][1] is (disconnect == "is called"), name

    # Nothing is left but the queue of the layer here.
    await layer.current_connection
    await until(lambda: _only(broker, vhost, layer.queue_name), timeout=20)
    # RabbitMQ's log: whoever has a lifespan took leave.
    await until(lambda: _rude(broker, vhost) == len(_WITHOUT_LIFESPAN))


def _rude(broker: Broker, vhost: str) -> int:
    """How many connections to a virtual host were closed without a word."""
    log = re.sub(r"^\S+ \S+ \[\w+\] <[\d.]+> ", "", broker.tail(100_000), flags=re.MULTILINE)
    return len(re.findall(rf"vhost: '{vhost}'.*:\n.*unexpectedly closed", log))


async def _only(broker: Broker, vhost: str, queue: str) -> bool:
    return await queue_names(broker, vhost) == [queue]


def test_every_server_has_a_page() -> None:
    """The servers in the table are those that have a page, and a command on it."""
    assert {command(name, 1) for name in documented()}
    pages = {path.stem.removeprefix("servers-") for path in Path("docs").glob("servers-*.rst")}
    assert set(documented()) == pages
    assert HOST == "127.0.0.1"
