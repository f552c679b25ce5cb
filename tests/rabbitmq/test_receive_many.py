"""``receive_many()``: own and normal channels together, in order, fair, and cancelled.

What the original backend document asks of it is in ``tests/conformance``.
"""

from __future__ import annotations

import asyncio

import pytest
from channels.exceptions import StopConsumer

from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


async def test_own_and_normal_channels(make_layer: MakeLayer) -> None:
    """Either kind may be asked for, together."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {"n": 1})
    await layer.send("jobs", {"n": 2})
    found = [await layer.receive_many_blocking([channel, "jobs", "other"]) for _ in range(2)]
    assert sorted(found) == sorted([(channel, {"n": 1}), ("jobs", {"n": 2})])
    assert await layer.receive_many([channel, "jobs", "other"]) == (None, None)


async def test_blocking(make_layer: MakeLayer) -> None:
    """With block=True it waits for whichever comes first."""
    layer, sender = make_layer(), make_layer()
    channels = [await layer.new_channel() for _ in range(3)]
    await layer.current_connection
    for name in (channels[1], "jobs", channels[2]):
        waiting = asyncio.create_task(layer.receive_many([*channels, "jobs", "more"], block=True))
        await asyncio.sleep(0)
        await sender.send(name, {"to": name})
        assert await asyncio.wait_for(waiting, 5) == (name, {"to": name})


async def test_fair(make_layer: MakeLayer) -> None:
    """A busy channel does not drown out a quiet one."""
    layer = make_layer(local_capacity=1000, remote_capacity=1000)
    busy, quiet = await layer.new_channel(), await layer.new_channel()
    for n in range(200):
        await layer.send(busy, {"n": n})
    await layer.send(quiet, {})
    await until(lambda: len(layer._owner._local.mailboxes) == 201)
    order = []
    while quiet not in order:
        name, _ = await layer.receive_many_blocking([busy, quiet])
        order.append(name)
    # By chance it would take 2; that it takes 100 happens once in 2 ** 100 runs.
    assert len(order) < 100


async def test_order_within_a_channel(make_layer: MakeLayer) -> None:
    """Each channel's messages come in order."""
    layer = make_layer()
    names = [await layer.new_channel(), await layer.new_channel(), "jobs"]
    for n in range(30):
        await layer.send(names[n % 3], {"n": n})
    seen: dict[str, list[int]] = {name: [] for name in names}
    for _ in range(30):
        name, message = await layer.receive_many_blocking(names)
        seen[name].append(message["n"])  # type: ignore[arg-type]
    assert [seen[name] for name in names] == [list(range(k, 30, 3)) for k in range(3)]


async def test_cancelled(make_layer: MakeLayer) -> None:
    """Whenever it is cancelled, no message is lost, and none comes twice."""
    layer, sender = make_layer(), make_layer()
    names = [await layer.new_channel(), await layer.new_channel(), "jobs"]
    await layer.current_connection
    received = []
    for n in range(60):
        await sender.send(names[n % 3], {"n": n})
        for turns in (n % 4, n % 3):
            task = asyncio.create_task(layer.receive_many(names, block=True))
            for _ in range(turns):
                await asyncio.sleep(0.0003)
            task.cancel()
            try:
                received.append((await task)[1]["n"])  # type: ignore[index]
            except asyncio.CancelledError:
                continue
        while (found := await layer.receive_many(names))[1] is not None:
            received.append(found[1]["n"])
    await until_empty(layer, names, received)
    assert sorted(received) == list(range(60))  # type: ignore[type-var]


async def until_empty(layer: object, names: list[str], received: list[object]) -> None:
    """Receive from any of the channels until all readers together have 60 messages."""
    while len(received) < 60:
        _, message = await asyncio.wait_for(
            layer.receive_many_blocking(names),  # type: ignore[attr-defined]
            5,
        )
        received.append(message["n"])


async def test_beside_other_readers(make_layer: MakeLayer) -> None:
    """A message that wakes it and that it leaves goes to whoever else waits."""
    layer = make_layer(local_capacity=1000, remote_capacity=1000)
    sender = make_layer()
    names = [await layer.new_channel() for _ in range(3)]
    received: list[object] = []

    async def one(name: str) -> None:
        while True:
            received.append((await layer.receive(name))["n"])

    async def many() -> None:
        while True:
            received.append((await layer.receive_many_blocking(names))[1]["n"])

    tasks = [asyncio.create_task(work) for work in (*map(one, names), many(), many())]
    await asyncio.gather(*(sender.send(names[n % 3], {"n": n}) for n in range(300)))
    await until(lambda: len(received) >= 300)
    assert sorted(received) == list(range(300))  # type: ignore[type-var]
    for task in tasks:
        task.cancel()


async def test_wrong_channels(make_layer: MakeLayer) -> None:
    """Names are checked before anything is waited for."""
    layer = make_layer()
    with pytest.raises(ValueError, match="another process"):
        await layer.receive_many(["other!channel"])
    with pytest.raises(TypeError):
        await layer.receive_many(["not a name"])
    with pytest.raises(ValueError, match="no channel to wait for"):
        await layer.receive_many([], block=True)


async def test_closed(make_layer: MakeLayer) -> None:
    """close() ends whoever waits."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.current_connection
    waiting = asyncio.create_task(layer.receive_many([channel, "jobs"], block=True))
    await asyncio.sleep(0)
    await layer.close()
    with pytest.raises(StopConsumer):
        await waiting
