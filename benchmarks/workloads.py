"""The workloads that one process does.

Each is given the layer and the :class:`Spec`, whose ``params`` are its keywords, and checks that
every message arrived once and in order before its figures count. Rates are per second of wall
time; ``cpu_us`` is the Python processes' time for a message, delivery or membership, in µs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import time
import tracemalloc
from collections.abc import Iterable
from math import inf
from typing import NamedTuple, Self

from .checks import (
    PATIENCE,
    Goal,
    Hop,
    Meter,
    check_order,
    count_for,
    end,
    flood,
    in_batches,
    make_members,
    message,
    new_name,
    pass_fence,
    read,
    read_same,
    resident,
    text,
)
from .spec import Failure, Figures, Layer, Spec


async def send(layer: Layer, spec: Spec, *, senders: int, payload: int) -> Figures:
    """``send()`` by concurrent senders to one channel, which ``receive()`` empties."""
    channel = await layer.new_channel()
    texts: list[str] = []
    goal = Goal()
    keep = 13 if payload > 10_000 else None
    reader = asyncio.create_task(read(layer, channel, goal, texts, keep))
    await pass_fence(layer)
    counts = [0] * senders
    warm_up = max(1, 200 // senders) if payload <= 10_000 else 1
    await flood(layer, channel, goal, counts, payload, warm_up, inf)
    before = goal.count
    meter = Meter()
    await flood(layer, channel, goal, counts, payload, inf, time.perf_counter() + spec.seconds)
    wall, cpu = meter.read()
    await end(reader)
    check_order(texts, counts)
    done = goal.count - before
    return {
        "rate": done / wall,
        "cpu_us": cpu / done * 1e6,
        "bytes_rate": done * payload / wall,
        "messages": done,
    }


async def latency(layer: Layer, spec: Spec) -> Figures:
    """One message at a time, from ``send()`` to the return of ``receive()``."""
    channel = await layer.new_channel()
    await pass_fence(layer)
    receiving = asyncio.ensure_future(layer.receive(channel))
    await pass_fence(layer)
    await layer.send(channel, message(0, 0))
    texts = [(await asyncio.wait_for(receiving, PATIENCE))["text"]]
    times: list[float] = []

    async def once() -> None:
        started = time.perf_counter()
        await layer.send(channel, message(0, len(texts)))
        received = await layer.receive(channel)
        times.append(time.perf_counter() - started)
        texts.append(received["text"])

    async with asyncio.timeout(PATIENCE + spec.seconds):
        for _ in range(50):
            await once()
        times.clear()
        meter = Meter()
        for _ in count_for(spec.seconds):
            await once()
        _, cpu = meter.read()
    check_order(texts, [len(texts)])
    times.sort()
    return {
        "median_us": statistics.median(times) * 1e6,
        "p99_us": times[len(times) * 99 // 100] * 1e6,
        "cpu_us": cpu / len(times) * 1e6,
        "messages": len(times),
    }


async def group(layer: Layer, spec: Spec, *, members: int) -> Figures:
    """``group_send()`` to many members that wait in this process; the next once all have it."""
    name = new_name()
    goal = Goal()
    sent: list[str] = []
    readers = [
        asyncio.create_task(read_same(layer, channel, sent, goal))
        for channel in await make_members(layer, name, members)
    ]
    await pass_fence(layer)

    async def once() -> None:
        sent.append(text(0, len(sent), 100))
        await layer.group_send(name, {"type": "bench.message", "text": sent[-1]})
        await goal.wait(len(sent) * members)

    await once()
    await once()
    meter = Meter()
    for _ in count_for(spec.seconds):
        await once()
    wall, cpu = meter.read()
    await end(*readers)
    sends = len(sent) - 2
    deliveries = sends * members
    return {"rate": deliveries / wall, "cpu_us": cpu / deliveries * 1e6, "messages": sends}


async def second_loop(layer: Layer, spec: Spec) -> Figures:
    """``group_send()`` by 100 senders on the loop that reads, then on a loop in another thread.

    ``share`` is the second rate divided by the first.
    """
    name = new_name()
    (channel,) = await make_members(layer, name, 1)
    goal = Goal()
    reader = asyncio.create_task(read(layer, channel, goal))
    await pass_fence(layer)

    async def sender() -> int:
        count = 0
        for _ in count_for(spec.seconds):
            await layer.group_send(name, message(0, 0))
            count += 1
        return count

    async def for_a_while() -> tuple[int, float]:
        meter = Meter()
        counts = await asyncio.gather(*(sender() for _ in range(100)))
        return sum(counts), meter.read()[0]

    first_count, first_wall = await for_a_while()
    await goal.wait(first_count)
    count, wall = await asyncio.to_thread(lambda: asyncio.run(for_a_while()))
    await goal.wait(first_count + count)
    await end(reader)
    rate = count / wall
    return {"rate": rate, "share": rate / (first_count / first_wall), "messages": count}


async def own_groups(
    layer: Layer, spec: Spec, *, groups: int, pause: float, churn: bool
) -> Figures:
    """Many channels each join, then leave, a group of their own, all at once.

    ``first_rate`` is that of joins in a process that has just connected; ``churn_rate``, where it
    is asked for, that of joins and leaves, round after round; ``join_rate`` and ``leave_rate`` are
    those of a burst after that, on a process and a server that were quiet for a while.
    """
    rounds = _Rounds(layer, groups, groups)
    first = await rounds.once(check=True)
    more = {}
    if churn:
        # Layers may keep for a while what was left: as much goes as comes, once that is over.
        await rounds.some(pause)
        found = await rounds.some(spec.seconds)
        more["churn_rate"] = 2 * found.memberships / (found.join + found.leave)
    await asyncio.sleep(pause)
    await _settle()
    burst = await rounds.once()
    return {
        "join_rate": groups / burst.join,
        "leave_rate": groups / burst.leave,
        "first_rate": groups / first.join,
        **more,
        "cpu_us": (burst.join_cpu + burst.leave_cpu) / (2 * groups) * 1e6,
    }


async def room(layer: Layer, spec: Spec, *, members: int) -> Figures:
    """Many channels join one group, all at once, then leave it."""
    rounds = _Rounds(layer, members, 1)
    await rounds.once(check=True)  # which does not count
    found = await rounds.some(spec.seconds)
    return {
        "rate": found.memberships / found.join,
        "leave_rate": found.memberships / found.leave,
        "cpu_us": found.join_cpu / found.memberships * 1e6,
    }


class _Round(NamedTuple):
    """Memberships; wall and processor time of joining and of leaving, in seconds."""

    memberships: int
    join: float
    join_cpu: float
    leave: float
    leave_cpu: float

    @classmethod
    def total(cls, rounds: Iterable[_Round]) -> Self:
        return cls(*map(sum, zip(*rounds, strict=True)))


class _Rounds:
    """Channels that all join at once, and leave at once, new groups in each round.

    The time is over when all of it has reached the server: see :func:`pass_fence`.
    """

    def __init__(self, layer: Layer, count: int, groups: int) -> None:
        self._layer = layer
        self._count = count
        self._groups = groups
        self._channels: list[str] = []

    async def once(self, *, check: bool = False) -> _Round:
        """Join and leave; whether that is so may be checked, between and after."""
        layer = self._layer
        while len(self._channels) < self._count:
            self._channels.append(await layer.new_channel())
        names = [new_name() for _ in range(self._groups)]
        pairs = [(names[at % len(names)], channel) for at, channel in enumerate(self._channels)]
        meter = Meter()
        await asyncio.gather(*(layer.group_add(*pair) for pair in pairs))
        await pass_fence(layer)
        joined = meter.read()
        if check:
            await _check_joined(layer, pairs)
        meter = Meter()
        await asyncio.gather(*(layer.group_discard(*pair) for pair in pairs))
        await pass_fence(layer)
        left = meter.read()
        if check:
            await _check_left(layer, pairs[:100])
        return _Round(len(pairs), *joined, *left)

    async def some(self, seconds: float) -> _Round:
        """Do one round after the other for so long."""
        return _Round.total([await self.once() for _ in count_for(seconds)])


async def _check_joined(layer: Layer, pairs: list[tuple[str, str]]) -> None:
    """Each channel gets the message of its own group and no other."""
    receiving = [asyncio.ensure_future(layer.receive(channel)) for _, channel in pairs]
    await pass_fence(layer)
    texts = {name: text(0, number, 20) for number, name in enumerate(dict(pairs))}
    await in_batches(
        layer.group_send(name, {"type": "bench.message", "text": sent})
        for name, sent in texts.items()
    )
    received = await asyncio.wait_for(asyncio.gather(*receiving), PATIENCE)
    if [got["text"] for got in received] != [texts[name] for name, _ in pairs]:
        raise Failure("a channel got the message of a group that it is not in")


async def _check_left(layer: Layer, pairs: list[tuple[str, str]]) -> None:
    """No channel gets a message of the group that it was in."""
    receiving = [asyncio.ensure_future(layer.receive(channel)) for _, channel in pairs]
    await in_batches(layer.group_send(name, message(0, 0, 20)) for name in dict(pairs))
    await in_batches(layer.send(channel, message(1, 0, 20)) for _, channel in pairs)
    received = await asyncio.wait_for(asyncio.gather(*receiving), PATIENCE)
    if any(got["text"] != text(1, 0, 20) for got in received):
        raise Failure("a channel got the message of a group that it had left")


async def waiting(layer: Layer, spec: Spec, *, channels: int) -> Figures:
    """Channels that wait in ``receive()``: the memory of each, and processor time.

    ``bytes_each`` is all memory that Python objects take: the channel's name, what the layer
    holds, and the task. ``bytes_more`` is by how much that exceeds a task with a bare future.
    """
    loop = asyncio.get_running_loop()

    async def bare() -> None:
        await loop.create_future()

    async def measure(*, receive: bool) -> tuple[float, float]:
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tasks = [
            loop.create_task(layer.receive(await layer.new_channel()) if receive else bare())
            for _ in range(channels)
        ]
        await _settle()
        gc.collect()
        used = (tracemalloc.get_traced_memory()[0] - before) / channels
        tracemalloc.stop()
        for task in tasks:
            if task.done():
                raise Failure(f"a channel that nothing was sent to woke: {task.exception()!r}")
        meter = Meter()
        await asyncio.sleep(spec.seconds)
        wall, cpu = meter.read()
        await end(*tasks)
        return used, cpu / wall

    # What a process does as it starts is over by then.
    await asyncio.sleep(3)
    # First what counts: asyncio's set of all tasks stays large for those that were in it before.
    bytes_each, cpu = await measure(receive=True)
    bare_bytes, bare_cpu = await measure(receive=False)
    return {
        "bytes_each": bytes_each,
        "bytes_more": bytes_each - bare_bytes,
        "cpu_percent": max(0.0, cpu - bare_cpu) * 100,
    }


async def _settle() -> None:
    """Wait until this process has no more to do than to wait."""
    for _ in range(int(PATIENCE / 0.1)):
        started = time.process_time()
        await asyncio.sleep(0.1)
        if time.process_time() - started < 0.001:
            return


async def soak(layer: Layer, spec: Spec, *, messages: int, at_most: float) -> Figures:
    """Many messages through one process; how much memory grows after the first tenth of them.

    A layer that is too slow for that many sends as many as it can in ``at_most`` seconds.
    """
    channel = await layer.new_channel()
    goal = Goal()
    reader = asyncio.create_task(read(layer, channel, goal))
    await pass_fence(layer)
    counts = [0] * 100
    each = messages / len(counts)
    started = time.perf_counter()
    await flood(layer, channel, goal, counts, 100, each / 10, started + at_most / 10)
    before = resident()
    await flood(layer, channel, goal, counts, 100, each * 9 / 10, started + at_most)
    await end(reader)
    return {"growth_mb": (resident() - before) / 1e6, "messages": goal.count}


async def cut(layer: Layer, spec: Spec, *, groups: int) -> Figures:
    """The connection of a layer with many groups is cut; until all of a sample get messages again.

    The messages come from another layer, which is not cut.
    """
    hop = await Hop.open(spec.port)
    config = json.dumps(spec.config).replace(f":{spec.port}", f":{hop.port}")
    victim = type(layer)(**json.loads(config))
    channel = await victim.new_channel()
    names = [new_name() for _ in range(groups)]
    await in_batches(victim.group_add(name, channel) for name in names)
    await pass_fence(victim)
    sample = {names[at * (groups - 1) // 20] for at in range(21)}

    async def listen(waiting: set[str]) -> None:
        while waiting:
            waiting.discard((await victim.receive(channel))["text"])

    walls: list[float] = []
    began = time.perf_counter()
    while not walls or time.perf_counter() - began < spec.seconds:
        hop.cut()
        started = time.perf_counter()
        waiting = set(sample)
        listening = asyncio.ensure_future(listen(waiting))
        while not listening.done():
            if time.perf_counter() - started > 3 * PATIENCE:
                raise Failure(f"{len(waiting)} of {len(sample)} groups did not come back")
            await in_batches(
                layer.group_send(name, {"type": "bench.message", "text": name})
                for name in list(waiting)
            )
            await asyncio.wait({listening}, timeout=0.05)
        listening.result()
        walls.append(time.perf_counter() - started)
    return {"seconds": statistics.median(walls), "groups": groups}
