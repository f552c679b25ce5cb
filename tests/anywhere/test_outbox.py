"""The outbox in a Django project: the real package and its worker, on PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiormq
import pytest

from devtools.process import ServerError
from devtools.servers import PostgresServer
from tests.helpers import processes
from tests.helpers.pages import DOCUMENTED_URL, read, snippet
from tests.helpers.processes import ROOT, Process, require_import
from tests.helpers.proxy import Proxy
from tests.helpers.scripts import FORKING
from tests.helpers.waiting import until

pytest.importorskip("psycopg")
pytestmark = pytest.mark.slow
PROJECT = ROOT / "tests" / "projects" / "outbox"


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The address of a private PostgreSQL with the project's tables."""
    try:
        server = PostgresServer.start()
    except ServerError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise
    with server:
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "-v", "0"],
            cwd=PROJECT,
            env=environment(server.url, "amqp://127.0.0.1:1"),
            check=True,
        )
        yield server.url


def environment(postgres: str, url: str) -> dict[str, str]:
    """What the project's processes are started with."""
    return {
        **os.environ,
        "POSTGRES_URL": postgres,
        "AMQP_URL": url,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(PROJECT)]),
        "PYTHONUNBUFFERED": "1",
    }


class Shop:
    """The project, on a virtual host of its own."""

    def __init__(self, postgres: str, url: str) -> None:
        self.environment = environment(postgres, url)

    def python(self, *arguments: str) -> contextlib.AbstractContextManager[Process]:
        """A Python process in the project."""
        return processes.started(
            [sys.executable, *FORKING, *arguments], cwd=PROJECT, environment=self.environment
        )

    def worker(self, iterations: int = 0) -> contextlib.AbstractContextManager[Process]:
        """The package's worker, once a second; it ends by itself after so many rounds, if any."""
        return self.python(
            *("manage.py", "outbox_worker", "--interval", "1"),
            *("--max-iterations", str(iterations)),
        )

    async def work(self) -> str:
        """Have the worker go through the outbox once; give what it logged."""
        with self.worker(1) as worker:
            ended = await worker.end()
        assert ended.code == 0, ended.err
        return ended.err


@pytest.fixture
def shop(postgres: str, proxy: Proxy) -> Shop:
    """The project, and a way to RabbitMQ that a test can cut."""
    return Shop(postgres, proxy.url)


@pytest.fixture
async def orders(shop: Shop) -> AsyncIterator[Process]:
    """The process that places orders."""
    with shop.python("orders.py") as process:
        await ask(process, "clear")
        yield process
        ended = await process.end()
    assert ended.code == 0, ended.err


async def ask(orders: Process, name: str, **arguments: object) -> Any:
    """Have the process do something."""
    orders.tell([name, arguments])
    return await orders.hear()


async def events(url: str, count: int) -> list[Any]:
    """The messages of the stream, of which there must be so many."""
    found: list[Any] = []
    async with await aiormq.connect(url) as connection:
        channel = await connection.channel()
        await channel.basic_qos(prefetch_count=100)

        async def read(message: Any) -> None:
            found.append(message)
            await channel.basic_ack(message.delivery_tag)

        await channel.basic_consume("orders", read, arguments={"x-stream-offset": "first"})
        await until(lambda: len(found) >= count)
    assert len(found) == count
    return found


async def test_the_worker_publishes(shop: Shop, orders: Process, amqp_url: str) -> None:
    """What was committed is published, once, in order; what was rolled back is not."""
    ids = [await ask(orders, "order", number=number) for number in range(3)]
    assert await ask(orders, "order", number=3, undone=True) is None
    ids.append(await ask(orders, "order", number=4, backend="binary"))
    own = {"exchange": "", "routing_key": "orders"}
    ids.append(await ask(orders, "order", number=5, publisher_config=own))
    assert await shop.work() == ""
    assert await shop.work() == ""

    assert await ask(orders, "state") == {event_id: ["published", 0, ""] for event_id in ids}
    found = await events(amqp_url, 5)
    assert [message.header.properties.message_id for message in found] == ids
    assert [message.header.properties.delivery_mode for message in found] == [2] * 5
    structured, binary, routed = found[0], found[3], found[4]
    event = json.loads(structured.body)
    assert (event["id"], event["type"], event["data"]) == (ids[0], "order.placed", {"number": 0})
    assert structured.delivery.routing_key == "shop.order.placed"
    assert json.loads(binary.body) == {"number": 4}
    assert binary.header.properties.headers["cloudEvents_id"] == ids[3]
    assert routed.delivery.exchange == ""


async def test_rabbitmq_away_and_back(
    shop: Shop, orders: Process, proxy: Proxy, amqp_url: str
) -> None:
    """While RabbitMQ is away events stay in the outbox; a worker that runs publishes them then."""
    await proxy.refuse()
    event_id = await ask(orders, "order", number=1)
    log = await shop.work()
    assert "The outbox cannot publish: Cannot connect to RabbitMQ" in log
    assert "guest" not in log
    ((status, retries, error),) = (await ask(orders, "state")).values()
    assert (status, retries, error) == ("retry", 1, "Backend rabbitmq is not healthy")

    await proxy.accept()
    assert await ask(orders, "due") == 1
    with shop.worker() as worker:
        await until(lambda: is_published(orders, event_id), timeout=30)
        proxy.cut()
        second = await ask(orders, "order", number=2)
        await until(lambda: is_published(orders, second), timeout=30)
        worker.signal(signal.SIGTERM)
        ended = await worker.end()
    assert ended.code == 0
    assert "Outbox worker stopped gracefully" in ended.out
    found = await events(amqp_url, 2)
    assert [message.header.properties.message_id for message in found] == [event_id, second]


async def is_published(orders: Process, event_id: str) -> bool:
    """Whether an event is; tried again at once if RabbitMQ was away at that moment."""
    await ask(orders, "due")
    state = await ask(orders, "state")
    return bool(state[event_id][0] == "published")


async def test_the_documented_project(shop: Shop, amqp_url: str, tmp_path: Path) -> None:
    """The settings and the code of the documentation, with a database, are all that it takes."""
    settings = snippet("docs/outbox.rst", "outbox-settings")
    assert DOCUMENTED_URL in settings
    settings = settings.replace(DOCUMENTED_URL, amqp_url)
    (tmp_path / "site_settings.py").write_text(f"from shop.settings import *\n{settings}")
    place = "import django\ndjango.setup()\n" + snippet("docs/outbox.rst", "outbox-publish")
    shop.environment["DJANGO_SETTINGS_MODULE"] = "site_settings"
    shop.environment["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    worker = ["-m", "django", "outbox_worker", "--max-iterations", "1"]
    for arguments in (["-c", f"{place}\nplace_order(7)"], worker):
        with shop.python(*arguments) as process:
            ended = await process.end()
        assert (ended.code, ended.err) == (0, "")
    (message,) = await events(amqp_url, 1)
    assert json.loads(message.body)["data"] == {"number": 7}


async def test_registered_with_the_package(shop: Shop) -> None:
    """The publishers are in the order of the settings, whoever loads them."""
    shop.environment["WITH_REDIS"] = "yes"
    with shop.python("orders.py") as orders:
        found = await ask(orders, "backends")
        assert (await orders.end()).code == 0
    assert found == {
        "rabbitmq": "RabbitmqBackend",
        "redis": "RedisStreamBackend",
        "binary": "RabbitmqBackend",
    }


async def test_the_real_event(orders: Process, amqp_url: str) -> None:
    """The package's own model is published by hand, before, in and after a fork."""
    event_id = await ask(orders, "by_hand", number=1)
    found = await events(amqp_url, 3)
    assert {message.header.properties.message_id for message in found} == {event_id}


def test_importable_without_the_package() -> None:
    """The module needs neither the package nor its application."""
    require_import("import channels_rabbitmq.broadcaster", without="django_broadcaster")


def test_not_registered() -> None:
    """Without our application the package says what the pages quote."""
    code = (
        "import inspect, django; from django.conf import settings; "
        "settings.INSTALLED_APPS.remove('channels_rabbitmq'); django.setup(); "
        "from django_broadcaster import publishers; print(inspect.getsource(publishers))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
        env={
            **environment("postgres://nobody@nowhere/none", "amqp://127.0.0.1:1"),
            "DJANGO_SETTINGS_MODULE": "shop.settings",
        },
    )
    logged = "Unknown backend class: channels_rabbitmq.broadcaster.RabbitmqBackend"
    raised = "No valid backend found: "
    assert logged in done.stderr
    assert f"{raised}{{backend_name}}" in done.stdout
    for page in ("docs/outbox.rst", "docs/troubleshooting.rst"):
        text = read(page).astext().replace("\n", " ")
        assert logged in text
        assert f"{raised}None" in text


async def test_wrong_options_stop_the_start(shop: Shop) -> None:
    """A wrong option is said as the project starts, without the password."""
    shop.environment["AMQP_URL"] = "http://user:hunter2@127.0.0.1"
    with shop.python("manage.py", "check") as process:
        ended = await process.end()
    assert ended.code == 1
    assert "OUTBOX_PUBLISHERS['rabbitmq']: Option 'url' cannot be used" in ended.err
    assert "hunter2" not in ended.err
