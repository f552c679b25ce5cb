"""Whoever is cancelled, at whatever moment, disturbs nobody else."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until


async def cancel(task: asyncio.Task[object]) -> None:
    """Cancel a task that was not done."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_send_whose_confirm_is_on_the_way(make_layer: MakeLayer, proxy: Proxy) -> None:
    """Cancelling a send() whose confirm comes later disturbs nothing: others are confirmed."""
    layer = make_layer(host=proxy.url)
    channel = await layer.new_channel()
    first = await layer.current_connection
    proxy.freeze()
    sends = [asyncio.create_task(layer.send(channel, {"n": n})) for n in range(5)]
    await asyncio.sleep(0.01)
    for n in (0, 2, 4):
        await cancel(sends[n])
    proxy.thaw()
    await asyncio.gather(sends[1], sends[3])
    assert [(await layer.receive(channel))["n"] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert await layer.current_connection is first


async def test_sends_cancelled_at_random(make_layer: MakeLayer) -> None:
    """Hundreds of sends, cancelled at random moments, leave the connection and the rest alone."""
    layer = make_layer(remote_capacity=10_000)
    channel = await layer.new_channel()
    first = await layer.current_connection
    chance = random.Random(1)
    received: list[int] = []

    async def receive() -> None:
        while True:
            received.append((await layer.receive(channel))["n"])

    receiving = asyncio.create_task(receive())
    kept = []
    for n in range(500):
        task = asyncio.create_task(layer.send(channel, {"n": n}))
        if n % 2:
            asyncio.get_running_loop().call_later(chance.random() * 0.003, task.cancel)
        else:
            kept.append(task)
        if n % 10 == 0:
            await asyncio.sleep(0.001)
    await asyncio.gather(*kept)
    await until(lambda: set(range(0, 500, 2)) <= set(received))
    receiving.cancel()
    assert received == sorted(set(received))
    assert await layer.current_connection is first


async def test_cancelled_receive_loses_nothing(make_layer: MakeLayer) -> None:
    """A receive() that is cancelled as its message arrives leaves it to the next one."""
    layer = make_layer(remote_capacity=10_000)
    channel = await layer.new_channel()
    await layer.current_connection
    chance = random.Random(2)
    received: list[int] = []

    async def receive() -> None:
        while len(received) < 300:
            task = asyncio.create_task(layer.receive(channel))
            done, _ = await asyncio.wait({task}, timeout=chance.random() * 0.002)
            if not done:
                task.cancel()
                await asyncio.wait({task})
            if not task.cancelled():
                received.append(task.result()["n"])

    receiving = asyncio.create_task(receive())
    for n in range(300):
        await layer.send(channel, {"n": n})
    await asyncio.wait_for(receiving, 20)
    assert received == list(range(300))


async def test_receive_cancelled_just_as_it_is_woken(make_layer: MakeLayer) -> None:
    """Of two who wait, the second gets the message for which the first was woken and cancelled."""
    layer = make_layer()
    channel = await layer.new_channel()
    trigger = await layer.new_channel()
    await layer.group_add("room", trigger)
    await layer.group_add("room", channel)
    first = asyncio.create_task(layer.receive(channel))
    second = asyncio.create_task(layer.receive(channel))

    async def cancel_first() -> None:
        await layer.receive(trigger)  # it is woken ahead of the other, by the same delivery
        assert first.cancel()

    cancelling = asyncio.create_task(cancel_first())
    await asyncio.sleep(0)
    await layer.group_send("room", {"n": 1})
    assert await asyncio.wait_for(second, 5) == {"n": 1}
    await cancelling
    assert first.cancelled()


async def test_cancelled_group_add_is_undone(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A group_add() that is cancelled before it returned adds nothing."""
    layer = make_layer(host=proxy.url)
    one, two = await layer.new_channel(), await layer.new_channel()
    await layer.current_connection
    proxy.freeze()
    adding = asyncio.create_task(layer.group_add("room", one))
    staying = asyncio.create_task(layer.group_add("room", two))
    lonely = asyncio.create_task(layer.group_add("lonely", one))
    await asyncio.sleep(0.01)
    await cancel(adding)
    await cancel(lonely)
    proxy.thaw()
    await staying
    await layer.group_send("room", {"n": 1})
    await layer.group_send("lonely", {"n": 2})
    await layer.send(one, {"n": 3})
    assert await layer.receive(two) == {"n": 1}
    assert await layer.receive(one) == {"n": 3}


async def test_one_of_two_group_adds_is_cancelled(make_layer: MakeLayer, proxy: Proxy) -> None:
    """If two calls add the same channel and one is cancelled, the other's membership stands."""
    layer = make_layer(host=proxy.url)
    channel = await layer.new_channel()
    await layer.current_connection
    proxy.freeze()
    adds = [asyncio.create_task(layer.group_add("room", channel)) for _ in range(2)]
    await asyncio.sleep(0.01)
    await cancel(adds[0])
    proxy.thaw()
    await adds[1]
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


async def test_earlier_membership_outlives_a_cancelled_add(
    make_layer: MakeLayer, proxy: Proxy
) -> None:
    """Cancelling a second group_add() of a channel that was in before does not take it out."""
    layer = make_layer(host=proxy.url)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await proxy.refuse()
    first = await layer.current_connection
    proxy.cut()
    await until(lambda: first.closed.done())
    again = asyncio.create_task(layer.group_add("room", channel))
    await asyncio.sleep(0.01)
    await cancel(again)
    await proxy.accept()
    await layer.current_connection
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


async def test_cancelled_wait_for_the_connection(make_layer: MakeLayer, proxy: Proxy) -> None:
    """Whoever gives up waiting for the connection, others get it."""
    proxy.freeze()
    layer = make_layer(host=proxy.url)

    async def connect() -> object:
        return await layer.current_connection

    waiting = [asyncio.create_task(connect()) for _ in range(3)]
    await asyncio.sleep(0.01)
    await cancel(waiting[0])
    proxy.thaw()
    assert await waiting[1] is await waiting[2]


async def test_cancelled_send_while_away(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A send() that is cancelled while it waits for RabbitMQ sends nothing later."""
    proxy.freeze()
    layer = make_layer(host=proxy.url)
    channel = await layer.new_channel()
    sending = asyncio.create_task(layer.send(channel, {"n": "cancelled"}))
    await asyncio.sleep(0.01)
    await cancel(sending)
    proxy.thaw()
    await layer.send(channel, {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
