"""The workloads that take several processes, each with a layer of its own, and what each does."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from asgiref.sync import async_to_sync

from .checks import (
    Goal,
    Meter,
    check_order,
    count_for,
    end,
    in_batches,
    make_members,
    message,
    new_name,
    pass_fence,
    read,
)
from .members import member
from .spec import Failure, Figures, Layer, Spec, run


class Child:
    """Another process, which does a role, is told when to go on, and answers with figures."""

    def __init__(self, spec: Spec) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_be_child, args=(spec, theirs), daemon=True)
        self._process.start()
        theirs.close()

    async def heard(self) -> Figures:
        """Wait for what it says next."""
        try:
            said: Figures | str = await asyncio.to_thread(self._pipe.recv)
        except EOFError:
            said = "a process ended unexpectedly"
        if isinstance(said, str):
            raise Failure(said)
        return said

    def go(self) -> None:
        """Let it go on."""
        self._pipe.send(None)

    async def do(self, name: str, **params: object) -> Figures:
        """Have a member do something, and wait for its answer."""
        self._pipe.send((name, params))
        return await self.heard()

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.join()


async def ready(pipe: Connection) -> None:
    """In a child: say that all is ready, and wait until told to go on."""
    pipe.send({})
    await asyncio.to_thread(pipe.recv)


def _be_child(spec: Spec, pipe: Connection) -> None:
    async def work(layer: Layer) -> None:
        await pass_fence(layer)
        if spec.workload == member.__name__:
            await member(layer, pipe, spec)
        else:
            await ROLES[spec.workload](layer, pipe, **spec.params)

    try:
        run(spec, work, first=False)
    except Exception as err:
        pipe.send(f"{type(err).__name__}: {err}")


async def processes(
    layer: Layer, spec: Spec, *, pairs: int, members: int, messages: int
) -> Figures:
    """Some processes publish to a group; as many others have members in it."""
    name = new_name()
    children: list[Child] = []
    try:
        for role in ("receive", "publish"):
            specs = [spec.role(role, group=name, number=number) for number in range(pairs)]
            children += map(Child, specs)
            for child in children[-pairs:]:
                await child.heard()
        started = time.perf_counter()
        for child in children:
            child.go()
        results = [await child.heard() for child in children]
    finally:
        for child in children:
            child.kill()
    # Every process of a machine has the same clock.
    wall = max(result["finished"] for result in results) - started
    cpu = sum(result["cpu"] for result in results)
    deliveries = pairs * messages * pairs * members
    return {"rate": deliveries / wall, "cpu_us": cpu / deliveries * 1e6}


async def _receive(
    layer: Layer, pipe: Connection, *, group: str, pairs: int, members: int, messages: int, **_: int
) -> None:
    """One receiving process of :func:`processes`."""
    goal = Goal()
    channels = await make_members(layer, group, members)
    texts: list[list[str]] = [[] for _ in channels]
    readers = [
        asyncio.create_task(read(layer, channel, goal, got))
        for channel, got in zip(channels, texts, strict=True)
    ]
    await pass_fence(layer)
    await ready(pipe)
    meter = Meter()
    await goal.wait(pairs * messages * members)
    cpu, finished = meter.read()[1], time.perf_counter()
    await end(*readers)
    for got in texts:
        check_order(got, [messages] * pairs)
    pipe.send({"cpu": cpu, "finished": finished})


async def _publish(
    layer: Layer, pipe: Connection, *, group: str, number: int, messages: int, **_: int
) -> None:
    """One publishing process of :func:`processes`: one message after the other."""
    await ready(pipe)
    meter = Meter()
    for count in range(messages):
        await layer.group_send(group, message(number, count))
    pipe.send({"cpu": meter.read()[1], "finished": time.perf_counter()})


async def plain(layer: Layer, spec: Spec) -> Figures:
    """``async_to_sync(group_send)`` in another process, from plain code, one call at a time.

    ``in_memory_share`` compares with Channels' in-memory layer, called likewise: what
    ``async_to_sync()`` itself costs is in both.
    """
    name = new_name()
    (channel,) = await make_members(layer, name, 1)
    texts: list[str] = []
    goal = Goal()
    reader = asyncio.create_task(read(layer, channel, goal, texts))
    await pass_fence(layer)
    child = Child(spec.role("send_plainly", group=name, seconds=spec.seconds))
    try:
        figures = await child.heard()
        sent = int(figures["messages"])
        await goal.wait(sent)
    finally:
        child.kill()
    await end(reader)
    check_order(texts, [sent])
    return figures


async def _send_plainly(layer: Layer, pipe: Connection, *, group: str, seconds: float) -> None:
    """The process of :func:`plain` that sends, as a Celery task, a view or a script does it."""
    from channels.layers import InMemoryChannelLayer

    numbers = itertools.count()

    def for_a_while(send: Callable[[Any, Any], None]) -> float:
        for _ in range(20):
            send(group, message(0, next(numbers)))
        started = time.perf_counter()
        count = 0
        for _ in count_for(seconds):
            send(group, message(0, next(numbers)))
            count += 1
        return (time.perf_counter() - started) / count

    each = await asyncio.to_thread(for_a_while, async_to_sync(layer.group_send))
    messages = next(numbers)
    in_memory = async_to_sync(InMemoryChannelLayer().group_send)
    in_memory_each = await asyncio.to_thread(for_a_while, in_memory)
    share = in_memory_each / each
    pipe.send({"rate": 1 / each, "in_memory_share": share, "messages": messages})


async def disconnect(layer: Layer, spec: Spec, *, groups: int, watch: float) -> Figures:
    """A process with many groups dies; what the server's other clients notice of that.

    ``worst_ms`` is the longest that a message, or joining and leaving a group, took of another
    process after it; ``usual_ms`` the longest before.
    """
    holder = Child(spec.role("hold"))
    channel = await layer.new_channel()
    worst = 0.0

    async def repeat(work: Callable[[], Awaitable[None]]) -> None:
        nonlocal worst
        while True:
            started = time.perf_counter()
            await work()
            worst = max(worst, time.perf_counter() - started)
            await asyncio.sleep(0.002)

    async def send_message() -> None:
        await layer.send(channel, message(0, 0))
        await layer.receive(channel)

    async def join_group() -> None:
        name = new_name()
        await layer.group_add(name, channel)
        await layer.group_discard(name, channel)

    try:
        await holder.heard()
        tasks = [asyncio.create_task(repeat(work)) for work in (send_message, join_group)]
        await asyncio.sleep(0.2)
        worst = 0.0
        await asyncio.sleep(1)
        usual, worst = worst, 0.0
    finally:
        holder.kill()
    # Longer than any stall that is still under way.
    await asyncio.sleep(watch)
    await end(*tasks)
    return {"worst_ms": worst * 1e3, "usual_ms": usual * 1e3}


async def replaced(layer: Layer, spec: Spec, *, groups: int, joins: int) -> Figures:
    """A process with many groups dies, and others join another at once, as in a deployment."""
    holder = Child(spec.role("hold"))
    channel = await layer.new_channel()
    try:
        await holder.heard()
    finally:
        holder.kill()
    started = time.perf_counter()
    await asyncio.gather(*(layer.group_add(new_name(), channel) for _ in range(joins)))
    await pass_fence(layer)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "join_rate": joins / seconds}


async def _hold(layer: Layer, pipe: Connection, *, groups: int, **_: float) -> None:
    """The process of :func:`disconnect` and :func:`replaced` that has the groups."""
    channels = [await layer.new_channel() for _ in range(100)]
    await in_batches(
        layer.group_add(f"held{number}", channels[number % 100]) for number in range(groups)
    )
    await pass_fence(layer)
    await ready(pipe)


#: What a child may be.
ROLES: Mapping[str, Callable[..., Awaitable[None]]] = {
    function.__name__[1:]: function for function in (_receive, _publish, _send_plainly, _hold)
}
