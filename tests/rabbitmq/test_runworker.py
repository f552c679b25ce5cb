"""The worker example of the Channels documentation: a websocket server and two ``runworker``."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import websockets

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotConnected
from devtools.broker import Broker
from devtools.process import HOST, PrivateProcess, free_port
from tests.helpers.processes import ROOT, started
from tests.helpers.rabbit import MakeLayer

pytestmark = pytest.mark.slow

PROJECT = ROOT / "tests" / "projects" / "worker"
ORDERS = 60


class Command(PrivateProcess):
    """A Python command, run in the directory of the project."""

    name = "Command"

    def __init__(self, amqp_url: str, *arguments: str) -> None:
        super().__init__()
        self._amqp_url = amqp_url
        self._arguments = arguments

    def _command(self) -> Sequence[str]:
        return [sys.executable, *self._arguments]

    def _environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "AMQP_URL": self._amqp_url,
            "PYTHONPATH": f"{PROJECT}{os.pathsep}{ROOT}",
            "DJANGO_SETTINGS_MODULE": "thumbnails.settings",
        }

    def _cwd(self) -> Path:
        return PROJECT


async def connect(port: int) -> websockets.ClientConnection:
    """Connect as soon as the server listens."""
    deadline = asyncio.get_running_loop().time() + 30
    while True:
        try:
            return await websockets.connect(f"ws://{HOST}:{port}/")
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
async def test_two_workers(amqp_url: str) -> None:
    """Each order is carried out once, by either worker; when one is killed, by the other."""
    port = free_port()
    server = Command(
        amqp_url,
        *("-m", "daphne", "-b", HOST, "-p", str(port), "thumbnails.asgi:application"),
    )
    workers = [Command(amqp_url, "manage.py", "runworker", "thumbnails-generate") for _ in range(2)]
    with server, workers[0], workers[1]:
        server.launch()
        async with await connect(port) as browser:
            # Orders wait for the workers to come.
            await browser.send(json.dumps({"id": -1}))
            for worker in workers:
                worker.launch()
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
            last = workers[1].pid
            workers[0].kill()
            made = await order(browser, ORDERS)
            assert made.keys() == {last}
            assert sorted(made[last]) == list(range(ORDERS))
        printed = [each.tail(1000) for each in (server, *workers)]
    assert not [text for text in printed if "Traceback" in text]


async def generate(layer: RabbitmqChannelLayer, own: str, count: int) -> set[int]:
    """Order so many thumbnails of the workers; give the process ids of those that made them."""
    for number in range(count):
        await layer.send("thumbnails-generate", {"type": "generate", "id": number, "reply_to": own})
    answers = [await asyncio.wait_for(layer.receive(own), 20) for _ in range(count)]
    assert [answer["id"] for answer in answers] == list(range(count))
    return {answer["worker"] for answer in answers}


@pytest.mark.timeout(120)
async def test_restart_of_the_node(broker: Broker, amqp_url: str, make_layer: MakeLayer) -> None:
    """A worker rides out a restart of the node that has its queue, and ends well at SIGTERM."""
    layer = make_layer()
    own = await layer.new_channel()
    with started(
        [sys.executable, "manage.py", "runworker", "thumbnails-generate"],
        cwd=PROJECT,
        environment=Command(amqp_url)._environment(),
    ) as worker:
        assert await generate(layer, own, 3) == {worker.pid}
        await asyncio.to_thread(broker.restart)
        await layer.current_connection
        # The worker answers when both are connected again; what was in between may be lost.
        for number in itertools.count():
            with contextlib.suppress(NotConnected):
                await layer.send(
                    "thumbnails-generate", {"type": "generate", "id": number, "reply_to": own}
                )
            with contextlib.suppress(TimeoutError):
                while (await asyncio.wait_for(layer.receive(own), 0.5))["id"] != number:
                    pass
                break
        assert await generate(layer, own, 3) == {worker.pid}
        worker.signal(signal.SIGTERM)
        ended = await worker.end()
    assert ended.code == 0
    assert "Traceback" not in ended.err
