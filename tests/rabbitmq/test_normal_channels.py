"""Normal channels: durable queues that any process sends to and any one receives from."""

from __future__ import annotations

import asyncio
import logging

import msgpack
import pytest
from channels.exceptions import ChannelFull, StopConsumer

from channels_rabbitmq.broker.normal_queues import queue_name
from channels_rabbitmq.errors import ChannelClosedByServer, NotConnected
from devtools.broker import Broker
from tests.helpers.processes import running
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


#: A worker that tells each message it receives, and goes on for ever.
WORKER = """
async def main():
    await layer.current_connection
    tell("ready")
    while True:
        tell(await layer.receive("jobs"))
"""


def queues(broker: Broker, vhost: str) -> dict[str, dict[str, object]]:
    """The queues of a virtual host by name, with what the management interface knows of each."""
    found = broker.api("GET", f"queues/{vhost}")
    assert isinstance(found, list)
    return {queue["name"]: queue for queue in found}


async def test_a_message_waits_for_a_reader(make_layer: MakeLayer) -> None:
    """What is sent before anybody receives is there later, in order, and once."""
    sender, worker = make_layer(), make_layer()
    for n in range(10):
        await sender.send("jobs", {"n": n})
    assert [(await worker.receive("jobs"))["n"] for _ in range(10)] == list(range(10))
    assert await worker.receive_many(["jobs"]) == (None, None)


async def test_a_reader_waits_for_a_message(make_layer: MakeLayer) -> None:
    """A receive() that came first gets the message at once."""
    sender, worker = make_layer(), make_layer()
    receiving = asyncio.create_task(worker.receive("jobs"))
    await worker.current_connection
    await sender.send("jobs", {"type": "job", "data": b"\x00"})
    assert await asyncio.wait_for(receiving, 5) == {"type": "job", "data": b"\x00"}


async def test_the_queue(make_layer: MakeLayer, broker: Broker, vhost: str) -> None:
    """It is a durable classic queue of a name that is nobody else's, with limits."""
    layer = make_layer(expiry=30, capacity=7)
    await layer.send("jobs", {})
    queue = queues(broker, vhost)["asgi.channel::jobs"]
    assert queue["durable"]
    assert queue["type"] == "classic"
    assert queue["arguments"] == {
        "x-message-ttl": 30000,
        "x-max-length": 7,
        "x-overflow": "reject-publish",
        "x-queue-type": "classic",
        "x-expires": 61000,
    }


async def test_capacity(make_layer: MakeLayer) -> None:
    """A full channel raises ChannelFull, each according to its own capacity."""
    layer = make_layer(capacity=3, channel_capacity={"small*": 1})
    for _ in range(3):
        await layer.send("jobs", {})
    with pytest.raises(ChannelFull):
        await layer.send("jobs", {})
    await layer.send("small.jobs", {})
    with pytest.raises(ChannelFull) as raised:
        await layer.send("small.jobs", {})
    assert not isinstance(raised.value, NotConnected)
    await layer.receive("small.jobs")
    await layer.send("small.jobs", {})


async def test_expiry(make_layer: MakeLayer) -> None:
    """A message that nobody received in time is gone, and not before."""
    layer = make_layer(expiry=0.5)
    loop = asyncio.get_running_loop()
    sent = loop.time()
    await layer.send("jobs", {"n": 1})
    await layer.send("later", {"n": 2})
    assert await layer.receive("later") == {"n": 2}
    await asyncio.sleep(sent + 0.7 - loop.time())
    assert await layer.receive_many(["jobs"]) == (None, None)


async def test_an_idle_queue_vanishes(make_layer: MakeLayer, broker: Broker, vhost: str) -> None:
    """A channel that nobody uses any more leaves nothing on RabbitMQ."""
    layer = make_layer(expiry=0.2)
    await layer.send("jobs", {})
    assert "asgi.channel::jobs" in queues(broker, vhost)
    await until(lambda: "asgi.channel::jobs" not in queues(broker, vhost))


async def test_a_queue_that_vanished_under_its_sender(make_layer: MakeLayer) -> None:
    """The message that came back is sent once more, to a new queue."""
    sender, worker = make_layer(), make_layer()
    await sender.send("jobs", {"n": 1})
    connection = await worker.current_connection
    protocol = connection.protocol  # type: ignore[union-attr]
    import pamqp.commands

    deleter = protocol.open_channel()
    await deleter.call(pamqp.commands.Queue.Delete(queue=queue_name("", "jobs")))
    await sender.send("jobs", {"n": 2})
    assert await worker.receive("jobs") == {"n": 2}


async def test_a_steady_sender_keeps_the_queue(make_layer: MakeLayer) -> None:
    """Publishing alone would let the queue expire; no message goes before its time."""
    layer = make_layer(expiry=1)
    loop = asyncio.get_running_loop()
    start = loop.time()
    last = 0
    while loop.time() - start < 4:  # the idle expiry is 3 s
        last += 1
        await layer.send("jobs", {"n": last})
        await asyncio.sleep(0.05)
    received = []
    while (found := await layer.receive_many(["jobs"]))[1] is not None:
        received.append(found[1]["n"])
    # All from the last second, but for what the test took itself.
    assert received == list(range(received[0], last + 1))
    assert len(received) >= 10


async def test_a_queue_deleted_under_its_reader(make_layer: MakeLayer) -> None:
    """receive() goes on with a new queue."""
    worker, sender = make_layer(), make_layer()
    receiving = asyncio.create_task(worker.receive("jobs"))
    connection = await sender.current_connection
    import pamqp.commands

    protocol = connection.protocol  # type: ignore[union-attr]
    queue = queue_name("", "jobs")

    async def deleted() -> bool:
        reply = await protocol.open_channel().call(pamqp.commands.Queue.Declare(queue=queue))
        assert isinstance(reply, pamqp.commands.Queue.DeclareOk)
        return True

    await sender.send("jobs", {"n": 1})
    assert await asyncio.wait_for(receiving, 5) == {"n": 1}
    receiving = asyncio.create_task(worker.receive("jobs"))
    await asyncio.sleep(0.1)  # let it consume; were it later, the test would be weaker, not wrong
    await protocol.open_channel().call(pamqp.commands.Queue.Delete(queue=queue))
    await sender.send("jobs", {"n": 2})
    assert await asyncio.wait_for(receiving, 5) == {"n": 2}


async def test_workers_share(make_layer: MakeLayer) -> None:
    """Several processes' readers get each message once, and all take part."""
    sender = make_layer(capacity=1000)
    workers = [make_layer(capacity=1000) for _ in range(3)]
    received: list[list[object]] = [[] for _ in workers]

    async def work(index: int) -> None:
        while True:
            received[index].append((await workers[index].receive("jobs"))["n"])

    tasks = [asyncio.create_task(work(index)) for index in range(3)]
    await asyncio.gather(*(sender.send("jobs", {"n": n}) for n in range(300)))
    await until(lambda: sum(map(len, received)) >= 300)
    for task in tasks:
        task.cancel()
    assert sorted(n for part in received for n in part) == list(range(300))  # type: ignore[type-var]
    assert all(received)


async def test_nothing_is_fetched_in_advance(make_layer: MakeLayer) -> None:
    """A worker that is busy with one message leaves the rest to others."""
    sender, busy, free = make_layer(), make_layer(), make_layer()
    for n in range(5):
        await sender.send("jobs", {"n": n})
    assert await busy.receive("jobs") == {"n": 0}
    assert [(await free.receive("jobs"))["n"] for _ in range(4)] == [1, 2, 3, 4]


async def test_cancelled_readers_lose_nothing(make_layer: MakeLayer) -> None:
    """Whenever a receive() is cancelled, the next one gets the message."""
    layer, sender = make_layer(), make_layer()
    received = []
    for n in range(50):
        await sender.send("jobs", {"n": n})
        for turns in (n % 7, n % 5):
            task = asyncio.create_task(layer.receive("jobs"))
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            task.cancel()
            try:
                received.append((await task)["n"])
            except asyncio.CancelledError:
                continue
        while (found := await layer.receive_many(["jobs"]))[1] is not None:
            received.append(found[1]["n"])
    assert received == list(range(50))


async def test_close_gives_back(make_layer: MakeLayer) -> None:
    """A message that came for a reader who had gone is not lost when the layer is closed."""
    sender, first, second = make_layer(), make_layer(), make_layer()
    await sender.send("jobs", {"n": 1})
    hub_task = asyncio.create_task(first.receive("jobs"))
    # Once the message is held, and before the task runs again, the task is cancelled.
    boxes = first._owner._local.normal
    await until(lambda: bool(boxes.box("jobs").queue), step=0)
    hub_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hub_task
    assert await second.receive_many(["jobs"]) == (None, None)
    await first.close()
    assert await asyncio.wait_for(second.receive("jobs"), 5) == {"n": 1}


async def test_close_ends_readers(make_layer: MakeLayer) -> None:
    """receive() raises StopConsumer once the layer is closed, and from then on."""
    layer = make_layer()
    receiving = asyncio.create_task(layer.receive("jobs"))
    await layer.current_connection
    await layer.close()
    with pytest.raises(StopConsumer):
        await receiving
    with pytest.raises(StopConsumer):
        await layer.receive("jobs")


async def test_a_killed_worker(amqp_url: str, make_layer: MakeLayer) -> None:
    """A worker that is killed costs at most the message in its hands; none comes twice."""
    sender = make_layer(capacity=1000)
    seen: list[int] = []
    with running(WORKER, host=amqp_url, capacity=1000) as first:
        assert await first.hear() == "ready"
        sending = asyncio.create_task(send_all(sender, 300))
        while len(seen) < 100:
            seen.append((await first.hear())["n"])
        first.kill()
        while True:
            try:
                seen.append((await first.hear())["n"])
            except (AssertionError, ValueError):
                break
    with running(WORKER, host=amqp_url, capacity=1000) as second:
        assert await second.hear() == "ready"
        await sending
        await sender.send("jobs", {"n": -1})
        while (n := (await second.hear())["n"]) != -1:
            seen.append(n)
    assert len(seen) == len(set(seen))
    # What it had received and not told yet, it may have lost too: it is told one by one.
    assert len(set(range(300)) - set(seen)) <= 2


async def send_all(layer: object, count: int) -> None:
    """Send numbered messages, giving others a turn after each."""
    for n in range(count):
        await layer.send("jobs", {"n": n})  # type: ignore[attr-defined]
        await asyncio.sleep(0)


async def test_a_cut_connection(make_layer: MakeLayer) -> None:
    """receive() and send() go on after it, and no message comes twice."""
    sender, worker = make_layer(capacity=1000), make_layer(capacity=1000)
    received: list[object] = []

    async def work() -> None:
        while True:
            received.append((await worker.receive("jobs"))["n"])

    working = asyncio.create_task(work())
    for n in range(100):
        await sender.send("jobs", {"n": n})
        if n == 50:
            connection = await worker.current_connection
            connection.protocol.abort()  # type: ignore[union-attr]
    await until(lambda: received and received[-1] == 99)
    working.cancel()
    assert len(received) == len(set(received)) >= 99
    assert received == sorted(received)  # type: ignore[type-var]


async def test_quorum_queue(make_layer: MakeLayer) -> None:
    """With a quorum queue, order, groups, capacity and expiry are as with a classic one."""
    layer = make_layer(normal_queue_type="quorum", capacity=5, expiry=1)
    for n in range(5):
        await layer.send("jobs", {"n": n})
    assert [(await layer.receive("jobs"))["n"] for _ in range(5)] == list(range(5))
    await layer.group_add("room", "jobs")
    await layer.group_send("room", {"n": 5})
    assert await layer.receive("jobs") == {"n": 5}

    async def fill() -> None:
        for n in range(500):  # RabbitMQ counts them approximately
            await layer.send("jobs", {"n": n})

    with pytest.raises(ChannelFull):
        await fill()
    await asyncio.sleep(1.2)
    await layer.send("jobs", {"n": "after all have expired"})
    assert await layer.receive("jobs") == {"n": "after all have expired"}


async def test_other_arguments(make_layer: MakeLayer, caplog: pytest.LogCaptureFixture) -> None:
    """A queue that is there with other arguments is used as it is, and told about once."""
    first, second = make_layer(capacity=2, expiry=30), make_layer(capacity=50, expiry=0.6)
    await first.send("jobs", {"n": 1})
    own = await second.new_channel()
    with caplog.at_level(logging.WARNING):
        await second.send("jobs", {"n": 2})
        with pytest.raises(ChannelFull):
            await second.send("jobs", {"n": 3})
        await asyncio.sleep(0.4)  # past the renewal
        with pytest.raises(ChannelFull):
            await second.send("jobs", {"n": 3})
    assert caplog.text.count("has other arguments") == 1
    assert await second.receive("jobs") == {"n": 1}
    await second.send(own, {"n": 4})
    assert await second.receive(own) == {"n": 4}


async def test_bad_bytes(make_layer: MakeLayer, caplog: pytest.LogCaptureFixture) -> None:
    """What is no message, or one for another channel, is dropped, and the reader goes on."""
    layer = make_layer()
    await layer.send("jobs", {"n": 1})
    connection = await layer.current_connection
    queue = queue_name("", "jobs")
    for body in (b"\xc1", b"text", msgpack.packb({"__asgi_channel__": "other"})):
        await connection.publish(body, routing_key=queue)
    await layer.send("jobs", {"n": 2})
    assert await layer.receive("jobs") == {"n": 1}
    with caplog.at_level(logging.WARNING):
        assert await asyncio.wait_for(layer.receive("jobs"), 5) == {"n": 2}
    assert "no message" in caplog.text


async def test_apart_from_the_own_queue(make_layer: MakeLayer) -> None:
    """Channels of the process that nobody reads do not keep normal ones waiting."""
    layer = make_layer(local_capacity=2, remote_capacity=2)
    own = await layer.new_channel()
    for _ in range(4):
        await layer.send(own, {})
    for n in range(20):
        await layer.send("jobs", {"n": n})
        assert await asyncio.wait_for(layer.receive("jobs"), 5) == {"n": n}


async def test_a_forged_name_is_no_hijack(make_layer: MakeLayer) -> None:
    """A body on the process's own queue that names a normal channel changes nothing for it."""
    layer = make_layer()
    connection = await layer.current_connection
    body = msgpack.packb({"forged": True, "__asgi_channel__": "jobs"})
    await connection.publish(body, routing_key=layer.queue_name)
    await layer.send("jobs", {"n": 1})
    assert await asyncio.wait_for(layer.receive("jobs"), 5) == {"n": 1}


async def test_quiet_channels_are_served(make_layer: MakeLayer) -> None:
    """A worker on many channels gets a message of a quiet one while another is busy."""
    sender, worker = make_layer(capacity=1000), make_layer(capacity=1000)
    names = [f"jobs.{n}" for n in range(20)]
    order: list[str] = []

    async def listen(name: str) -> None:
        while True:
            await worker.receive(name)
            order.append(name)

    for _ in range(500):
        await sender.send("jobs.0", {})
    tasks = [asyncio.create_task(listen(name)) for name in names]
    await sender.send("jobs.19", {})
    await until(lambda: "jobs.19" in order)
    assert len(order) < 450
    for task in tasks:
        task.cancel()


async def test_refused_by_permissions(broker: Broker, vhost: str, make_layer: MakeLayer) -> None:
    """A user who may not make the queue gets RabbitMQ's refusal, and everything else works."""
    broker.api("PUT", "users/limited", {"password": "limited", "tags": ""})
    broker.api(
        "PUT",
        f"permissions/{vhost}/limited",
        {"configure": "^(channels_|groups)", "write": ".*", "read": ".*"},
    )
    try:
        layer = make_layer(host=f"amqp://limited:limited@127.0.0.1:{broker.plain_port}/{vhost}")
        with pytest.raises(ChannelClosedByServer):
            await layer.send("jobs", {})
        with pytest.raises(ChannelClosedByServer):
            await asyncio.wait_for(layer.receive("jobs"), 5)
        own = await layer.new_channel()
        await layer.send(own, {"n": 1})
        assert await layer.receive(own) == {"n": 1}
    finally:
        broker.api("DELETE", "users/limited")


class TestGroups:
    """Normal channels in groups: their queues are bound to the exchange."""

    async def test_member(self, make_layer: MakeLayer) -> None:
        """A message to the group reaches the channel once, whoever receives."""
        first, second = make_layer(), make_layer()
        await first.group_add("g", "jobs")
        await second.group_add("g", "jobs")
        await second.group_send("g", {"n": 1})
        assert await second.receive("jobs") == {"n": 1}
        assert await first.receive_many(["jobs"]) == (None, None)
        assert await first.group_members("g") == ["jobs"]

    async def test_discard_by_another_process(self, make_layer: MakeLayer) -> None:
        """Any process may take it out."""
        first, second = make_layer(), make_layer()
        await first.group_add("g", "jobs")
        await second.group_discard("g", "jobs")
        await second.group_send("g", {"n": 1})
        assert await first.receive_many(["jobs"]) == (None, None)

    async def test_idle_members_stay(self, make_layer: MakeLayer) -> None:
        """While the process that added it lives, the membership outlives the idle expiry."""
        first, second = make_layer(expiry=0.3), make_layer(expiry=0.3)
        await first.group_add("g", "jobs")
        await asyncio.sleep(2.5)  # the idle expiry is 1.6 s
        await second.group_send("g", {"n": 1})
        assert await second.receive_many(["jobs"]) == ("jobs", {"n": 1})

    async def test_reconnection(self, make_layer: MakeLayer) -> None:
        """The membership is bound again, also after the queue went."""
        layer = make_layer()
        await layer.group_add("g", "jobs")
        connection = await layer.current_connection
        connection.protocol.abort()  # type: ignore[union-attr]
        await until(lambda: connection.protocol.closed.done())  # type: ignore[union-attr]
        await layer.current_connection
        await layer.group_send("g", {"n": 1})
        assert await asyncio.wait_for(layer.receive("jobs"), 5) == {"n": 1}
