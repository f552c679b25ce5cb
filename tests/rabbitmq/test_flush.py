"""``flush()``: everything is empty afterwards, in every process."""

from __future__ import annotations

import asyncio
import time

import pytest

from channels_rabbitmq.errors import NotAnswered
from tests.helpers.processes import running
from tests.helpers.rabbit import MakeLayer

pytestmark = pytest.mark.slow


#: A process with a member of a group, a message that nobody has read, and a waiting receive().
PROCESS = """
async def main():
    member, unread, waiting = [await layer.new_channel() for _ in range(3)]
    await layer.group_add("g", member)
    await layer.send(unread, {"n": 1})
    await layer.send("jobs.process", {"n": 1})
    receiving = asyncio.create_task(layer.receive(waiting))
    tell([member, unread, waiting])
    await hear()  # that it was flushed
    await layer.send(unread, {"n": 2})
    await layer.send(member, {"n": 3})
    await layer.send(waiting, {"n": 4})
    tell([await layer.receive(unread), await layer.receive(member), await receiving])
    await layer.group_add("g", member)
    await layer.group_send("g", {"n": 5})
    tell(await layer.receive(member))
    await layer.close()
"""


async def test_own_process(make_layer: MakeLayer) -> None:
    """Unread messages and memberships are gone, in memory and on RabbitMQ."""
    layer = make_layer(local_capacity=2)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    for _ in range(10):
        await layer.send(channel, {"n": 1})
    await layer.send("jobs", {"n": 1})
    await layer.flush()
    assert await layer.group_members("g") == []
    await layer.group_send("g", {"n": 2})
    await layer.send(channel, {"n": 3})
    await layer.send("jobs", {"n": 4})
    assert await layer.receive(channel) == {"n": 3}
    assert await layer.receive("jobs") == {"n": 4}
    assert await layer.receive_many([channel, "jobs"]) == (None, None)
    await layer.group_add("g", channel)
    await layer.group_send("g", {"n": 5})
    assert await layer.receive(channel) == {"n": 5}


async def test_real_processes(amqp_url: str, make_layer: MakeLayer) -> None:
    """The others are flushed too, with the normal channels that they used, and go on."""
    layer = make_layer()
    await layer.current_connection
    with running(PROCESS, host=amqp_url) as first, running(PROCESS, host=amqp_url) as second:
        for process in (first, second):
            await process.hear()
        assert len(await layer.group_members("g")) == 2
        await layer.flush()
        assert await layer.group_members("g") == []
        assert await layer.receive_many(["jobs.process"]) == (None, None)
        for process in (first, second):
            process.tell("flushed")
            assert await process.hear() == [{"n": 2}, {"n": 3}, {"n": 4}]
            assert await process.hear() == {"n": 5}
            await process.end_well()


async def test_the_first_thing_that_a_process_does(make_layer: MakeLayer) -> None:
    """A new process may flush at once, as test suites do."""
    old = make_layer()
    channel = await old.new_channel()
    await old.group_add("g", channel)
    await make_layer().flush()
    assert await old.group_members("g") == []


async def test_at_the_same_time(make_layer: MakeLayer) -> None:
    """Processes that flush at once all return."""
    layers = [make_layer() for _ in range(4)]
    for layer in layers:
        await layer.group_add("g", await layer.new_channel())
    await asyncio.gather(*(layer.flush() for layer in layers))
    assert await layers[0].group_members("g") == []


async def test_a_process_that_does_not_answer(make_layer: MakeLayer) -> None:
    """It is an error, after send_timeout."""
    stuck, layer = make_layer(local_capacity=1), make_layer(send_timeout=1)
    channel = await stuck.new_channel()
    await stuck.current_connection
    assert await layer.group_members("g") == []
    for _ in range(3):
        await layer.send(channel, {})
    started = time.monotonic()
    with pytest.raises(NotAnswered, match="1 process did not flush"):
        await layer.flush()
    assert 0.5 < time.monotonic() - started < 3


async def test_a_full_process(make_layer: MakeLayer) -> None:
    """One that has no room for the message is told of, too."""
    stuck, layer = (
        make_layer(local_capacity=1, remote_capacity=1),
        make_layer(send_timeout=1),
    )
    channel = await stuck.new_channel()
    await stuck.current_connection
    for _ in range(2):
        await layer.send(channel, {})
    with pytest.raises(NotAnswered, match="no room"):
        await layer.flush()


async def test_groups_of_normal_channels(make_layer: MakeLayer) -> None:
    """They are emptied as well."""
    first, second = make_layer(), make_layer()
    await first.group_add("g", "jobs")
    await second.flush()
    await second.group_send("g", {"n": 1})
    assert await first.receive_many(["jobs"]) == (None, None)
    assert await first.group_members("g") == []


async def test_extensions(make_layer: MakeLayer) -> None:
    """It is announced."""
    assert make_layer().extensions == ["groups", "flush"]
