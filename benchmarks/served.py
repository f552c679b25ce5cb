"""The workloads with real servers: Uvicorn or Daphne, Channels' consumers, and websockets.

The server is a process of its own, whose processor time counts; the clients are in this one. See
``site`` for what the server runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .checks import PATIENCE, Goal, processor_time, resident
from .peers import PEERS, Peer
from .servers import SERVERS
from .spec import Failure, Figures, Spec

HOST = "127.0.0.1"
#: How many clients connect at once while they are only set up.
AT_ONCE = 50
#: How long a client of a storm waits before it connects, or speaks, once more, in seconds.
AGAIN = 0.2
ROOM = "room"

#: By name, how a server is started: ``{port}`` and ``{loop}`` are filled in.
COMMANDS: Mapping[str, Sequence[str]] = {
    "uvicorn": (
        *("uvicorn", "--host", HOST, "--port", "{port}", "--loop", "{loop}"),
        *("--lifespan", "off", "--log-level", "error", "benchmarks.site:application"),
    ),
    "daphne": (*("daphne", "-v", "0", "-b", HOST, "-p", "{port}", "benchmarks.site:application"),),
}


@dataclass(frozen=True)
class Site:
    """A server that runs, and how its clients talk to it."""

    process: subprocess.Popen[bytes]
    address: str
    consumer: str

    @property
    def cpu(self) -> float:
        """The seconds of processor time that it has used."""
        return processor_time(self.process.pid)

    def dump(self, text: str) -> str:
        """Write a text as the consumer wants it."""
        return json.dumps(text) if self.consumer == "json" else text

    def load(self, text: str | bytes) -> str:
        """Read what the consumer wrote."""
        return str(json.loads(text) if self.consumer == "json" else text)

    @contextlib.asynccontextmanager
    async def client(self, *groups: str, consumer: str = "") -> AsyncIterator[Any]:
        """Open a websocket that is in these groups."""
        from websockets.asyncio.client import connect

        address = f"{self.address}/{consumer or self.consumer}/{','.join(groups)}/"
        async with connect(address, ping_interval=None, open_timeout=PATIENCE) as opened:
            yield opened


@contextlib.contextmanager
def site(spec: Spec, server: str, consumer: str, options: Sequence[str]) -> Any:
    """Start a server, and end it."""
    if not spec.layer:
        spec = replace(spec, layer="benchmarks.null.NullLayer", config={})
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    words = [word.format(port=port, loop=spec.loop) for word in COMMANDS[server]]
    process = subprocess.Popen(
        [sys.executable, "-m", *words, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"BENCH_SPEC": spec.dumps()},
    )
    try:
        for _ in range(int(PATIENCE / 0.05)):
            if process.poll() is not None:
                raise Failure(f"{server} ended with status {process.returncode}")
            with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
                break
            time.sleep(0.05)
        yield Site(process, f"ws://{HOST}:{port}", consumer)
    finally:
        process.kill()
        process.wait()


class Crowd:
    """Clients that are connected, each with a task that reads."""

    def __init__(self, site: Site, groups: Callable[[int], Sequence[str]]) -> None:
        self._site = site
        self._groups = groups
        self.clients: list[Any] = []

    async def read(self, number: int, got: Callable[[int, str], None]) -> None:
        """Be one client: say what comes, by the client's number."""
        async with self._site.client(*self._groups(number)) as client:
            self.clients.append(client)
            async for text in client:
                got(number, self._site.load(text))

    @contextlib.asynccontextmanager
    async def connected(self, count: int, got: Callable[[int, str], None]) -> AsyncIterator[None]:
        """Have that many."""
        tasks: list[asyncio.Task[None]] = []
        try:
            while len(tasks) < count:
                more = range(len(tasks), min(count, len(tasks) + AT_ONCE))
                tasks += [asyncio.create_task(self.read(number, got)) for number in more]
                async with asyncio.timeout(PATIENCE):
                    while len(self.clients) < len(tasks):
                        await asyncio.sleep(0.01)
                        for task in tasks:
                            if task.done():
                                task.result()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def timed(times: list[float]) -> Figures:
    """Return median and 99th percentile, in milliseconds."""
    times.sort()
    return {
        "p50_ms": statistics.median(times) * 1e3,
        "p99_ms": times[len(times) * 99 // 100] * 1e3,
    }


async def broadcast(site: Site, seconds: float, clients: int) -> Figures:
    """One client says something to the room; the next once all have it."""
    sent: list[float] = []
    times: list[float] = []
    counts = [0] * clients
    goal = Goal()

    def got(number: int, text: str) -> None:
        times.append(time.perf_counter() - sent[-1])
        if text != f"{ROOM} {counts[number]}" or counts[number] >= len(sent):
            goal.fail("a message came twice, out of order, or after a gap")
        counts[number] += 1
        goal.count += 1
        if goal.count == goal.wanted:
            goal.reached.set()

    async def once() -> None:
        sent.append(time.perf_counter())
        await crowd.clients[0].send(site.dump(f"{ROOM} {len(sent) - 1}"))
        await goal.wait(len(sent) * clients)

    crowd = Crowd(site, lambda number: [ROOM])
    memory = resident(site.process.pid)
    async with crowd.connected(clients, got):
        memory = resident(site.process.pid) - memory
        for _ in range(3):
            await once()
        times.clear()
        started, cpu = time.perf_counter(), site.cpu
        while time.perf_counter() - started < seconds:
            await once()
        wall, cpu = time.perf_counter() - started, site.cpu - cpu
    done = len(times)
    return {
        "rate": done / wall,
        "cpu_us": cpu / done * 1e6,
        "bytes_each": memory / clients,
        "messages": done,
        **timed(times),
    }


async def notify(site: Site, seconds: float, clients: int, sender: Site) -> Figures:
    """Another server tells each client something, through a group of its own; again when all know.

    ``send_us`` is the processor time that a message takes in the other server.
    """
    times: list[float] = []
    counts = [0] * clients
    goal = Goal()
    sent = 0.0

    def got(number: int, text: str) -> None:
        times.append(time.perf_counter() - sent)
        if text != f"user{number} {counts[number]}":
            goal.fail("a message came twice, out of order, or to somebody else")
        counts[number] += 1
        goal.count += 1
        if goal.count == goal.wanted:
            goal.reached.set()

    crowd = Crowd(site, lambda number: [f"user{number}"])
    async with crowd.connected(clients, got), sender.client("sender", consumer="bare") as told:

        async def once(number: int) -> None:
            nonlocal sent
            sent = time.perf_counter()
            await told.send(f"everybody {clients} {number}")
            await goal.wait((number + 1) * clients)

        for number in range(3):
            await once(number)
        times.clear()
        started, cpu, send_cpu = time.perf_counter(), site.cpu, sender.cpu
        for number in itertools.count(3):
            await once(number)
            if time.perf_counter() - started > seconds:
                break
        wall, cpu = time.perf_counter() - started, site.cpu - cpu
    done = len(times)
    return {
        "rate": done / wall,
        "cpu_us": cpu / done * 1e6,
        "send_us": 0 if sender is site else (sender.cpu - send_cpu) / done * 1e6,
        "messages": done,
        **timed(times),
    }


class Visitor:
    """A client that comes again until it is served: until it hears itself through its group."""

    def __init__(self, site: Site, number: int) -> None:
        self._site = site
        self._group = f"user{number}"
        self._open: Any = None
        self._stack = contextlib.AsyncExitStack()

    async def be_served(self, word: str) -> None:
        """Connect if need be, and speak until the answer comes."""
        from websockets.exceptions import WebSocketException

        for attempt in itertools.count():
            try:
                if self._open is None:
                    client = self._site.client(ROOM, self._group)
                    self._open = await self._stack.enter_async_context(client)
                text = f"{self._group} {word}"
                await self._open.send(self._site.dump(text))
                async with asyncio.timeout(AGAIN * (attempt + 1)):
                    while self._site.load(await self._open.recv()) != text:
                        pass
                return
            except TimeoutError:
                pass  # lost, it may be: say it again
            except (OSError, WebSocketException):
                await self.leave()
                await asyncio.sleep(AGAIN)

    async def leave(self) -> None:
        """Close the websocket."""
        self._open = None
        with contextlib.suppress(OSError):
            await self._stack.aclose()


async def _serve_all(visitors: Sequence[Visitor], word: str) -> None:
    async with asyncio.timeout(2 * PATIENCE):
        await asyncio.gather(*(visitor.be_served(word) for visitor in visitors))


async def storm(site: Site, seconds: float, clients: int) -> Figures:
    """All clients leave and come back at once, again and again, until each was served."""
    visitors = [Visitor(site, number) for number in range(clients)]
    await _serve_all(visitors, "first")
    walls: list[float] = []
    cpu = site.cpu
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        started = time.perf_counter()
        await asyncio.gather(*(visitor.leave() for visitor in visitors))
        await _serve_all(visitors, f"round{len(walls)}")
        walls.append(time.perf_counter() - started)
    cpu = site.cpu - cpu
    await asyncio.gather(*(visitor.leave() for visitor in visitors))
    return {
        "seconds": statistics.median(walls),
        "cpu_us": cpu / len(walls) / clients * 1e6,
        "rate": clients / statistics.median(walls),
    }


async def _outage(site: Site, clients: int, restart: Callable[[], Awaitable[None]]) -> Figures:
    """The layer's server restarts while clients are connected."""
    visitors = [Visitor(site, number) for number in range(clients)]
    await _serve_all(visitors, "before")
    await restart()
    started, cpu = time.perf_counter(), site.cpu
    await _serve_all(visitors, "after")
    wall, cpu = time.perf_counter() - started, site.cpu - cpu
    await asyncio.gather(*(visitor.leave() for visitor in visitors))
    return {"seconds": wall, "cpu_us": cpu / clients * 1e6}


#: What a case may ask for.
SCENARIOS: Mapping[str, Callable[..., Awaitable[Figures]]] = {
    function.__name__: function for function in (broadcast, notify, storm)
}


def served(
    spec: Spec,
    *,
    scenario: str,
    server: str = "uvicorn",
    consumer: str = "async",
    options: Sequence[str] = (),
    loop: str = "",
    **params: int,
) -> Figures:
    """Run a scenario, with a second server if it needs one that sends."""
    spec = replace(spec, loop=loop or spec.loop)
    with contextlib.ExitStack() as stack:
        started = stack.enter_context(site(spec, server, consumer, options))
        more: dict[str, Site] = {}
        if scenario == "notify":
            alone = not spec.peer or _peer(spec).server is None
            more["sender"] = (
                started if alone else stack.enter_context(site(spec, "uvicorn", "bare", ()))
            )
        return asyncio.run(_run(SCENARIOS[scenario](started, spec.seconds, **params, **more)))


async def _run(scenario: Awaitable[Figures]) -> Figures:
    return await scenario


def _peer(spec: Spec) -> Peer:
    return next(peer for peer in PEERS if peer.key == spec.peer)


def restart(spec: Spec, *, clients: int) -> Figures:
    """Restart the layer's server, one of our own, under a site; the time counts from its start."""
    peer = _peer(spec)
    with SERVERS[peer.server or ""]() as own:

        async def start_again() -> None:
            await asyncio.to_thread(own.end)
            own.launch()
            await asyncio.to_thread(own.wait_until_ready)

        spec = replace(spec, config=peer.config(own.port))
        with site(spec, "uvicorn", "async", ()) as started:
            return asyncio.run(_outage(started, clients, start_again))


SERVED: Mapping[str, Callable[..., Figures]] = {
    function.__name__: function for function in (served, restart)
}
