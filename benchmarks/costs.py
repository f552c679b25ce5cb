"""``python -m benchmarks --costs``: what RabbitMQ itself takes, and how that grows.

Its memory for each process, queue, binding and waiting message; its processor time for each message
and for each process that a group reaches, with 1 to 16 processes and on 1 to 3 nodes; how fast
groups are joined; and how long all are away when it restarts. ``scaling`` makes a model of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

import pamqp.commands

from devtools.broker import Broker
from devtools.cluster import Cluster

from .checks import processor_time
from .limits import Raw
from .multiprocess import Child
from .peers import PEERS
from .results import OURS
from .servers import settle
from .spec import Figures, Spec

#: How many processes there are, one after the other.
PROCESSES = (1, 2, 4, 8, 16)
#: The same in clusters of several nodes.
IN_CLUSTERS = (2, 4, 8)
#: Groups that each process has of its own.
GROUPS = 500
#: Deliveries to processes in each measurement.
DELIVERIES = 40_000
#: What memory is measured with.
CONNECTIONS, QUEUES, BINDINGS, MESSAGES = 50, 200, 10_000, 10_000
#: Without it, a connection holds a buffer as large as the kernel lets its socket have: megabytes.
#: https://www.rabbitmq.com/docs/networking#tuning-for-throughput-tcp-buffers
BUFFERS = {"tcp_listen_options.sndbuf": "98304", "tcp_listen_options.recbuf": "98304"}
#: Erlang's whole memory, in bytes, after what is no longer used was freed. That is not waited for:
#: some processes of Erlang's own collect no garbage while they read from a terminal.
MEMORY = (
    "[erlang:garbage_collect(P, [{async, P}]) || P <- erlang:processes()],"
    "timer:sleep(1000), erlang:memory(total)."
)


@dataclass(frozen=True)
class Memory:
    """What one node holds, in bytes."""

    #: With nothing on it.
    idle: float
    #: For a process: its connection, its AMQP channels, its queue and two bindings.
    process: float
    #: For a queue alone.
    queue: float
    #: For a group that a process is in.
    binding: float
    #: For a message of 100 characters that waits.
    message: float


@dataclass(frozen=True)
class FanOut:
    """A flood of messages to a group that one channel of each process is in."""

    nodes: int
    processes: int
    #: Messages a second.
    rate: float
    #: The processor time of all nodes for a message, in µs.
    broker_us: float
    #: The processor time of the process that sends, and of each that receives, in µs.
    send_us: float
    receive_us: float


@dataclass(frozen=True)
class Join:
    """All processes join groups of their own at once."""

    nodes: int
    processes: int
    #: Groups joined a second, by all together.
    rate: float
    #: The processor time of all nodes for each, in µs.
    broker_us: float


@dataclass(frozen=True)
class Outage:
    """RabbitMQ, a single node, is ended and started again."""

    processes: int
    #: Groups of all processes together.
    groups: int
    #: From its end until it takes connections again, in seconds.
    away: float
    #: From then on, until each process got messages through its groups, in seconds.
    back: Sequence[float]


@dataclass
class Costs:
    """All that was measured."""

    facts: dict[str, str]
    memory: Memory
    #: The processor time of RabbitMQ for a process that connects, in µs.
    connect_us: float
    fan_outs: list[FanOut] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write all: a line for each measurement."""
        parts = []
        for name, value in json.loads(json.dumps(asdict(self)), parse_float=_short).items():
            if isinstance(value, list):
                lines = ",\n".join(json.dumps(each) for each in value)
                parts.append(f'"{name}": [\n{lines}\n]')
            else:
                parts.append(f'"{name}": {json.dumps(value)}')
        path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote."""
        read = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            read["facts"],
            Memory(**read["memory"]),
            read["connect_us"],
            [FanOut(**each) for each in read["fan_outs"]],
            [Join(**each) for each in read["joins"]],
            [Outage(**each) for each in read["outages"]],
        )


def _short(text: str) -> float:
    return float(f"{float(text):.4g}")  # more digits are noise


class Crew:
    """Processes of a site on some nodes."""

    def __init__(self, nodes: Sequence[Broker]) -> None:
        self.nodes = nodes
        self.children: list[Child] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, nodes: Sequence[Broker]) -> AsyncIterator[Self]:
        """Have processes on these nodes, and end them."""
        crew = cls(nodes)
        try:
            yield crew
        finally:
            for child in crew.children:
                child.kill()

    @property
    def cpu(self) -> float:
        """The seconds of processor time that all nodes have used."""
        return sum(processor_time(node.pid) for node in self.nodes)

    def memory(self) -> int:
        """The bytes that the first node holds."""
        return int(self.nodes[0].ctl("eval", MEMORY, timeout=300))

    async def add(self, count: int, **config: object) -> list[Child]:
        """Start processes, on one node after the other."""
        ours = next(peer for peer in PEERS if peer.key == OURS)
        added = []
        for number in range(len(self.children), len(self.children) + count):
            port = self.nodes[number % len(self.nodes)].port
            spec = Spec(workload="member", seconds=0, layer=ours.layer)
            added.append(Child(replace(spec, config={**ours.config(port), **config})))
        self.children += added
        for child in added:
            await child.heard()
        return added

    async def join(self, children: Sequence[Child], count: int) -> Join:
        """Have children join groups of their own at once, on nodes with nothing else to do."""
        await asyncio.gather(*(asyncio.to_thread(settle, node) for node in self.nodes))
        cpu, started = self.cpu, time.perf_counter()
        await all_do(children, "join", count=count)
        wall, cpu = time.perf_counter() - started, self.cpu - cpu
        done = count * len(children)
        return Join(len(self.nodes), len(children), done / wall, cpu / done * 1e6)

    async def fan_out(self, sender: Child, members: Sequence[Child]) -> FanOut:
        """Flood a group with one channel in each of some children."""
        room, count = f"room{len(members)}", DELIVERIES // (len(members) + 1)
        await all_do(members, "enter", room=room)
        expecting = asyncio.ensure_future(all_do(members, "expect", room=room, count=count))
        await asyncio.sleep(0.2)  # they are under way
        cpu = self.cpu
        sent = await sender.do("publish", room=room, count=count)
        received = await expecting
        cpu = self.cpu - cpu
        wall = max(each["finished"] for each in received) - sent["started"]
        receive = sum(each["cpu"] for each in received) / len(members)
        return FanOut(
            *(len(self.nodes), len(members), count / wall),
            *(seconds / count * 1e6 for seconds in (cpu, sent["cpu"], receive)),
        )

    async def outage(self, members: Sequence[Child]) -> Outage:
        """End the node and start it again; return when everybody is back."""
        (node,) = self.nodes
        ended = time.perf_counter()
        await asyncio.to_thread(node.kill)
        recovering = asyncio.ensure_future(all_do(members, "recover"))
        await asyncio.to_thread(node.restart)
        started = time.perf_counter()
        back = [each["finished"] - started for each in await recovering]
        return Outage(len(members), GROUPS * len(members), started - ended, sorted(back))


async def all_do(children: Iterable[Child], name: str, **params: object) -> list[Figures]:
    """Have children do the same at once."""
    return await asyncio.gather(*(child.do(name, **params) for child in children))


async def in_memory(node: Broker) -> tuple[Memory, float]:
    """Measure memory, and the processor time of connecting."""
    async with Crew.on([node]) as crew:
        idle = crew.memory()
        raw = Raw(node.port)
        before = crew.memory()
        for number in range(QUEUES):
            raw.call(pamqp.commands.Queue.Declare(queue=f"q{number}", exclusive=True), 1)
        queue = (crew.memory() - before) / QUEUES
        raw.socket.close()

        # One message at a time in the process: all others wait on RabbitMQ.
        (child,) = await crew.add(1, local_capacity=1)
        before, cpu = crew.memory(), crew.cpu
        await child.do("connect", count=CONNECTIONS)
        cpu = (crew.cpu - cpu) / CONNECTIONS
        process = (crew.memory() - before) / CONNECTIONS
        before = crew.memory()
        await child.do("join", count=BINDINGS)
        binding = (crew.memory() - before) / BINDINGS
        before = crew.memory()
        await child.do("fill", count=MESSAGES, size=100)
        message = (crew.memory() - before) / MESSAGES
    return Memory(idle, process, queue, binding, message), cpu * 1e6


async def on_one_node(node: Broker, costs: Costs) -> None:
    """Measure what grows with processes."""
    async with Crew.on([node]) as crew:
        (sender,) = await crew.add(1)
        members: list[Child] = []
        for count in PROCESSES:
            added = await crew.add(count - len(members))
            members += added
            costs.joins.append(await crew.join(added, GROUPS))
            costs.fan_outs.append(await crew.fan_out(sender, members))
            costs.outages.append(await crew.outage(members))
            print(costs.joins[-1], costs.fan_outs[-1], costs.outages[-1], sep="\n", flush=True)


async def on_a_cluster(nodes: Sequence[Broker], costs: Costs) -> None:
    """Measure what grows with nodes."""
    async with Crew.on(nodes) as crew:
        (sender,) = await crew.add(1)
        members: list[Child] = []
        for count in IN_CLUSTERS:
            members += await crew.add(count - len(members))
            costs.joins.append(await crew.join(members, GROUPS))
            costs.fan_outs.append(await crew.fan_out(sender, members))
            print(costs.joins[-1], costs.fan_outs[-1], sep="\n", flush=True)


def measure(command: str) -> Costs:
    """Measure everything, on nodes of our own."""
    load = os.getloadavg()[0]
    with Broker.start(config=BUFFERS) as node:
        memory, connect_us = asyncio.run(in_memory(node))
        facts = {
            "command": command,
            "RabbitMQ": node.ctl("version").strip(),
            "processors": str(os.cpu_count()),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load before": f"{load:.1f}",
        }
        costs = Costs(facts, memory, connect_us)
        print(memory, flush=True)
    with Broker.start() as node:
        asyncio.run(on_one_node(node, costs))
    for size in (2, 3):
        with Cluster.start(size) as cluster:
            asyncio.run(on_a_cluster(cluster.nodes, costs))
    costs.facts["load after"] = f"{os.getloadavg()[0]:.1f}"
    return costs
