"""The chat with two servers and a worker, and a browser window on each server.

What needs selenium is left out where that is not installed; ``tox run -e browser`` has it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devtools.process import free_port
from examples.chat.servers import Server, Worker, chat_servers, chat_worker

if TYPE_CHECKING:
    from devtools.broker import Broker
    from tests.browser.window import Window

NEED_NO_BROWSER = {"test_demo.py", "test_server_side.py"}
collect_ignore = (
    []
    if find_spec("selenium")
    else [
        each.name
        for each in Path(__file__).parent.glob("test_*.py")
        if each.name not in NEED_NO_BROWSER
    ]
)


@pytest.fixture(scope="session")  # so that it is asked before a broker is started
def browser() -> tuple[str, str]:
    """The paths of the browser and of its driver; without them the tests are skipped."""
    from devtools.browser import find_browser

    found = find_browser()
    if found is None:
        missing = "no chromium with chromedriver on this machine"
        if os.environ.get("CHANNELS_RABBITMQ_BROWSER") == "required":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@pytest.fixture(scope="session")
def servers(broker: Broker) -> Iterator[list[Server]]:
    """Two servers of the chat, and a RabbitMQ behind them."""
    # Ports that no outgoing connection is given, so that a stopped server finds its own free.
    with chat_servers(broker.url, ports=(free_port(), free_port())) as running:
        yield running


@pytest.fixture(scope="session")
def worker(broker: Broker) -> Iterator[Worker]:
    """A worker of the chat."""
    with chat_worker(broker.url) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="session")
def windows(browser: tuple[str, str], servers: list[Server]) -> Iterator[list[Window]]:
    """A window of a browser of its own on each server."""
    from tests.browser.window import open_windows

    with open_windows(browser, servers) as opened:
        yield opened


@pytest.fixture
def room() -> str:
    """The name of a room that no other test is in."""
    return f"room-{secrets.token_hex(4)}"


@pytest.fixture
def ada(windows: list[Window], room: str) -> Window:
    """A window on the first server, in the room."""
    windows[0].enter(room, "Ada")
    return windows[0]


@pytest.fixture
def grace(windows: list[Window], room: str) -> Window:
    """A window on the second server, in the same room."""
    windows[1].enter(room, "Grace")
    return windows[1]
