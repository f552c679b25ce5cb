"""Jobs beside the layer: published and consumed over its connection, and by other clients."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import aiormq
import pytest

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import MessageReturned
from tests.helpers.pages import DOCUMENTED_URL, README, run, run_at, snippet
from tests.helpers.waiting import until


@pytest.mark.parametrize(
    ("page", "name"), [(README, "readme-jobs"), ("docs/jobs.rst", "jobs-publish")]
)
async def test_publishing_a_job(layer: RabbitmqChannelLayer, page: str, name: str) -> None:
    """The examples of publishing put one job into the queue."""
    order_thumbnail: Any = run(snippet(page, name))["order_thumbnail"]
    await order_thumbnail("a.png")
    connection = await layer.current_connection
    async with connection.acking_consumer("thumbnails") as jobs:
        async for job in jobs:
            assert b"a.png" in job
            break


async def test_a_worker_of_another_client(
    layer: RabbitmqChannelLayer, private_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's worker, with aiormq, does the jobs that its example publishes, each once."""
    work: Any = run_at(snippet(README, "readme-aiormq"), private_url)["work"]
    order_thumbnail: Any = run(snippet(README, "readme-jobs"))["order_thumbnail"]
    worker = asyncio.ensure_future(work())
    printed: list[str] = []

    def done() -> int:
        printed.extend(capsys.readouterr().out.splitlines())
        return len(printed)

    try:
        for name in ("a", "b", "c"):
            await order_thumbnail(f"{name}.png")
        await until(lambda: done() == 3)
        assert printed == [f"Make a thumbnail of {name}.png" for name in ("a", "b", "c")]
    finally:
        worker.cancel()
        await asyncio.wait({worker})


async def test_a_worker(layer: RabbitmqChannelLayer) -> None:
    """The example's worker does a job, tells the group, and outlives its connection."""
    namespace = run(snippet("docs/jobs.rst", "jobs-consume"))
    order_thumbnail: Any = run(snippet("docs/jobs.rst", "jobs-publish"))["order_thumbnail"]
    work: Any = namespace["work"]
    channel = await layer.new_channel()
    await layer.group_add("thumbnails", channel)
    worker = asyncio.ensure_future(work())
    try:
        await order_thumbnail("a.png")
        ready = {"type": "thumbnail.ready", "path": "a.png"}
        assert await asyncio.wait_for(layer.receive(channel), 10) == ready

        await (await layer.current_connection).close()
        await order_thumbnail("b.png")
        again, ready = ready, {"type": "thumbnail.ready", "path": "b.png"}
        told = await asyncio.wait_for(layer.receive(channel), 10)
        if told == again:  # closed ahead of its acknowledgement, so the job was done twice
            told = await asyncio.wait_for(layer.receive(channel), 10)
        assert told == ready
    finally:
        worker.cancel()
        await asyncio.wait({worker})


async def test_a_worker_for_another_client(layer: RabbitmqChannelLayer, private_url: str) -> None:
    """The example's worker does a job that was published with aiormq."""
    work: Any = run(snippet("docs/jobs.rst", "jobs-consume"))["work"]
    worker = asyncio.ensure_future(work())
    channel = await layer.new_channel()
    await layer.group_add("thumbnails", channel)
    try:
        async with await aiormq.connect(private_url) as other:
            publisher = await other.channel()
            await publisher.queue_declare("thumbnails", durable=True)
            await publisher.basic_publish(b'{"path": "a.png"}', routing_key="thumbnails")
        ready = {"type": "thumbnail.ready", "path": "a.png"}
        assert await asyncio.wait_for(layer.receive(channel), 10) == ready
    finally:
        worker.cancel()
        await asyncio.wait({worker})


async def test_jobs_side_by_side(layer: RabbitmqChannelLayer) -> None:
    """The example with deliveries works on several jobs at a time, and acknowledges each."""
    code = snippet("docs/jobs.rst", "jobs-deliveries")
    side_by_side: Any = run(f"import asyncio\n{code}")["work_side_by_side"]
    connection = await layer.current_connection
    await connection.queue_declare("thumbnails", durable=True)
    for number in range(20):
        await connection.publish(b"%d" % number, routing_key="thumbnails")
    begun: list[bytes] = []
    done: list[bytes] = []
    eight = asyncio.Event()

    async def do(job: bytes) -> None:
        begun.append(job)
        if len(begun) == 8:
            eight.set()
        await eight.wait()
        done.append(job)

    worker = asyncio.ensure_future(side_by_side(connection, do))
    try:
        await until(lambda: len(done) == 20)
    finally:
        worker.cancel()
        await asyncio.wait({worker})


async def test_job_for_no_queue(layer: RabbitmqChannelLayer) -> None:
    """Without a queue, a mandatory job is an error, and any other is confirmed and dropped."""
    connection = await layer.current_connection
    await connection.publish(b"job", routing_key="no such queue")
    with pytest.raises(MessageReturned):
        await connection.publish(b"job", routing_key="no such queue", mandatory=True)


# Retries


#: As documented, and as the tests have time for: in seconds.
DOCUMENTED_DELAYS = "DELAYS = (10, 60, 600)"
DELAYS = (0.1, 0.2, 0.3)


@pytest.fixture
def modules(
    layer: RabbitmqChannelLayer,
    private_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str], Any]]:
    """A function that imports a module of the documented package ``thumbnails``."""
    package = tmp_path / "thumbnails"
    package.mkdir()
    for module, name in (
        ("queues", "jobs-queues"),
        ("orders", "jobs-orders"),
        ("worker", "jobs-worker"),
        ("worker_aiormq", "jobs-worker-aiormq"),
    ):
        code = snippet("docs/jobs.rst", name).replace(DOCUMENTED_URL, private_url)
        if name == "jobs-queues":
            assert DOCUMENTED_DELAYS in code
            code = code.replace(DOCUMENTED_DELAYS, f"DELAYS = {DELAYS}")
        (package / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: importlib.import_module(f"thumbnails.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "thumbnails"]:
        del sys.modules[name]


@contextlib.asynccontextmanager
async def working(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Within it, a worker works."""
    worker = asyncio.ensure_future(work())
    try:
        yield
    finally:
        worker.cancel()
        await asyncio.wait({worker})
    assert worker.cancelled()


async def take(layer: RabbitmqChannelLayer, queue: str) -> bytes:
    """The next message of a queue."""
    connection = await layer.current_connection
    async with connection.acking_consumer(queue) as consumer:
        body, tag = await asyncio.wait_for(consumer.next_delivery(), 30)
        consumer.ack(tag)
        return body


async def left(url: str, queues: Iterable[str]) -> dict[str, int | None]:
    """How many jobs are ready in each queue."""
    async with await aiormq.connect(url) as connection:
        channel = await connection.channel()
        declared = {name: await channel.queue_declare(name, passive=True) for name in queues}
        return {name: answer.message_count for name, answer in declared.items()}


@pytest.mark.parametrize("worker", ["worker", "worker_aiormq"])
async def test_failed_jobs_come_again(
    layer: RabbitmqChannelLayer,
    modules: Callable[[str], Any],
    worker: str,
    private_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The documented workers try a job four times, after the delays, then keep it aside."""
    attempts: dict[str, list[float]] = {"good": [], "better": [], "bad": [], "last": []}

    async def make_thumbnail(path: str) -> None:
        attempts[path].append(time.monotonic())
        if path == "bad" or (path == "better" and len(attempts[path]) < 3):
            raise LookupError(path)

    module = modules(worker)
    monkeypatch.setattr(module, "make_thumbnail", make_thumbnail)
    for path in ("good", "better", "bad"):
        await modules("orders").order_thumbnail(path)
    async with working(module.work):
        failed = json.loads(await take(layer, "thumbnails.failed"))
        assert failed == {"path": "bad", "failures": 4}
        await until(lambda: len(attempts["better"]) == 3, timeout=30)
        # The worker has one job at a time: once this one comes, the others are acknowledged.
        await modules("orders").order_thumbnail("last")
        await until(lambda: attempts["last"], timeout=30)
    counts = {path: len(times) for path, times in attempts.items()}
    assert counts == {"good": 1, "better": 3, "bad": 4, "last": 1}
    queues = modules("queues").QUEUES.keys() - {"thumbnails"}
    assert await left(private_url, queues) == dict.fromkeys(queues, 0)
    waited = [after - before for before, after in itertools.pairwise(attempts["bad"])]
    assert all(wait >= delay for wait, delay in zip(waited, DELAYS, strict=True)), waited


@pytest.mark.parametrize("worker", ["worker", "worker_aiormq"])
async def test_what_is_no_job(
    layer: RabbitmqChannelLayer, modules: Callable[[str], Any], worker: str
) -> None:
    """What is no job of ours is kept aside at once, as it came."""
    connection = await layer.current_connection
    orders = modules("orders")
    await orders.declare(connection)
    nonsense = [b"{", b"[]", b"5", b"\xff", b'{"failures": "many"}']
    for body in nonsense:
        await orders.put(connection, "thumbnails", body)
    async with working(modules(worker).work):
        assert [await take(layer, "thumbnails.failed") for _ in nonsense] == nonsense


@pytest.mark.parametrize("worker", ["worker", "worker_aiormq"])
async def test_a_job_that_kills_its_worker(
    layer: RabbitmqChannelLayer,
    modules: Callable[[str], Any],
    worker: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RabbitMQ keeps a job aside that four workers died of."""
    deaths = 0

    async def make_thumbnail(path: str) -> None:
        died.set()
        await asyncio.Event().wait()

    module = modules(worker)
    monkeypatch.setattr(module, "make_thumbnail", make_thumbnail)
    await modules("orders").order_thumbnail("deadly")
    kept = asyncio.ensure_future(take(layer, "thumbnails.failed"))
    # No fifth one is begun: aiormq leaves a socket to the garbage if it is ended while connecting.
    for _ in range(4):
        died = asyncio.Event()
        async with working(module.work):
            dying = asyncio.ensure_future(died.wait())
            await asyncio.wait({dying, kept}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
            deaths += died.is_set()
            dying.cancel()
    assert json.loads(await asyncio.wait_for(kept, 30)) == {"path": "deadly"}
    assert deaths == 4


async def test_the_documented_stream(layer: RabbitmqChannelLayer) -> None:
    """The example reads all that was told, as often as somebody asks, and what comes."""
    example = run(snippet("docs/jobs.rst", "jobs-stream"))
    tell: Any = example["tell"]
    read: Any = example["read"]
    for line in (b"1", b"2", b"3"):
        await tell(line)
    for offset, expected in (("first", [b"1", b"2", b"3", b"4"]), (2, [b"3", b"4"])):
        got: list[bytes] = []

        async def show(line: bytes, got: list[bytes] = got) -> None:
            got.append(line)

        async with working(lambda show=show, offset=offset: read(show, offset)):
            if offset == "first":
                await tell(b"4")
            await until(lambda got=got, expected=expected: len(got) == len(expected))
            assert got == expected
