"""What the documentation shows on the broker: foreign AMQP clients, jobs, permissions."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
from typing import Any

import aiormq
import django.conf
import msgpack
import pika
import pytest
from channels.layers import channel_layers

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import ChannelClosedByServer, MessageReturned
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.pages import README, ROOT, run, snippet, snippets
from tests.helpers.rabbit import MakeLayer
from tests.helpers.support import until

DOCUMENTED_URL = "amqp://guest:guest@127.0.0.1"

LINE = {"type": "chat.line", "text": "Hello"}


@pytest.fixture
def url(broker: Broker, vhost: str) -> str:
    """A virtual host on a private broker: the examples have fixed names for what they make."""
    return f"{broker.url}/{vhost}"


@pytest.fixture
def layer(make_layer: MakeLayer, url: str, monkeypatch: pytest.MonkeyPatch) -> RabbitmqChannelLayer:
    """A layer that get_channel_layer() gives, too."""
    layer = make_layer(host=url, groups_exchange="groups")
    monkeypatch.setitem(channel_layers.backends, "default", layer)
    monkeypatch.setattr(
        django.conf.settings, "CHANNEL_LAYERS", {"default": {"BACKEND": "not used"}}
    )
    return layer


def run_here(code: str, url: str) -> dict[str, Any]:
    """Run a snippet against this test's virtual host; give what it defines."""
    assert DOCUMENTED_URL in code
    return run(code.replace(DOCUMENTED_URL, url))


# Foreign clients


@pytest.mark.parametrize(
    ("page", "name"), [(README, "readme-pika"), ("docs/wire-format.rst", "wire-format-group")]
)
async def test_another_client_sends_to_a_group(
    layer: RabbitmqChannelLayer, url: str, page: str, name: str
) -> None:
    """The example with pika reaches every member of the group."""
    first, second = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", first)
    await layer.group_add("room", second)
    await asyncio.to_thread(run_here, snippet(page, name), url)
    for channel in (first, second):
        assert await asyncio.wait_for(layer.receive(channel), 10) == LINE


async def test_another_client_answers_a_channel(layer: RabbitmqChannelLayer, url: str) -> None:
    """The example with pika reaches the one channel that it is for."""
    code = snippet("docs/wire-format.rst", "wire-format-channel")
    channel = await layer.new_channel()
    await layer.current_connection

    def send() -> None:
        answer = run(f"import msgpack\n{code}")["answer"]
        assert callable(answer)
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as other:
            answer(other.channel(), channel, "Hello")

    await asyncio.to_thread(send)
    assert await asyncio.wait_for(layer.receive(channel), 10) == LINE


def test_documented_bytes() -> None:
    """The bytes that the page shows are those of the message in its example."""
    page = (ROOT / "docs/wire-format.rst").read_text(encoding="utf-8")
    text = page.partition("::\n\n    83 ")[2].partition("\n\n")[0]
    body = bytes.fromhex("83" + "".join(text.split()))
    assert body == msgpack.packb({**LINE, "__asgi_group__": "room"})
    assert f"these {len(body)} bytes" in page


async def test_another_client_meets_a_full_process(make_layer: MakeLayer, url: str) -> None:
    """A process that stores no more answers a foreign publisher with a nack."""
    layer = make_layer(host=url, local_capacity=1, remote_capacity=1)
    channel = await layer.new_channel()
    await layer.current_connection
    body = msgpack.packb({**LINE, "__asgi_channel__": channel})
    async with await aiormq.connect(url) as other:
        publisher = await other.channel()

        async def publish_many() -> None:
            for _ in range(10):
                await publisher.basic_publish(body, routing_key=layer.queue_name)

        with pytest.raises(aiormq.exceptions.DeliveryError) as caught:
            await publish_many()
    assert isinstance(caught.value.frame, aiormq.spec.Basic.Nack)


async def test_another_client_sends_to_a_normal_channel(
    layer: RabbitmqChannelLayer, url: str
) -> None:
    """A normal channel's queue has the name that the page says."""
    name = f"thumbnails.{secrets.token_hex(4)}"
    await layer.send(name, {"type": "a"})
    assert await layer.receive(name) == {"type": "a"}
    async with await aiormq.connect(url) as other:
        publisher = await other.channel()
        body = msgpack.packb({**LINE, "__asgi_channel__": name})
        await publisher.basic_publish(body, routing_key=f"asgi.channel::{name}", mandatory=True)
    assert await asyncio.wait_for(layer.receive(name), 10) == LINE


async def test_another_client_listens(layer: RabbitmqChannelLayer, url: str) -> None:
    """A foreign client that binds a queue of its own receives what is sent to the group."""
    await layer.current_connection  # the exchange is there
    async with await aiormq.connect(url) as other:
        channel = await other.channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        await channel.queue_bind(queue, "groups", "room")
        await layer.group_send("room", LINE)
        # group_send() returned once RabbitMQ had the message in every queue.
        body = (await channel.basic_get(queue, no_ack=True)).body
        assert msgpack.unpackb(body) == {**LINE, "__asgi_group__": "room"}


# Jobs


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
    layer: RabbitmqChannelLayer, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's worker, with aiormq, does the jobs that its example publishes, each once."""
    work: Any = run_here(snippet(README, "readme-aiormq"), url)["work"]
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
        ready = {"type": "thumbnail.ready", "path": "b.png"}
        assert await asyncio.wait_for(layer.receive(channel), 10) == ready
    finally:
        worker.cancel()
        await asyncio.wait({worker})


async def test_a_worker_for_another_client(layer: RabbitmqChannelLayer, url: str) -> None:
    """The example's worker does a job that was published with aiormq."""
    work: Any = run(snippet("docs/jobs.rst", "jobs-consume"))["work"]
    worker = asyncio.ensure_future(work())
    channel = await layer.new_channel()
    await layer.group_add("thumbnails", channel)
    try:
        async with await aiormq.connect(url) as other:
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


# Errors, and sync code


async def test_documented_handlers(
    layer: RabbitmqChannelLayer, make_layer: MakeLayer, url: str
) -> None:
    """The examples of catching errors tell a full receiver from one that has the message."""
    answer: Any = run(snippet("docs/errors.rst", "errors-send"))["answer"]
    tell: Any = run(snippet(README, "readme-errors"))["tell"]
    full = make_layer(host=url, local_capacity=1, remote_capacity=1)
    channel = await full.new_channel()
    await full.current_connection
    replies = [await answer(layer, channel, LINE) for _ in range(10)]
    assert {reply.partition(".")[0] for reply in replies} == {
        "RabbitMQ has it",
        "The receiver stores no more",
    }
    assert await tell(layer, channel, LINE) is False
    assert await tell(layer, await layer.new_channel(), LINE) is True


async def test_documented_sync_code(layer: RabbitmqChannelLayer) -> None:
    """The README's function for plain code reaches the group from a thread."""
    tell_room: Any = run(snippet(README, "readme-sync"))["tell_room"]
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await asyncio.to_thread(tell_room, "Hello")
    assert await asyncio.wait_for(layer.receive(channel), 10) == LINE


# Permissions


@pytest.mark.slow
async def test_documented_permissions(broker: Broker, make_layer: MakeLayer) -> None:
    """The commands of the page give a user all that the layer needs, and not more."""
    name = f"chat-{secrets.token_hex(4)}"
    lines = snippet_of_commands()
    for line in lines:
        words = [word.replace("$PASSWORD", "secret") for word in shlex.split(line)]
        assert words.pop(0) == "rabbitmqctl"
        await rabbit.ctl(broker, *[name if word == "chat" else word for word in words])
    try:
        url = broker.url.replace("guest:guest", f"{name}:secret") + f"/{name}"
        layer, other = make_layer(host=url), make_layer(host=url)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await other.group_send("room", LINE)
        assert await layer.receive(channel) == LINE
        await other.send(channel, LINE)
        assert await layer.receive(channel) == LINE
        await other.send("normal", LINE)
        assert await layer.receive("normal") == LINE
        await layer.group_add("room", "normal")
        await other.group_send("room", LINE)
        assert await layer.receive("normal") == LINE
        assert await other.group_members("room") == sorted([channel, "normal"])
        await other.flush()
        with pytest.raises(ChannelClosedByServer, match="ACCESS_REFUSED"):
            await (await layer.current_connection).queue_declare("others")
        await layer.close()
        await other.close()
    finally:
        await rabbit.ctl(broker, "delete_vhost", name)
        await rabbit.ctl(broker, "delete_user", name)


def snippet_of_commands() -> list[str]:
    """The commands that the page on operations shows, each in one line."""
    commands = dict(snippets("docs/operations.rst", "shell"))["operations-permissions"]
    return commands.replace("\\\n", " ").splitlines()
