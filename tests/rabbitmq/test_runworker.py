"""The worker example of the Channels documentation: a websocket server and two ``runworker``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import websockets

from tests.helpers.processes import ROOT

pytestmark = pytest.mark.slow

PROJECT = ROOT / "tests" / "projects" / "worker"
ORDERS = 60


@asynccontextmanager
async def command(
    amqp_url: str, log: Path, *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a Python command in the project's directory; what it writes goes to *log*."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=PROJECT,
            env={
                **os.environ,
                "AMQP_URL": amqp_url,
                "PYTHONPATH": f"{PROJECT}{os.pathsep}{ROOT}",
                "DJANGO_SETTINGS_MODULE": "thumbnails.settings",
            },
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def connect(port: int) -> websockets.ClientConnection:
    deadline = asyncio.get_running_loop().time() + 30
    while True:
        try:
            return await websockets.connect(f"ws://127.0.0.1:{port}/")
        except OSError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.05)


async def order(browser: websockets.ClientConnection, count: int) -> dict[int, list[int]]:
    """Order so many thumbnails; give the ids of those that each worker made."""
    for number in range(count):
        await browser.send(json.dumps({"id": number}))
    made: dict[int, list[int]] = {}
    for _ in range(count):
        answer = json.loads(await asyncio.wait_for(browser.recv(), 20))
        made.setdefault(answer["worker"], []).append(answer["id"])
    return made


@pytest.mark.timeout(120)
async def test_two_workers(amqp_url: str, tmp_path: Path) -> None:
    """Each order is carried out once, by either worker; when one is killed, by the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with AsyncExitStack() as stack:
        runworker = ("manage.py", "runworker", "thumbnails-generate")
        server_log = tmp_path / "server"
        await stack.enter_async_context(
            command(
                amqp_url,
                server_log,
                *(
                    "-m",
                    "daphne",
                    "-b",
                    "127.0.0.1",
                    "-p",
                    str(port),
                    "thumbnails.asgi:application",
                ),
            )
        )
        browser = await stack.enter_async_context(await connect(port))
        # Orders wait for the workers to come.
        await browser.send(json.dumps({"id": -1}))
        workers = [
            await stack.enter_async_context(command(amqp_url, tmp_path / f"worker{n}", *runworker))
            for n in range(2)
        ]
        assert json.loads(await asyncio.wait_for(browser.recv(), 30))["id"] == -1
        pids = {worker.pid for worker in workers}
        made: dict[int, list[int]] = {}
        # The second worker may still be starting.
        for _ in range(50):
            made = await order(browser, ORDERS)
            assert sorted(id for ids in made.values() for id in ids) == list(range(ORDERS))
            if made.keys() == pids:
                break
        assert made.keys() == pids
        workers[0].kill()
        await workers[0].wait()
        made = await order(browser, ORDERS)
        assert made.keys() == {workers[1].pid}
        assert sorted(made[workers[1].pid]) == list(range(ORDERS))
    for name in ("server", "worker0", "worker1"):
        log = (tmp_path / name).read_text()
        assert "Traceback" not in log, log
