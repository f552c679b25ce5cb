"""The layer in a Django project: views under several servers, and a user's own tests."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devtools.process import free_port
from tests.helpers.proxy import Proxy
from tests.helpers.scripts import PROJECT, STRICT, started
from tests.helpers.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.helpers.rabbit import MakeLayer

DAPHNE = ["-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", "{port}", "project.asgi:application"]
GUNICORN = [
    *("-m", "gunicorn", "--threads", "4", "--log-level", "warning"),
    *("-b", "127.0.0.1:{port}", "project.wsgi"),
]
RUNSERVER = ["manage.py", "runserver", "--noreload", "127.0.0.1:{port}"]


def get(port: int, path: str) -> dict[str, int]:
    """Get a page of the site."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as response:
        answer: dict[str, int] = json.load(response)
    return answer


def is_ready(port: int) -> bool:
    """Whether the site's layer is healthy."""
    try:
        return get(port, "health/ready") == {"status": "ready", "layers": {"default": True}}
    except OSError:  # 503 is one, to urllib
        return False


def accepts(port: int) -> bool:
    """Whether a server is there."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20).close()
    except OSError:
        return False
    return True


@asynccontextmanager
async def serving(
    arguments: list[str], url: str, most_threads: int = 100, **options: object
) -> AsyncIterator[int]:
    """A server of the site, on the port that it gives; it must end well when it is told to.

    That is after it has come down to so many threads.
    """
    port = free_port()
    arguments = [argument.format(port=port) for argument in arguments]
    with started(arguments, url, cwd=PROJECT, **options) as running:
        await until(lambda: asyncio.to_thread(accepts, port), timeout=30)
        yield port
        # Django's own server is killed with the threads of its last requests still at work.
        await until(lambda: len(list(Path(f"/proc/{running.pid}/task").iterdir())) <= most_threads)
        running.signal(signal.SIGINT)
        ended = await running.end()
    # Some servers leave the socket that they listened on to the garbage collector.
    own = re.compile(rf"^.*<socket\.socket .*laddr=\('127.0.0.1', {port}\)>\n", re.MULTILINE)
    assert own.sub("", ended.err) == ""
    assert ended.code == 0


async def test_views_under_asgi(proxy: Proxy, make_layer: MakeLayer) -> None:
    """Async views, and plain ones in their threads, stay on the server's own loop."""
    listener = make_layer()
    channel = await listener.new_channel()
    await listener.group_add("room", channel)
    exchange = listener.options.groups_exchange
    async with serving(DAPHNE, proxy.url, groups_exchange=exchange) as port:
        for path in ("sync", "async", "sync"):
            state = await asyncio.to_thread(get, port, f"{path}?text={path}")
            assert state == {"owner_threads": 0}
            assert (await asyncio.wait_for(listener.receive(channel), 5))["text"] == path
        await until(lambda: asyncio.to_thread(is_ready, port), timeout=30)
    assert proxy.accepted == 1


@pytest.mark.parametrize("server", [GUNICORN, RUNSERVER], ids=["gunicorn", "runserver"])
async def test_views_under_wsgi(proxy: Proxy, make_layer: MakeLayer, server: list[str]) -> None:
    """Views in a WSGI server's threads share one connection, on the layer's own thread."""
    listener = make_layer()
    channel = await listener.new_channel()
    await listener.group_add("room", channel)
    exchange = listener.options.groups_exchange
    most = 2 if server is RUNSERVER else 100
    async with serving(server, proxy.url, most, groups_exchange=exchange) as port:
        paths = [f"{view}?text={view}{n}" for n in range(20) for view in ("sync", "async")]
        # Channels makes its layer at the first use; threads that all came first would get several.
        await asyncio.to_thread(get, port, "sync?text=first")
        assert (await asyncio.wait_for(listener.receive(channel), 5))["text"] == "first"
        await until(lambda: asyncio.to_thread(is_ready, port), timeout=30)
        with ThreadPoolExecutor(8) as pool:
            states = await asyncio.gather(
                *(
                    asyncio.get_running_loop().run_in_executor(pool, get, port, path)
                    for path in paths
                )
            )
        assert states == [{"owner_threads": 1}] * len(paths)
        got = [await asyncio.wait_for(listener.receive(channel), 5) for _ in paths]
        assert {f"text={message['text']}" for message in got} == {
            path.partition("?")[2] for path in paths
        }
    assert proxy.accepted == 1


async def test_djangos_test_cases(
    amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django's and Channels' test cases work over the layer, with nothing of ours in them."""
    monkeypatch.setenv("DATABASE_DIRECTORY", str(tmp_path))
    with started(["manage.py", "test"], amqp_url, cwd=PROJECT) as running:
        ended = await running.end()
    assert ended.code == 0, ended.err
    # Django reports on standard error; a warning would be an error, and then a failure.
    assert "\nRan 8 tests in " in ended.err
    assert ended.err.endswith("\nOK\nDestroying test database for alias 'default'...\n"), ended.err
    assert "Exception ignored" not in ended.err
    assert "Task was destroyed" not in ended.err


async def test_pytest_asyncio(amqp_url: str) -> None:
    """A loop for each test is no matter for the layer, which lasts over all."""
    arguments = ["-m", "pytest", "-q", "suite_asyncio.py"]
    with started(arguments, amqp_url, flags=STRICT, cwd=PROJECT) as running:
        ended = await running.end_well()
    assert "9 passed" in ended.out
