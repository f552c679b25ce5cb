"""Runs one workload on one channel layer, in that layer's own interpreter.

``python worker.py SPEC``: SPEC is a JSON object with ``layer`` (a dotted path), ``config``,
``loop`` (``asyncio`` or ``uvloop``), ``workload``, ``params``, ``seconds`` (how long to measure),
``django`` (more Django settings) and ``source`` (where the layer must have been imported from, if
that matters). One JSON line comes back: the figures, or ``error``.

Every workload uses nothing but the Channel Layer Specification's methods, and checks that each
message arrived once and in order before its figure counts. This file needs Channels and the
standard library only, because it runs beside each peer's packages.

Rates are per second of wall time, ``cpu_us`` is processor time of the Python processes per
message, delivery or membership, in microseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from asgiref.sync import async_to_sync

Spec = dict[str, Any]
Figures = dict[str, float]
Layer = Any

#: Seconds that a message may take before it counts as lost; ``spec`` may say otherwise.
PATIENCE = 20.0
#: So many calls are under way at once while something is only set up.
SETUP_BATCH = 500


class Failure(Exception):
    """The layer did not do what the workload asked of it."""


# What is sent, and whether it all came


def text(sender: int, number: int, size: int) -> str:
    """The text of a message: who sent it, the how-manieth it is, and padding to ``size``."""
    return f"{sender:04d} {number:08d} ".ljust(size, "x")


def message(sender: int, number: int, size: int) -> dict[str, object]:
    """A message like a chat's, whose text has ``size`` characters."""
    return {"type": "bench.message", "text": text(sender, number, size)}


def check_order(texts: Iterable[str], counts: Sequence[int]) -> None:
    """Raise Failure unless each sender's messages came once each and in order.

    ``counts[i]`` is how many sender ``i`` sent.
    """
    seen = [0] * len(counts)
    for received in texts:
        sender, number = int(received[:4]), int(received[5:13])
        if number != seen[sender]:
            kind = "twice or out of order" if number < seen[sender] else "after a gap"
            raise Failure(f"message {number} of sender {sender} came {kind}")
        seen[sender] += 1
    if seen != list(counts):
        raise Failure(f"{sum(counts) - sum(seen)} of {sum(counts)} messages never came")


class Goal:
    """Counts what arrives and wakes who waits for a number of it."""

    def __init__(self) -> None:
        self.count = 0
        #: The number that is waited for; -1 for none.
        self.wanted = -1
        self.reached = asyncio.Event()
        #: What a reader found wrong; empty while nothing is.
        self.wrong = ""

    def fail(self, wrong: str) -> None:
        """Something that came was not what should have come."""
        self.wrong = wrong
        self.reached.set()

    async def wait(self, wanted: int) -> None:
        """Wait until ``count`` is ``wanted``."""
        self.wanted = wanted
        if self.count < wanted:
            self.reached.clear()
            # Not asyncio.wait_for(), whose task would be a part of what is measured.
            timer = asyncio.get_running_loop().call_later(PATIENCE, self.reached.set)
            await self.reached.wait()
            timer.cancel()
        if self.wrong:
            raise Failure(self.wrong)
        if self.count < wanted:
            lost = wanted - self.count
            raise Failure(f"{lost} of {wanted} messages did not come within {PATIENCE:g} s")
        if self.count > wanted:
            raise Failure(f"{self.count} messages came instead of {wanted}")


async def read(layer: Layer, channel: str, texts: list[str], goal: Goal, keep: int = 0) -> None:
    """Receive for ever, as a consumer does; ``keep`` cuts what is remembered of long texts."""
    while True:
        received = (await layer.receive(channel))["text"]
        texts.append(received[:keep] if keep else received)
        goal.count += 1
        if goal.count == goal.wanted:
            goal.reached.set()


async def read_same(layer: Layer, channel: str, sent: list[str], goal: Goal) -> None:
    """Receive for ever what one sender has sent to many; keep nothing of it."""
    for number in itertools.count():
        received = (await layer.receive(channel))["text"]
        if number >= len(sent) or received != sent[number]:
            goal.fail("a message came twice, out of order, or after a gap")
            return
        goal.count += 1
        if goal.count == goal.wanted:
            goal.reached.set()


class Meter:
    """Wall and processor time since it was made."""

    def __init__(self) -> None:
        gc.collect()
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Seconds of wall time, seconds of processor time."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


async def in_batches(calls: Iterable[Awaitable[object]]) -> None:
    """Await calls, a bounded number at a time: for setting up only."""
    iterator = iter(calls)
    while batch := list(itertools.islice(iterator, SETUP_BATCH)):
        await asyncio.gather(*batch)


async def pass_fence(layer: Layer) -> None:
    """Wait until the server has done all that the layer has asked of it.

    Not every layer waits for that by itself. So join one more group, and wait for a message that
    comes through it.
    """
    channel = await layer.new_channel()
    name = f"fence{uuid.uuid4().hex}"
    await layer.group_add(name, channel)
    receiving = asyncio.ensure_future(layer.receive(channel))
    for _ in range(int(PATIENCE / 0.1)):
        await layer.group_send(name, message(0, 0, 20))
        # A layer that did not wait may have sent it too early.
        if (await asyncio.wait({receiving}, timeout=0.1))[0]:
            receiving.result()
            return
    receiving.cancel()
    raise Failure("a group that was joined got no message")


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel readers; an error that one ended with is the workload's."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


def resident() -> int:
    """Bytes of memory that this process occupies now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Workloads in one process


async def send(layer: Layer, spec: Spec) -> Figures:
    """``send()`` by concurrent senders to one channel, which ``receive()`` empties."""
    senders, size = spec["params"]["senders"], spec["params"]["payload"]
    keep = 13 if size > 10_000 else 0
    channel = await layer.new_channel()
    texts: list[str] = []
    goal = Goal()
    reader = asyncio.create_task(read(layer, channel, texts, goal, keep))
    await pass_fence(layer)
    warm_up = 200 if size <= 10_000 else senders
    counts = [0] * senders
    sent = 0
    # For layers that do not wait for their server: no more than this is under way.
    backlog = max(senders, min(5000, 16_000_000 // size))

    async def sender(number: int, deadline: float, at_most: float) -> None:
        nonlocal sent
        while counts[number] < at_most and time.perf_counter() < deadline:
            while sent - goal.count >= backlog:
                await asyncio.sleep(0)
            sent += 1
            await layer.send(channel, message(number, counts[number], size))
            counts[number] += 1

    async def run(deadline: float, at_most: float = float("inf")) -> None:
        await asyncio.gather(*(sender(number, deadline, at_most) for number in range(senders)))
        await goal.wait(sum(counts))

    await run(float("inf"), max(1, warm_up // senders))
    before = goal.count
    meter = Meter()
    await run(time.perf_counter() + spec["seconds"])
    wall, cpu = meter.read()
    await end([reader])
    check_order(texts, counts)
    done = goal.count - before
    return {
        "rate": done / wall,
        "cpu_us": cpu / done * 1e6,
        "bytes_rate": done * size / wall,
        "messages": done,
    }


async def latency(layer: Layer, spec: Spec) -> Figures:
    """One message at a time, from ``send()`` to the return of ``receive()``."""
    channel = await layer.new_channel()
    await pass_fence(layer)
    receiving = asyncio.ensure_future(layer.receive(channel))
    await pass_fence(layer)
    await layer.send(channel, message(0, 0, 100))
    texts = [(await asyncio.wait_for(receiving, PATIENCE))["text"]]
    times: list[float] = []

    async def once(number: int) -> None:
        started = time.perf_counter()
        await layer.send(channel, message(0, number, 100))
        received = await layer.receive(channel)
        times.append(time.perf_counter() - started)
        texts.append(received["text"])

    async def run() -> float:
        for number in range(1, 50):
            await once(number)
        times.clear()
        meter = Meter()
        deadline = time.perf_counter() + spec["seconds"]
        for number in itertools.count(50):
            await once(number)
            if time.perf_counter() > deadline:
                break
        return meter.read()[1]

    cpu = await asyncio.wait_for(run(), PATIENCE + spec["seconds"])
    check_order(texts, [len(texts)])
    times.sort()
    return {
        "median_us": statistics.median(times) * 1e6,
        "p99_us": times[len(times) * 99 // 100] * 1e6,
        "cpu_us": cpu / len(times) * 1e6,
        "messages": len(times),
    }


async def make_channels(layer: Layer, group: str, count: int) -> list[str]:
    """Channels that are members of a group."""
    channels = [await layer.new_channel() for _ in range(count)]
    await in_batches(layer.group_add(group, channel) for channel in channels)
    return channels


async def group(layer: Layer, spec: Spec) -> Figures:
    """``group_send()`` to many members that wait in this process; the next once all have it."""
    members = spec["params"]["members"]
    name = f"g{uuid.uuid4().hex}"
    goal = Goal()
    sent: list[str] = []
    readers = [
        asyncio.create_task(read_same(layer, channel, sent, goal))
        for channel in await make_channels(layer, name, members)
    ]
    await pass_fence(layer)

    async def once() -> None:
        sent.append(text(0, len(sent), 100))
        await layer.group_send(name, {"type": "bench.message", "text": sent[-1]})
        await goal.wait(len(sent) * members)

    await once()
    await once()
    meter = Meter()
    deadline = time.perf_counter() + spec["seconds"]
    while time.perf_counter() < deadline:
        await once()
    wall, cpu = meter.read()
    await end(readers)
    sends = len(sent) - 2
    deliveries = sends * members
    return {"rate": deliveries / wall, "cpu_us": cpu / deliveries * 1e6, "messages": sends}


async def second_loop(layer: Layer, spec: Spec) -> Figures:
    """``group_send()`` by 100 senders on the loop that reads, then on a loop in another thread.

    ``share`` is the second rate divided by the first.
    """
    name = f"g{uuid.uuid4().hex}"
    (channel,) = await make_channels(layer, name, 1)
    goal = Goal()
    reader = asyncio.create_task(read(layer, channel, [], goal, keep=13))
    await pass_fence(layer)

    async def sender(deadline: float) -> int:
        for count in itertools.count(1):
            await layer.group_send(name, message(0, 0, 100))
            if time.perf_counter() > deadline:
                return count
        raise AssertionError

    async def for_a_while() -> tuple[int, float]:
        meter = Meter()
        deadline = time.perf_counter() + spec["seconds"]
        counts = await asyncio.gather(*(sender(deadline) for _ in range(100)))
        return sum(counts), meter.read()[0]

    first_count, first_wall = await for_a_while()
    await goal.wait(first_count)
    count, wall = await asyncio.to_thread(lambda: asyncio.run(for_a_while()))
    await goal.wait(first_count + count)
    await end([reader])
    return {
        "rate": count / wall,
        "share": count / wall / (first_count / first_wall),
        "messages": count,
    }


async def own_groups(layer: Layer, spec: Spec) -> Figures:
    """Many channels each join, then leave, a group of their own, all at once.

    The time is over when all of it has reached the server: see :func:`pass_fence`.
    """
    count = spec["params"]["groups"]
    channels = [await layer.new_channel() for _ in range(count)]
    wall = [0.0, 0.0]
    cpu = 0.0
    rounds = 0
    deadline = time.perf_counter() + spec["seconds"]
    while rounds < 2 or time.perf_counter() < deadline:
        names = [f"g{rounds}.{index}.{uuid.uuid4().hex[:8]}" for index in range(count)]
        pairs = list(zip(names, channels, strict=True))
        meter = Meter()
        await asyncio.gather(*(layer.group_add(*pair) for pair in pairs))
        await pass_fence(layer)
        joined, cpu_joined = meter.read()
        if rounds == 0:
            await _check_joined(layer, pairs)
        meter = Meter()
        await asyncio.gather(*(layer.group_discard(*pair) for pair in pairs))
        await pass_fence(layer)
        left, cpu_left = meter.read()
        if rounds == 0:
            await _check_left(layer, pairs[:100])
        else:
            wall[0] += joined
            wall[1] += left
            cpu += cpu_joined + cpu_left
        rounds += 1
    done = (rounds - 1) * count
    return {
        "rate": 2 * done / sum(wall),
        "join_rate": done / wall[0],
        "leave_rate": done / wall[1],
        "cpu_us": cpu / (2 * done) * 1e6,
    }


async def _check_joined(layer: Layer, pairs: list[tuple[str, str]]) -> None:
    """Each channel gets the message of its own group and no other."""
    receiving = [asyncio.ensure_future(layer.receive(channel)) for _, channel in pairs]
    await pass_fence(layer)
    await in_batches(
        layer.group_send(name, message(0, number, 20)) for number, (name, _) in enumerate(pairs)
    )
    received = await asyncio.wait_for(asyncio.gather(*receiving), PATIENCE)
    if [got["text"] for got in received] != [text(0, number, 20) for number in range(len(pairs))]:
        raise Failure("a channel got the message of a group that it is not in")


async def _check_left(layer: Layer, pairs: list[tuple[str, str]]) -> None:
    """No channel gets a message of the group that it was in."""
    receiving = [asyncio.ensure_future(layer.receive(channel)) for _, channel in pairs]
    await in_batches(layer.group_send(name, message(0, 0, 20)) for name, _ in pairs)
    await in_batches(layer.send(channel, message(1, 0, 20)) for _, channel in pairs)
    received = await asyncio.wait_for(asyncio.gather(*receiving), PATIENCE)
    if any(got["text"] != text(1, 0, 20) for got in received):
        raise Failure("a channel got the message of a group that it had left")


async def room(layer: Layer, spec: Spec) -> Figures:
    """Many channels join one group, all at once, then leave it."""
    count = spec["params"]["members"]
    channels = [await layer.new_channel() for _ in range(count)]
    wall = [0.0, 0.0]
    cpu = 0.0
    rounds = 0
    deadline = time.perf_counter() + spec["seconds"]
    while rounds < 2 or time.perf_counter() < deadline:
        name = f"g{rounds}.{uuid.uuid4().hex}"
        meter = Meter()
        await asyncio.gather(*(layer.group_add(name, channel) for channel in channels))
        await pass_fence(layer)
        joined, cpu_joined = meter.read()
        if rounds == 0:
            receiving = [asyncio.ensure_future(layer.receive(channel)) for channel in channels]
            await pass_fence(layer)
            await layer.group_send(name, message(0, 0, 20))
            await asyncio.wait_for(asyncio.gather(*receiving), PATIENCE)
        meter = Meter()
        await asyncio.gather(*(layer.group_discard(name, channel) for channel in channels))
        left, _ = meter.read()
        if rounds:
            wall[0] += joined
            wall[1] += left
            cpu += cpu_joined
        rounds += 1
    done = (rounds - 1) * count
    return {
        "rate": done / wall[0],
        "leave_rate": done / wall[1],
        "cpu_us": cpu / done * 1e6,
    }


async def waiting(layer: Layer, spec: Spec) -> Figures:
    """Channels that wait in ``receive()``: the memory of each, and processor time.

    ``bytes_each`` is all memory that Python objects take: the channel's name, what the layer
    holds, and the task. ``bytes_more`` is by how much that exceeds a task with a bare future.
    """
    count = spec["params"]["channels"]
    loop = asyncio.get_running_loop()

    async def bare() -> None:
        await loop.create_future()

    async def make_bare() -> Coroutine[Any, Any, None]:
        return bare()

    async def make_receive() -> Coroutine[Any, Any, None]:
        receiving: Coroutine[Any, Any, None] = layer.receive(await layer.new_channel())
        return receiving

    async def measure(
        make: Callable[[], Awaitable[Coroutine[Any, Any, None]]],
    ) -> tuple[float, float]:
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tasks = [loop.create_task(await make()) for _ in range(count)]
        await _settle()
        gc.collect()
        used = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        for task in tasks:
            if task.done():
                raise Failure(f"a channel that nothing was sent to woke: {task.exception()!r}")
        meter = Meter()
        await asyncio.sleep(spec["seconds"])
        wall, cpu = meter.read()
        await end(tasks)
        return used, cpu / wall

    bare_bytes, bare_cpu = await measure(make_bare)
    bytes_each, cpu = await measure(make_receive)
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


async def soak(layer: Layer, spec: Spec) -> Figures:
    """Many messages through one process; how much memory grows after the first tenth of them.

    A layer that is too slow for that many sends as many as it can in ``at_most`` seconds.
    """
    total, at_most = spec["params"]["messages"], spec["params"]["at_most"]
    channel = await layer.new_channel()
    started = time.perf_counter()
    sent = received = 0
    marks: list[int] = []

    async def sender() -> None:
        nonlocal sent
        while sent < total and time.perf_counter() - started < at_most:
            while sent - received >= 5000:
                await asyncio.sleep(0)
            sent += 1
            await layer.send(channel, message(0, 0, 100))

    async def reader() -> None:
        nonlocal received
        while True:
            await layer.receive(channel)
            received += 1
            done = max(received / total, (time.perf_counter() - started) / at_most)
            if done * 10 >= len(marks) + 1:
                marks.append(resident())

    reading = asyncio.create_task(reader())
    await pass_fence(layer)
    await asyncio.gather(*(sender() for _ in range(100)))
    for _ in range(int(PATIENCE / 0.1)):
        if received == sent:
            break
        await asyncio.sleep(0.1)
    await end([reading])
    if received != sent:
        raise Failure(f"{sent - received} of {sent} messages never came")
    return {"growth_mb": (resident() - marks[0]) / 1e6, "messages": received}


# Workloads in several processes


class Child:
    """Another process of this file, which is told things and answers in lines."""

    def __init__(self, spec: Spec, role: str, **params: object) -> None:
        child_spec = {**spec, "workload": role, "params": {**spec["params"], **params}}
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(child_spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def heard(self) -> Spec:
        """Wait for its next line."""
        if self._process.stdout is None:
            raise RuntimeError("a child without a pipe")
        loop = asyncio.get_running_loop()
        line = await loop.run_in_executor(None, self._process.stdout.readline)
        answer: Spec = json.loads(line) if line else {"error": "a process ended unexpectedly"}
        if "error" in answer:
            raise Failure(answer["error"])
        return answer

    def tell(self, line: str) -> None:
        """Send it a line."""
        if self._process.stdin is None:
            raise RuntimeError("a child without a pipe")
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()


async def told() -> str:
    """In a child: wait for the parent's next line."""
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def answer(**values: object) -> None:
    """In a child, and at the very end: one line to whoever started this process."""
    print(json.dumps(values), flush=True)


async def processes(layer: Layer, spec: Spec) -> Figures:
    """Some processes publish to a group; as many others have members in it."""
    pairs, members = spec["params"]["pairs"], spec["params"]["members"]
    name = f"g{uuid.uuid4().hex}"
    children: list[Child] = []
    try:
        receivers = [Child(spec, "receiver", group=name) for _ in range(pairs)]
        children += receivers
        for child in receivers:
            await child.heard()
        publishers = [
            Child(spec, "publisher", group=name, number=number) for number in range(pairs)
        ]
        children += publishers
        for child in publishers:
            await child.heard()
        started = time.perf_counter()
        for child in children:
            child.tell("go")
        results = [await child.heard() for child in publishers]
        results += [await child.heard() for child in receivers]
        # Every process of a machine has the same clock.
        wall = max(result["finished"] for result in results) - started
        cpu = sum(result["cpu"] for result in results)
    finally:
        for child in children:
            child.kill()
    deliveries = pairs * spec["params"]["messages"] * pairs * members
    return {"rate": deliveries / wall, "cpu_us": cpu / deliveries * 1e6}


async def receiver(layer: Layer, spec: Spec) -> None:
    """One receiving process of :func:`processes`."""
    params = spec["params"]
    goal = Goal()
    channels = await make_channels(layer, params["group"], params["members"])
    texts: list[list[str]] = [[] for _ in channels]
    readers = [
        asyncio.create_task(read(layer, channel, got, goal))
        for channel, got in zip(channels, texts, strict=True)
    ]
    await pass_fence(layer)
    answer(ready=True)
    await told()
    meter = Meter()
    await goal.wait(params["pairs"] * params["messages"] * params["members"])
    _, cpu = meter.read()
    finished = time.perf_counter()
    await end(readers)
    for got in texts:
        check_order(got, [params["messages"]] * params["pairs"])
    answer(cpu=cpu, finished=finished)


async def publisher(layer: Layer, spec: Spec) -> None:
    """One publishing process of :func:`processes`: one message after the other."""
    params = spec["params"]
    answer(ready=True)
    await told()
    meter = Meter()
    for number in range(params["messages"]):
        await layer.group_send(params["group"], message(params["number"], number, 100))
    _, cpu = meter.read()
    answer(cpu=cpu, finished=time.perf_counter())


async def plain(layer: Layer, spec: Spec) -> Figures:
    """``async_to_sync(group_send)`` in another process, from plain code, one call at a time.

    ``in_memory_share`` compares with Channels' in-memory layer, called likewise: what
    ``async_to_sync()`` itself costs is in both.
    """
    name = f"g{uuid.uuid4().hex}"
    (channel,) = await make_channels(layer, name, 1)
    texts: list[str] = []
    goal = Goal()
    reader = asyncio.create_task(read(layer, channel, texts, goal))
    await pass_fence(layer)
    child = Child(spec, "plain_sender", group=name)
    try:
        figures = await child.heard()
        await goal.wait(figures["messages"])
    finally:
        child.kill()
    await end([reader])
    check_order(texts, [figures["messages"]])
    return figures


async def plain_sender(layer: Layer, spec: Spec) -> None:
    """The process of :func:`plain` that sends, as a Celery task, a view or a script does it."""
    from channels.layers import InMemoryChannelLayer

    name, seconds = spec["params"]["group"], spec["seconds"]
    number = itertools.count()

    def for_a_while(send: Callable[[Any, Any], None]) -> float:
        for _ in range(20):
            send(name, message(0, next(number), 100))
        started = time.perf_counter()
        for count in itertools.count(1):
            send(name, message(0, next(number), 100))
            if time.perf_counter() - started > seconds:
                return (time.perf_counter() - started) / count
        raise AssertionError

    each = await asyncio.to_thread(for_a_while, async_to_sync(layer.group_send))
    messages = next(number)
    in_memory = async_to_sync(InMemoryChannelLayer().group_send)
    in_memory_each = await asyncio.to_thread(for_a_while, in_memory)
    answer(rate=1 / each, in_memory_share=in_memory_each / each, messages=messages)


async def disconnect(layer: Layer, spec: Spec) -> Figures:
    """A process with many groups dies; what the server's other clients notice of that.

    ``worst_ms`` is the longest that a message, or joining and leaving a group, took of another
    process after it; ``usual_ms`` the longest before.
    """
    holder = Child(spec, "holder")
    channel = await layer.new_channel()
    worst = 0.0

    async def messages() -> None:
        nonlocal worst
        while True:
            started = time.perf_counter()
            await layer.send(channel, message(0, 0, 100))
            await layer.receive(channel)
            worst = max(worst, time.perf_counter() - started)
            await asyncio.sleep(0.002)

    async def groups() -> None:
        nonlocal worst
        for number in itertools.count():
            started = time.perf_counter()
            await layer.group_add(f"busy{number}", channel)
            await layer.group_discard(f"busy{number}", channel)
            worst = max(worst, time.perf_counter() - started)
            await asyncio.sleep(0.002)

    try:
        await holder.heard()
        tasks = [asyncio.create_task(messages()), asyncio.create_task(groups())]
        await asyncio.sleep(0.2)
        worst = 0.0
        await asyncio.sleep(1)
        usual, worst = worst, 0.0
    finally:
        holder.kill()
    # Longer than any stall that is still under way.
    await asyncio.sleep(spec["params"]["watch"])
    await end(tasks)
    return {"worst_ms": worst * 1e3, "usual_ms": usual * 1e3}


async def holder(layer: Layer, spec: Spec) -> None:
    """The process of :func:`disconnect` that has the groups."""
    groups = spec["params"]["groups"]
    channels = [await layer.new_channel() for _ in range(100)]
    await in_batches(
        layer.group_add(f"held{number}", channels[number % 100]) for number in range(groups)
    )
    await pass_fence(layer)
    answer(ready=True)
    await told()


async def migrate(layer: Layer, spec: Spec) -> Figures:
    """Not a workload: make the tables of a layer that keeps them in a database."""
    from django.core.management import call_command

    loop = asyncio.get_running_loop()
    database = spec["params"]["database"]
    await loop.run_in_executor(
        None, lambda: call_command("migrate", database=database, verbosity=0)
    )
    return {}


WORKLOADS: dict[str, Callable[[Layer, Spec], Awaitable[Figures | None]]] = {
    function.__name__: function
    for function in (
        send,
        latency,
        group,
        plain,
        second_loop,
        own_groups,
        room,
        waiting,
        soak,
        processes,
        receiver,
        publisher,
        plain_sender,
        disconnect,
        holder,
        migrate,
    )
}


#: What runs beside a workload that has begun.
CHILDREN = frozenset({"receiver", "publisher", "plain_sender", "holder"})


def make_layer(spec: Spec) -> Layer:
    """Make the layer that ``spec`` names."""
    module, _, name = spec["layer"].rpartition(".")
    imported = importlib.import_module(module)
    if not str(imported.__file__).startswith(spec.get("source", "")):
        raise Failure(f"{module} was imported from {imported.__file__}")
    return getattr(imported, name)(**spec["config"])


async def run(spec: Spec) -> None:
    """Run the workload; print what it found."""
    layer = make_layer(spec)
    if spec.get("flush") and spec["workload"] not in (
        "receiver",
        "publisher",
        "plain_sender",
        "holder",
    ):
        await layer.flush()
    try:
        if spec["workload"] != "migrate":
            await pass_fence(layer)  # by then it is connected
        figures = await WORKLOADS[spec["workload"]](layer, spec)
    except Exception as err:
        answer(error=f"{type(err).__name__}: {err}" if str(err) else repr(err))
        return
    if figures is not None:
        answer(**figures)


def main(argument: str) -> None:
    """Run what the command line asks for, and end without waiting for the layer's leftovers."""
    global PATIENCE
    spec: Spec = json.loads(argument)
    PATIENCE = spec.get("patience", PATIENCE)
    import django
    from django.conf import settings

    settings.configure(**spec.get("django", {}))
    django.setup()
    if spec["loop"] == "uvloop":
        uvloop = importlib.import_module("uvloop")
        asyncio.set_event_loop(uvloop.new_event_loop())
    else:
        asyncio.set_event_loop(asyncio.new_event_loop())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.get_event_loop().run_until_complete(run(spec))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
