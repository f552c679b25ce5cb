"""Jobs beside the layer: published and consumed over its connection, and by other clients."""

from __future__ import annotations

import asyncio
from typing import Any

import aiormq
import pytest

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import MessageReturned
from tests.helpers.pages import README, run, run_at, snippet
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
