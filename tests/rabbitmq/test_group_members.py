"""``group_members()``: who is in a group, over all processes."""

from __future__ import annotations

import asyncio
import time

import msgpack
import pytest

from tests.helpers.processes import running
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


#: A process with three members of a group, whose names it tells.
MEMBERS = """
async def main():
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("g", channel)
    tell(channels)
    while True:
        await hear()
"""


async def test_alone(make_layer: MakeLayer) -> None:
    """A process that is alone answers for itself, well within the timeout."""
    layer = make_layer()
    channels = [await layer.new_channel() for _ in range(3)]
    assert await layer.group_members("g") == []
    for channel in channels:
        await layer.group_add("g", channel)
    started = time.monotonic()
    assert await layer.group_members("g", timeout=10) == sorted(channels)
    assert time.monotonic() - started < 1
    await layer.group_discard("g", channels[0])
    assert await layer.group_members("g") == sorted(channels[1:])


async def test_real_processes(amqp_url: str, make_layer: MakeLayer) -> None:
    """Processes that come are counted at once, and those that are killed no more."""
    layer = make_layer()
    own = await layer.new_channel()
    await layer.group_add("g", own)
    assert await layer.group_members("g") == [own]
    with running(MEMBERS, host=amqp_url) as first, running(MEMBERS, host=amqp_url) as second:
        one, two = await first.hear(), await second.hear()
        assert isinstance(one, list)
        assert isinstance(two, list)
        assert await layer.group_members("g") == sorted([own, *one, *two])
        first.kill()

        async def noticed() -> bool:
            return await layer.group_members("g") == sorted([own, *two])

        await until(noticed)
        started = time.monotonic()
        assert await layer.group_members("g", timeout=10) == sorted([own, *two])
        assert time.monotonic() - started < 1


async def test_those_who_were_there_before(make_layer: MakeLayer) -> None:
    """The first question of a new process finds all that were there before it."""
    old = [make_layer() for _ in range(5)]
    channels = []
    for layer in old:
        channels.append(await layer.new_channel())
        await layer.group_add("g", channels[-1])
    assert await make_layer().group_members("g") == sorted(channels)


async def test_a_process_that_does_not_answer(make_layer: MakeLayer) -> None:
    """The call lasts as long as it was told, and gives what it has."""
    first, second = make_layer(local_capacity=1), make_layer()
    stuck, member = await first.new_channel(), await second.new_channel()
    await first.group_add("g", stuck)
    await second.group_add("g", member)
    assert await second.group_members("g") == sorted([stuck, member])
    await first.group_discard("g", stuck)
    for _ in range(3):
        await first.send(stuck, {})  # its window is full now, with nobody to read
    started = time.monotonic()
    assert await second.group_members("g", timeout=0.5) == [member]
    assert 0.4 < time.monotonic() - started < 1.5


async def test_after_a_reconnection(make_layer: MakeLayer) -> None:
    """Whoever came while a process was away is found."""
    first, second = make_layer(), make_layer()
    await first.group_members("g")
    connection = await first.current_connection
    connection.protocol.abort()  # type: ignore[union-attr]
    channel = await second.new_channel()
    await second.group_add("g", channel)
    await until(lambda: connection.protocol.closed.done())  # type: ignore[union-attr]
    assert await first.group_members("g", timeout=10) == [channel]


async def test_many_members(make_layer: MakeLayer) -> None:
    """An answer may take several messages."""
    first, second = make_layer(), make_layer()
    channels = [await second.new_channel() for _ in range(5000)]
    await asyncio.gather(*(second.group_add("g", channel) for channel in channels))
    assert await first.group_members("g", timeout=10) == sorted(channels)


async def test_wrong_arguments(make_layer: MakeLayer) -> None:
    """Names are checked, and so is the time."""
    layer = make_layer()
    with pytest.raises(TypeError):
        await layer.group_members("not a name")
    for timeout in (-1, float("nan"), "1", True):
        with pytest.raises(ValueError, match="timeout must be"):
            await layer.group_members("g", timeout=timeout)  # type: ignore[arg-type]


async def test_forged_questions(make_layer: MakeLayer) -> None:
    """Bodies that only look like questions or answers harm nothing."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    connection = await layer.current_connection
    for name in ("!ask", "!answer", "!hello", "!other", "!"):
        for message in (
            {},
            {"from": 1},
            {"from": "nobody"},
            {"from": "nobody", "what": "members", "group": "g", "channel": "", "id": "1"},
            {"from": "nobody", "what": "join", "group": "g", "channel": "x!y", "id": "2"},
            {"from": "nobody", "what": "nothing", "group": "g", "channel": "", "id": "3"},
            {"from": "nobody", "id": "1", "names": ["x"], "part": 0, "parts": 1},
            {"from": layer.queue_name, "what": "flush"},
        ):
            await connection.publish(
                msgpack.packb({**message, "__asgi_group__": name}), routing_key=layer.queue_name
            )
    assert await layer.group_members("g", timeout=5) == [channel]


async def test_rabbitmq_is_away(make_layer: MakeLayer, caplog: pytest.LogCaptureFixture) -> None:
    """Without RabbitMQ the process answers for itself, and a warning says why there is no more."""
    layer = make_layer(host="amqp://guest:guest@127.0.0.1:1", send_timeout=0.1)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    assert await layer.group_members("g", timeout=0.1) == [channel]
    assert "RabbitMQ did not take the question within 0.1 s" in caplog.text
