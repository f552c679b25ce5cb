"""What workloads are made of: messages, readers, clocks, and checks that every message arrived."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import time
import uuid
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from .spec import Failure, Layer

#: How long a message may take before it counts as lost, in seconds.
PATIENCE = 20.0
#: How many calls are under way at once while something is only set up.
SETUP_BATCH = 500


def text(sender: int, number: int, size: int) -> str:
    """Return a text of ``size`` characters that tells its sender and its number."""
    return f"{sender:04d} {number:08d} ".ljust(size, "x")


def message(sender: int, number: int, size: int = 100) -> dict[str, object]:
    """Return a message like a chat's, whose text has ``size`` characters."""
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
        """Note that something came that should not have come."""
        self.wrong = wrong
        self.reached.set()

    async def wait(self, wanted: int) -> None:
        """Wait until ``count`` is ``wanted``."""
        self.wanted = wanted
        if self.count < wanted:
            self.reached.clear()
            # Not asyncio.timeout(), which would be a part of what is measured.
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


async def read(
    layer: Layer, channel: str, goal: Goal, texts: list[str] | None = None, keep: int | None = None
) -> None:
    """Receive for ever, as a consumer does; remember ``keep`` characters of each text."""
    while True:
        received = (await layer.receive(channel))["text"]
        if texts is not None:
            texts.append(received[:keep])
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


async def flood(
    layer: Layer, channel: str, goal: Goal, counts: list[int], size: int, most: float, until: float
) -> None:
    """Send by concurrent senders, ``most`` messages each or until the clock says ``until``.

    ``counts`` has how many each has sent before. Returns when ``goal`` has all of them.
    """
    sent = sum(counts)
    # For layers that do not wait for their server: no more than this is under way.
    backlog = max(len(counts), min(5000, 16_000_000 // size))

    async def sender(number: int, most: float) -> None:
        nonlocal sent
        while counts[number] < most and time.perf_counter() < until:
            while sent - goal.count >= backlog:
                await asyncio.sleep(0)
            sent += 1
            await layer.send(channel, message(number, counts[number], size))
            counts[number] += 1

    await asyncio.gather(*(sender(number, count + most) for number, count in enumerate(counts)))
    await goal.wait(sent)


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel readers; an error that one ended with is the workload's."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


class Meter:
    """Wall and processor time since it was made."""

    def __init__(self) -> None:
        gc.collect()
        self._cpu = time.process_time()
        self._wall = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Return seconds of wall time, and of processor time."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def count_for(seconds: float) -> Iterator[int]:
    """Count from 0 until ``seconds`` are over."""
    deadline = time.perf_counter() + seconds
    for number in itertools.count():
        yield number
        if time.perf_counter() > deadline:
            return


def resident(process: int | str = "self") -> int:
    """Return the bytes of memory that a process occupies now (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used (Linux)."""
    # The clock of another process: CPUCLOCK_SCHED of include/linux/posix-timers.h.
    return time.clock_gettime(~pid << 3 | 2)


def new_name() -> str:
    """Return a name that no other group has."""
    return f"g{uuid.uuid4().hex}"


async def in_batches(calls: Iterable[Awaitable[object]]) -> None:
    """Await calls, a bounded number at a time: for setting up only."""
    iterator = iter(calls)
    while batch := list(itertools.islice(iterator, SETUP_BATCH)):
        await asyncio.gather(*batch)


async def make_members(layer: Layer, group: str, count: int) -> list[str]:
    """Return new channels that are members of a group."""
    channels = [await layer.new_channel() for _ in range(count)]
    await in_batches(layer.group_add(group, channel) for channel in channels)
    return channels


async def pass_fence(layer: Layer) -> None:
    """Wait until the server has done all that the layer has asked of it.

    Not every layer waits for that by itself. So join one more group, and wait for a message that
    comes through it.
    """
    channel = await layer.new_channel()
    name = new_name()
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


class Hop:
    """A port that leads on to a server's, until the connections through it are cut."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._open: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self.port = 0

    @classmethod
    async def open(cls, to: int) -> Self:
        """Start taking connections."""
        hop = cls(to)
        server = await asyncio.start_server(hop._lead_on, "127.0.0.1")
        hop.port = server.sockets[0].getsockname()[1]
        # It lasts as long as its loop.
        hop._pumps.add(asyncio.ensure_future(server.serve_forever()))
        return hop

    async def _lead_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_read, to_write = await asyncio.open_connection("127.0.0.1", self._to)
        self._open += [writer, to_write]
        await asyncio.gather(self._pump(reader, to_write), self._pump(to_read, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def cut(self) -> None:
        """End all connections without a word."""
        while self._open:
            self._open.pop().transport.abort()
