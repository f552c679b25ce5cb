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
import statistics
import subprocess
import sys
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from typing import Any

from devtools.process import HOST, accepts, free_port

from .checks import PATIENCE, Goal, processor_time, resident
from .peers import PEERS, Peer
from .servers import SERVERS
from .spec import Failure, Figures, Spec

#: How many clients connect at once while they are only set up.
AT_ONCE = 50
#: How long a client of a storm waits before it connects, or speaks, once more, in seconds.
AGAIN = 0.2
ROOM = "room"
#: Rounds that are not counted.
WARM_UP = 3

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
def site(spec: Spec, server: str, consumer: str, options: Sequence[str]) -> Iterator[Site]:
    """Start a server, and end it."""
    if not spec.layer:
        spec = replace(spec, layer="benchmarks.null.NullLayer", config={})
    port = free_port()
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
            if accepts(port):
                break
            time.sleep(0.05)
        yield Site(process, f"ws://{HOST}:{port}", consumer)
    finally:
        process.kill()
        process.wait()


class Crowd:
    """Clients that are connected, each with a task that checks and counts what it reads."""

    def __init__(self, site: Site, group: str) -> None:
        self._site = site
        #: The group of each client: ``{}`` stands for its number.
        self._group = group
        self.clients: list[Any] = []
        self._goal = Goal()
        #: When the latest round began, and how long after that each message came.
        self._began = 0.0
        self._times: list[float] = []

    async def _read(self, number: int) -> None:
        group = self._group.format(number)
        async with self._site.client(group) as client:
            self.clients.append(client)
            heard = 0
            async for text in client:
                self._times.append(time.perf_counter() - self._began)
                if self._site.load(text) != f"{group} {heard}":
                    self._goal.fail("a message came twice, out of order, or to somebody else")
                heard += 1
                self._goal.count += 1
                if self._goal.count == self._goal.wanted:
                    self._goal.reached.set()

    @contextlib.asynccontextmanager
    async def connected(self, count: int) -> AsyncIterator[None]:
        """Have that many."""
        tasks: list[asyncio.Task[None]] = []
        try:
            while len(tasks) < count:
                more = range(len(tasks), min(count, len(tasks) + AT_ONCE))
                tasks += [asyncio.create_task(self._read(number)) for number in more]
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

    async def hear(self, seconds: float, say: Callable[[int], Awaitable[None]]) -> Figures:
        """Have something said, and again once all have heard it; return what that takes."""
        for number in itertools.count():
            if number == WARM_UP:
                self._times.clear()
                started, cpu = time.perf_counter(), self._site.cpu
            self._began = time.perf_counter()
            if number > WARM_UP and self._began - started > seconds:
                break
            await say(number)
            await self._goal.wait((number + 1) * len(self.clients))
        wall, cpu = self._began - started, self._site.cpu - cpu
        times = sorted(self._times)
        return {
            "rate": len(times) / wall,
            "cpu_us": cpu / len(times) * 1e6,
            "p50_ms": statistics.median(times) * 1e3,
            "p99_ms": times[len(times) * 99 // 100] * 1e3,
            "messages": len(times),
        }


async def broadcast(site: Site, seconds: float, clients: int) -> Figures:
    """One client says something to the room."""
    crowd = Crowd(site, ROOM)
    memory = resident(site.process.pid)
    async with crowd.connected(clients):
        memory = resident(site.process.pid) - memory

        async def say(number: int) -> None:
            await crowd.clients[0].send(site.dump(f"{ROOM} {number}"))

        return {**await crowd.hear(seconds, say), "bytes_each": memory / clients}


async def notify(site: Site, seconds: float, clients: int, sender: Site) -> Figures:
    """Another server tells each client something, through a group of its own.

    ``send_us`` is the processor time that a message takes there.
    """
    crowd = Crowd(site, "user{}")
    async with crowd.connected(clients), sender.client("sender", consumer="bare") as told:

        async def say(number: int) -> None:
            await told.send(f"everybody {clients} {number}")

        cpu = sender.cpu
        found = await crowd.hear(seconds, say)
        cpu = (sender.cpu - cpu) / (found["messages"] + WARM_UP * clients) * 1e6
        return found if sender is site else {**found, "send_us": cpu}


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
    serving = [asyncio.create_task(visitor.be_served(word)) for visitor in visitors]
    _, late = await asyncio.wait(serving, timeout=2 * PATIENCE)
    for task in late:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=bool(late))
    if late:
        raise Failure(f"{len(late)} clients were not served within {2 * PATIENCE:g} s")


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
SCENARIOS: Mapping[str, Callable[..., Coroutine[None, None, Figures]]] = {
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
        return asyncio.run(SCENARIOS[scenario](started, spec.seconds, **params, **more))


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
