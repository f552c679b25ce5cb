"""Numbered messages between several processes on a cluster, and what became of each of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Any

from devtools.broker import Broker
from devtools.cluster import Cluster
from tests.helpers.processes import Process, running

#: Seconds that a call waits for RabbitMQ, at most.
SEND_TIMEOUT = 5
#: Most seconds from a fault until messages are received again: machines may be loaded, and RabbitMQ
#: up to 3.13 changes no bindings until a frozen node counts as down (``NET_TICKTIME``).
BACK = 120
#: Most MiB by which a process may grow, with what it keeps for the test.
MEMORY = 20
#: Seconds before a fault in which a message may already be waiting where the fault is.
_ON_THE_WAY = 1.0

#: What both kinds of processes do when they are told so; the rest is their own.
_COMMANDS = """
import os
import time
from pathlib import Path

async def obey():
    while True:
        what = await hear()
        if what == "port":
            tell((await layer.current_connection).protocol.endpoint.port)
        elif what == "move":
            await (await layer.current_connection).close()
            await layer.current_connection
            tell("moved")
        elif what == "memory":
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            tell(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        else:
            return
"""

_RECEIVER = """
async def main():
    own = await layer.new_channel()
    await layer.group_add("room", own)
    tell(own)
    got = []

    async def read(channel):
        while True:
            message = await layer.receive(channel)
            got.append([message["stream"], message["n"], message["at"]])

    tasks = [asyncio.create_task(read(name)) for name in (own, "jobs")]
    while True:
        await obey()
        tell(got)
"""

_SENDER = """
async def main():
    log = []

    async def send(stream, call, target):
        n = 0
        while True:
            n += 1
            began = time.time()
            try:
                await call(target, {"type": "m", "stream": stream, "n": n, "at": began})
                error, in_doubt = "", False
            except Exception as err:
                error = repr(err)
                in_doubt = getattr(err, "sent", False)
            log.append([stream, n, began, time.time() - began, error, in_doubt])
            await asyncio.sleep(0.02)

    streams = [("group", layer.group_send, "room"), ("jobs", layer.send, "jobs")]
    streams += [(f"direct {i}", layer.send, own) for i, own in enumerate(await hear())]
    tasks = [asyncio.create_task(send(*stream)) for stream in streams]
    tell("sending")
    await obey()
    for task in tasks:
        task.cancel()
    tell(log)
    await hear()
"""


@dataclass
class Traffic:
    """Receivers in one group and of one normal channel, and who sends to them, and directly."""

    cluster: Cluster
    sender: Process
    receivers: list[Process]
    #: The streams that reach each receiver, but for the normal channel.
    streams: list[list[str]]
    #: The memory of each process at the beginning, in MiB.
    memory_before: list[float] = field(default_factory=list)
    #: When there was a fault, from and until.
    windows: list[tuple[float, float]] = field(default_factory=list)

    async def received(self) -> list[list[tuple[str, int, float]]]:
        """What each receiver has received so far: stream, number, and when it was sent."""
        for receiver in self.receivers:
            receiver.tell("what")
        return [[tuple(row) for row in await receiver.hear()] for receiver in self.receivers]

    async def ports(self) -> list[int]:
        """The port that each receiver is connected to."""
        return [await _port(receiver) for receiver in self.receivers]

    async def victim(self) -> tuple[Broker, list[int]]:
        """A node, and the receivers that are connected to it: one at least."""
        ports = await self.ports()
        node = next(node for node in self.cluster.nodes if node.port == ports[0])
        return node, [number for number, port in enumerate(ports) if port == node.port]

    async def memory(self) -> list[float]:
        """The resident memory of each process, in MiB."""
        processes = [self.sender, *self.receivers]
        for process in processes:
            process.tell("memory")
        return [await process.hear() for process in processes]

    async def apart(self) -> Broker:
        """Move processes until the first receiver is alone on a node; give the node."""
        first, second = self.receivers
        port = await _port(first)
        for process in (second, self.sender):
            while await _port(process) == port:
                process.tell("move")
                assert await process.hear() == "moved"
        return next(node for node in self.cluster.nodes if node.port == port)

    async def back(
        self, since: float, without: Collection[int] = (), deaf: Collection[int] = ()
    ) -> float:
        """Wait until every stream is received that was sent after ``since``; give the seconds.

        But for the messages directly to the receivers ``without``, and for the receivers ``deaf``.
        """
        wanted = {
            (number, stream)
            for number, streams in enumerate(self.streams)
            for stream in streams
            if number not in deaf and not (number in without and stream.startswith("direct"))
        }
        deadline = time.time() + BACK
        while True:
            rows = await self.received()
            found = {
                (number, stream)
                for number, got in enumerate(rows)
                for stream, _, sent in got
                if sent > since
            }
            missing = wanted - found
            if not missing and any(stream == "jobs" for _, stream in found):
                return time.time() - since
            logs = [process.log for process in (self.sender, *self.receivers)]
            assert time.time() < deadline, f"not back after {BACK} s: {missing} {logs}"
            await asyncio.sleep(0.1)

    async def quiet(self) -> None:
        """Have a second without a fault, after whatever was under way."""
        began = time.time()
        await self.back(began)
        await asyncio.sleep(1)

    @contextlib.asynccontextmanager
    async def fault(self) -> AsyncIterator[None]:
        """Within it there is a fault, over when all is received again."""
        began = time.time()
        yield
        await self.back(time.time())
        self.windows.append((began - _ON_THE_WAY, time.time()))

    async def check(self) -> dict[str, Any]:
        """Stop sending; check what was received against what was sent, and count it."""
        pairs = zip(await self.memory(), self.memory_before, strict=True)
        growth = max(now - before for now, before in pairs)
        assert growth < MEMORY
        self.sender.tell("stop")
        log = await self.sender.hear()
        sent = {(stream, n): (at, error) for stream, n, at, _, error, _ in log}
        in_doubt = {(stream, n) for stream, n, *_, doubt in log if doubt}
        streams = {stream for stream, _ in sent}
        received: list[list[tuple[str, int, float]]] = []

        async def all_there() -> bool:
            received[:] = await self.received()
            return not self._missing(sent, received)

        deadline = time.time() + 5
        while not await all_there() and time.time() < deadline:
            await asyncio.sleep(0.1)
        late = 0
        for got in received:
            for stream in streams:
                numbers = [n for s, n, _ in got if s == stream]
                assert len(numbers) == len(set(numbers)), f"{stream}: duplicates"
                confirmed = [n for n in numbers if (stream, n) not in in_doubt]
                steps = [(a, b) for a, b in itertools.pairwise(confirmed) if b < a]
                assert not steps, f"{stream}: out of order, {steps}"
                highest = itertools.accumulate(numbers, max)
                late += sum(n < top for n, top in zip(numbers, highest, strict=True))
        jobs = [n for got in received for s, n, _ in got if s == "jobs"]
        assert len(jobs) == len(set(jobs)), "jobs: duplicates"
        assert not self._missing(sent, received)
        refused = [row for row in log if row[4] and not self._at_fault(row[2])]
        assert not refused
        longest = max(seconds for _, _, _, seconds, _, _ in log)
        assert longest < SEND_TIMEOUT + 2
        return {
            "sent": len(log),
            "refused": sum(bool(error) for *_, error, _ in log),
            "in doubt": len(in_doubt),
            "of these late": late,
            "received": sum(map(len, received)),
            "longest call": round(longest, 2),
            "MiB more": round(growth, 1),
        }

    def _at_fault(self, at: float) -> bool:
        return any(began <= at <= ended for began, ended in self.windows)

    def _missing(
        self,
        sent: dict[tuple[str, int], tuple[float, str]],
        received: list[list[tuple[str, int, float]]],
    ) -> list[tuple[str, int]]:
        """What was taken by RabbitMQ outside the windows of fault, and has not been received."""
        found = [{(stream, n) for stream, n, _ in got} for got in received]
        missing = []
        for (stream, n), (at, error) in sent.items():
            if error or self._at_fault(at):
                continue
            if stream == "jobs":
                there = any((stream, n) in each for each in found)
            else:
                there = all(
                    (stream, n) in each
                    for each, wanted in zip(found, self.streams, strict=True)
                    if stream in wanted
                )
            if not there:
                missing.append((stream, n))
        return missing


async def _port(process: Process) -> int:
    """The port that a process is connected to."""
    process.tell("port")
    port = await process.hear()
    assert isinstance(port, int)
    return port


@contextlib.asynccontextmanager
async def traffic(cluster: Cluster) -> AsyncIterator[Traffic]:
    """Two receivers and a sender, each a process of its own, on any of the nodes."""
    config: dict[str, Any] = {
        "host": [f"{url}?heartbeat=4" for url in cluster.urls],
        "send_timeout": SEND_TIMEOUT,
        "normal_queue_type": "quorum",
        "remote_capacity": 10_000,
        "local_capacity": 1000,
        "capacity": 10_000,
    }
    with (
        running(_COMMANDS + _RECEIVER, **config) as one,
        running(_COMMANDS + _RECEIVER, **config) as two,
        running(_COMMANDS + _SENDER, group_send_raises=True, **config) as sender,
    ):
        channels = [await one.hear(), await two.hear()]
        sender.tell(channels)
        assert await sender.hear() == "sending"
        made = Traffic(cluster, sender, [one, two], [["group", "direct 0"], ["group", "direct 1"]])
        await made.quiet()
        made.memory_before = await made.memory()
        yield made
        for process in (sender, one, two):
            assert "Traceback" not in process.log, process.log
            assert "A bug in" not in process.log, process.log
