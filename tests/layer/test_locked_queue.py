"""A process whose queue's name stays locked after its connection was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pamqp.commands import Queue

from channels_rabbitmq.broker import earlier_queues, recovery, topology
from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotConnected
from tests.broker.fake_rabbit import FakeRabbit, running
from tests.helpers.waiting import until


class Locking(FakeRabbit):
    """A server that refuses to declare the queues in ``locked``."""

    def __init__(self) -> None:
        super().__init__()
        self.locked: set[str] = set()
        self.code = 405
        self.refuse = self._refuse

    def _refuse(self, method: Any) -> tuple[int, str] | None:
        if isinstance(method, Queue.Declare) and method.queue in self.locked:
            return self.code, "RESOURCE_LOCKED - cannot obtain exclusive access"
        return None

    def declared(self, queue_name: str) -> int:
        """How often a queue was declared."""
        return sum(declare.queue == queue_name for declare in self.seen(Queue.Declare))


@pytest.fixture
def rabbit(monkeypatch: pytest.MonkeyPatch) -> Locking:
    """The server; delays are short."""
    monkeypatch.setattr(recovery, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(topology, "_LOCKED_RETRY", (0.01, 0.01))
    monkeypatch.setattr(topology, "_LOCKED_PATIENCE", 0.1)
    monkeypatch.setattr(earlier_queues, "_LOOK", (0.01, 0.02))
    return Locking()


@pytest.fixture
async def port(rabbit: Locking) -> AsyncIterator[int]:
    """The port of the running server."""
    async with running(rabbit) as number:
        yield number


@pytest.fixture
async def layer(port: int) -> AsyncIterator[RabbitmqChannelLayer]:
    """A layer on it."""
    made = RabbitmqChannelLayer(f"amqp://guest:guest@127.0.0.1:{port}?heartbeat=0", expiry=0.2)
    yield made
    await made.close()


async def lose(rabbit: Locking, layer: RabbitmqChannelLayer) -> tuple[str, str]:
    """Lose the connection, and the name with it; give that and the new one."""
    first = layer.queue_name
    rabbit.locked.add(first)
    rabbit.cut()
    await until(lambda: layer.queue_name != first)
    await layer.current_connection
    return first, layer.queue_name


async def test_groups_go_on_on_another_queue(
    rabbit: Locking, layer: RabbitmqChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """While the name is locked, groups and new channels are served; names stay valid."""
    caplog.set_level(logging.INFO)
    old = await layer.new_channel()
    await layer.group_add("room", old)
    first, second = await lose(rabbit, layer)
    await until(lambda: rabbit.bound() == {"room": [second]})
    await layer.group_send("room", {"type": "to the room"})
    assert await layer.receive(old) == {"type": "to the room"}
    new = await layer.new_channel()
    assert new.startswith(f"{second}!")
    await layer.send(new, {"type": "to the new one"})
    assert await layer.receive(new) == {"type": "to the new one"}
    await layer.group_add("other", old)
    assert rabbit.bound() == {"room": [second], "other": [second]}
    assert f"RabbitMQ keeps queue {first} locked; using {second} too" in caplog.text
    # It is free again: what is sent to the old name arrives, and groups stay where they are.
    rabbit.locked.clear()
    await layer.send(old, {"type": "to the old one"})
    assert await layer.receive(old) == {"type": "to the old one"}
    assert f"RabbitMQ released queue {first}" in caplog.text
    assert rabbit.bound() == {"room": [second], "other": [second]}
    assert await layer.group_members("room", timeout=0.01) == [old]
    await layer.group_discard("other", old)
    await until(lambda: rabbit.bound() == {"room": [second]})


async def test_earlier_name_while_starting(
    rabbit: Locking, layer: RabbitmqChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent to an earlier name waits until its queue is back; it was lost once."""
    old = await layer.new_channel()
    await layer.group_add("room", old)
    first, second = await lose(rabbit, layer)
    rabbit.locked.clear()
    await layer.send(old, {"type": "before"})
    assert await layer.receive(old) == {"type": "before"}
    monkeypatch.setattr(topology, "_LOCKED_PATIENCE", 60.0)
    rabbit.locked.add(second)
    declared = rabbit.declared(second)
    rabbit.cut()
    await until(lambda: rabbit.declared(second) > declared)
    sending = asyncio.create_task(layer.send(old, {"type": "meanwhile"}))
    await layer.send("channels_nobody!x", {})  # goes out after all that was sent before
    assert first not in rabbit.queues
    rabbit.locked.clear()
    await sending
    async with asyncio.timeout(5):
        assert await layer.receive(old) == {"type": "meanwhile"}


async def test_one_queue_again(rabbit: Locking, layer: RabbitmqChannelLayer) -> None:
    """The queue of an earlier name goes when no channel of it is used, and comes back if one is."""
    old = await layer.new_channel()
    receiving = asyncio.create_task(layer.receive(old))
    await layer.current_connection
    first, second = await lose(rabbit, layer)
    connection = await layer.current_connection
    rabbit.locked.clear()
    await layer.send(old, {"type": "a"})
    assert await receiving == {"type": "a"}
    await until(lambda: list(rabbit.queues) == [second])
    declared = rabbit.declared(first)
    receiving = asyncio.create_task(layer.receive(old))
    await until(lambda: first in rabbit.queues and rabbit.queues[first].consumer is not None)
    await layer.send(old, {"type": "b"})
    assert await receiving == {"type": "b"}
    assert rabbit.declared(first) > declared
    assert await layer.current_connection is connection


async def test_earlier_queue_on_the_next_connection(
    rabbit: Locking, layer: RabbitmqChannelLayer
) -> None:
    """After another reconnection both queues are declared and consumed, while both are in use."""
    old = await layer.new_channel()
    await layer.group_add("room", old)
    first, second = await lose(rabbit, layer)
    rabbit.locked.clear()
    await until(lambda: set(rabbit.queues) == {first, second})
    rabbit.cut()
    await until(lambda: set(rabbit.queues) == {first, second})
    assert layer.queue_name == second
    await layer.send(old, {"type": "direct"})
    assert await layer.receive(old) == {"type": "direct"}


async def test_earlier_queue_that_is_lost(rabbit: Locking, layer: RabbitmqChannelLayer) -> None:
    """A queue of an earlier name that RabbitMQ lost without a word is made again."""
    old = await layer.new_channel()
    await layer.group_add("room", old)
    first, _ = await lose(rabbit, layer)
    rabbit.locked.clear()
    await until(lambda: first in rabbit.queues and rabbit.queues[first].consumer is not None)
    del rabbit.queues[first]
    await until(lambda: first in rabbit.queues and rabbit.queues[first].consumer is not None)


async def test_earlier_queue_that_is_refused(
    rabbit: Locking, layer: RabbitmqChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever RabbitMQ says to its declaration, it is tried again, and costs nothing else."""
    old = await layer.new_channel()
    await layer.group_add("room", old)
    first, second = await lose(rabbit, layer)
    connection = await layer.current_connection
    rabbit.code = 404
    declared = rabbit.declared(first)
    await until(lambda: rabbit.declared(first) > declared + 2)
    rabbit.locked.clear()
    await until(lambda: set(rabbit.queues) == {first, second})
    assert await layer.current_connection is connection
    assert "A bug in" not in caplog.text


async def test_sending_to_a_name_that_stays_locked(rabbit: Locking, port: int) -> None:
    """A message of the process's own would be lost in that queue: ``send()`` waits, and says so."""
    url = f"amqp://guest:guest@127.0.0.1:{port}?heartbeat=0"
    layer = RabbitmqChannelLayer(url, send_timeout=0.2)
    try:
        old = await layer.new_channel()
        await layer.group_add("room", old)
        first, _ = await lose(rabbit, layer)
        with pytest.raises(NotConnected, match=f"did not release queue {first} within"):
            await layer.send(old, {"type": "direct"})
    finally:
        await layer.close()


async def test_publishing_does_not_wait_for_the_name(
    rabbit: Locking, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the name is locked others are sent to; what is for its own queue waits for that."""
    monkeypatch.setattr(topology, "_LOCKED_PATIENCE", 60.0)
    url = f"amqp://guest:guest@127.0.0.1:{port}?heartbeat=0"
    layer, other = RabbitmqChannelLayer(url), RabbitmqChannelLayer(url)
    try:
        mine, theirs = await layer.new_channel(), await other.new_channel()
        await layer.group_add("room", mine)
        await other.group_add("room", theirs)
        rabbit.locked.add(layer.queue_name)
        await until(lambda: len(rabbit.links) == 2)
        rabbit.links[0].peer.writer.transport.abort()
        declared = rabbit.declared(layer.queue_name)
        await until(lambda: rabbit.declared(layer.queue_name) > declared)
        own = asyncio.create_task(layer.send(mine, {"type": "own"}))
        await layer.send(theirs, {"type": "direct"})
        await layer.group_send("room", {"type": "group"})
        assert await other.receive(theirs) == {"type": "direct"}
        assert await other.receive(theirs) == {"type": "group"}
        assert not own.done()
        rabbit.locked.clear()
        await own
        assert await layer.receive(mine) == {"type": "own"}
    finally:
        await layer.close()
        await other.close()


async def test_lock_of_less_than_a_second(
    rabbit: Locking, layer: RabbitmqChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ needs a moment to see that a connection is lost: no second queue for that."""
    monkeypatch.undo()
    first = layer.queue_name
    await layer.current_connection
    rabbit.locked.add(first)
    rabbit.cut()
    declared = rabbit.declared(first)
    await until(lambda: rabbit.declared(first) >= declared + 4)
    rabbit.locked.clear()
    await until(lambda: first in rabbit.queues)
    assert layer.queue_name == first
    assert {declare.queue for declare in rabbit.seen(Queue.Declare)} == {first}
