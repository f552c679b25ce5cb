"""What the processes of ``costs`` do, when they are told to."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from multiprocessing.connection import Connection

from .checks import Goal, Meter, in_batches, message, new_name, read
from .spec import Failure, Figures, Layer, Spec

#: How many of a process's groups are looked at, to know when all are back.
SAMPLE = 20
#: How long an answer may take before it is asked for again, in seconds.
AGAIN = 0.25
#: How many calls are under way at once.
SENDERS = 100


class Member:
    """One process of a site: it joins, sends, receives, and knows what it waits for."""

    def __init__(self, layer: Layer, spec: Spec) -> None:
        self._layer = layer
        self._spec = spec
        self._groups: list[str] = []
        #: The channel that is in them.
        self._own = ""
        self._rooms: dict[str, Goal] = {}
        #: Layers and readers that are kept.
        self._kept: list[object] = []

    async def join(self, *, count: int) -> Figures:
        """Join groups of its own with one channel; return how long it took."""
        channel = await self._layer.new_channel()
        names = [new_name() for _ in range(count)]
        started = time.perf_counter()
        await asyncio.gather(*(self._layer.group_add(name, channel) for name in names))
        self._groups += names
        self._own = channel
        return {"seconds": time.perf_counter() - started}

    async def enter(self, *, room: str) -> Figures:
        """Join a room, and count what comes."""
        channel = await self._layer.new_channel()
        goal = self._rooms[room] = Goal()
        await self._layer.group_add(room, channel)
        self._kept.append(asyncio.create_task(read(self._layer, channel, goal)))
        return {}

    async def expect(self, *, room: str, count: int) -> Figures:
        """Wait for messages in a room; return what they took of the processor."""
        meter = Meter()
        await self._rooms[room].wait(count)
        return {"cpu": meter.read()[1], "finished": time.perf_counter()}

    async def publish(self, *, room: str, count: int) -> Figures:
        """Send to a room, by concurrent senders."""
        numbers = iter(range(count))

        async def sender() -> None:
            for number in numbers:
                await self._layer.group_send(room, message(0, number))

        meter = Meter()
        started = time.perf_counter()
        await asyncio.gather(*(sender() for _ in range(SENDERS)))
        return {"started": started, "cpu": meter.read()[1]}

    async def fill(self, *, count: int, size: int) -> Figures:
        """Send to a channel of its own that nobody reads."""
        channel = await self._layer.new_channel()
        await in_batches(
            self._layer.send(channel, message(0, number, size)) for number in range(count)
        )
        return {}

    async def connect(self, *, count: int) -> Figures:
        """Make more layers, each with a connection and a queue, in one group."""
        module, _, name = self._spec.layer.rpartition(".")
        made = [
            getattr(importlib.import_module(module), name)(**self._spec.config)
            for _ in range(count)
        ]
        for layer in made:
            await layer.group_add("connected", await layer.new_channel())
        self._kept += made
        return {}

    async def recover(self, *, patience: float = 60) -> Figures:
        """Wait until messages come through a sample of its groups again, and say when."""
        waiting = set(self._groups[:: max(1, len(self._groups) // SAMPLE)])

        async def listen() -> None:
            while waiting:
                waiting.discard((await self._layer.receive(self._own))["text"])

        listening = asyncio.create_task(listen())
        deadline = time.perf_counter() + patience
        while waiting and time.perf_counter() < deadline:
            asked = {"type": "bench.message"}
            await in_batches(
                self._layer.group_send(name, {**asked, "text": name}) for name in list(waiting)
            )
            await asyncio.wait({listening}, timeout=AGAIN)
        if waiting:
            raise Failure(f"{len(waiting)} groups did not come back within {patience:g} s")
        return {"finished": time.perf_counter()}


#: What a member may be told to do.
COMMANDS: Mapping[str, Callable[..., Awaitable[Figures]]] = {
    function.__name__: function
    for function in (
        *(Member.join, Member.enter, Member.expect, Member.publish),
        *(Member.fill, Member.connect, Member.recover),
    )
}


async def member(layer: Layer, pipe: Connection, spec: Spec) -> None:
    """Do one command after the other, and answer each."""
    # It is not the news that RabbitMQ, which is restarted, was lost.
    logging.getLogger("channels_rabbitmq").setLevel(logging.ERROR)
    being = Member(layer, spec)
    pipe.send({})
    while True:
        name, params = await asyncio.to_thread(pipe.recv)
        pipe.send(await COMMANDS[name](being, **params))
