"""A message arrives at most once, whoever sends, reads or loses the connection."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from channels_rabbitmq.errors import NotConnected
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until


async def test_many_senders_and_receivers(make_layer: MakeLayer) -> None:
    """Of 50 senders and 50 channels of two processes, nothing is lost, mixed up or doubled."""
    layers = [make_layer(remote_capacity=10_000) for _ in range(2)]
    for layer in layers:
        await layer.current_connection
    channels = [await layers[number % 2].new_channel() for number in range(50)]

    async def send(number: int) -> None:
        for n in range(40):
            await layers[number // 2 % 2].send(channels[number], {"to": number, "n": n})

    async def receive(number: int) -> list[object]:
        return [await layers[number % 2].receive(channels[number]) for _ in range(40)]

    *received, _ = await asyncio.gather(
        *(receive(number) for number in range(50)),
        asyncio.gather(*(send(number) for number in range(50))),
    )
    for number, messages in enumerate(received):
        assert messages == [{"to": number, "n": n} for n in range(40)]


@pytest.mark.slow
async def test_no_message_comes_twice(make_layer: MakeLayer, proxy: Proxy) -> None:
    """What is sent around a cut arrives once or not at all, and in order."""
    layer = make_layer(host=proxy.url, remote_capacity=10_000)
    sender = make_layer(host=proxy.url)
    channel = await layer.new_channel()
    await layer.current_connection
    await sender.current_connection
    received: list[int] = []

    async def receive() -> None:
        while True:
            received.append((await layer.receive(channel))["n"])

    receiving = asyncio.create_task(receive())
    for number in range(300):
        if number == 150:
            proxy.cut()
        elif number == 200:
            await until(lambda: proxy.accepted == 4)
            await layer.current_connection
        with contextlib.suppress(NotConnected):
            await sender.send(channel, {"n": number})
    await until(lambda: 299 in received)
    receiving.cancel()
    assert received == sorted(set(received))
    assert len(received) >= 200
