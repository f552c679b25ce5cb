"""Celery: tasks in a worker's forked children speak to websockets under an ASGI server."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect

from tests.anywhere.test_django import DAPHNE, get, serving
from tests.helpers.proxy import Proxy
from tests.helpers.scripts import FORKING, PROJECT, started
from tests.helpers.waiting import until

if TYPE_CHECKING:
    from tests.helpers.rabbit import MakeLayer

#: Where tests run as root.
FLAGS = (*FORKING, "-W", "ignore:You're running the worker with superuser")
WORKER = ["-m", "celery", "-A", "project", "worker", "-P", "prefork", "-c", "2", "-l", "WARNING"]
TASKS = 12


async def test_tasks_speak_to_a_websocket(
    proxy: Proxy, amqp_url: str, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each child has a connection and queue of its own; the parent used the layer before."""
    monkeypatch.setenv("CELERY_BROKER", amqp_url)
    monkeypatch.setenv("CELERY_QUEUE", f"celery-{secrets.token_hex(4)}")
    exchange = make_layer().options.groups_exchange
    async with serving(DAPHNE, amqp_url, groups_exchange=exchange) as port:
        async with connect(f"ws://127.0.0.1:{port}/ws") as websocket:

            async def hear() -> dict[str, object]:
                said: dict[str, object] = json.loads(await asyncio.wait_for(websocket.recv(), 30))
                return said

            with started(
                WORKER, proxy.url, flags=FLAGS, cwd=PROJECT, groups_exchange=exchange
            ) as worker:
                parent = await hear()
                assert parent["text"] == "worker"
                assert proxy.accepted == 1
                for number in range(TASKS):
                    await asyncio.to_thread(get, port, f"task?text=task{number}")
                said = [await hear() for _ in range(TASKS)]
                assert {task["text"] for task in said} == {f"task{n}" for n in range(TASKS)}
                queues = {(task["queue"], task["pid"]) for task in said}
                assert len(queues) == len({pid for _, pid in queues}) <= 2
                assert parent["queue"] not in {queue for queue, _ in queues}
                # One for each process that sent; the parent's is as it was.
                assert proxy.accepted == proxy.connections == 1 + len(queues)
                worker.signal(signal.SIGTERM)
                await worker.end_well()
    await until(lambda: proxy.connections == 0)
