"""``python -m benchmarks.scaling``: what a site takes, from what was measured here.

It tells bindings, messages and processor time a second, memory, how long a storm of reconnections
lasts, and which limit comes first. ``--page`` writes the tables of docs/scaling.rst. What is not
linear in what was measured - the way back after an outage - is simulated, with the delays of the
layer itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from channels_rabbitmq.broker.recovery import delays
from devtools.environments import ROOT

from .costs import Costs, Outage
from .report import number, table, write_between
from .results import OURS, Results

PAGE = ROOT / "docs" / "scaling.rst"
SHOWN = ROOT / "docs" / "performance"
#: Simulated outages, whose percentiles are told.
STORMS = 200
#: The default of ``max_reconnect_delay``, in seconds.
LONGEST_DELAY = 5.0
#: Of a node's memory, what RabbitMQ uses before it blocks publishers, up to version 3.13.
WATERMARK = 0.4
#: Seconds that all may take to come back.
PATIENCE = 30.0
#: Messages that wait on RabbitMQ for a process that stands still, at most: ``remote_capacity``.
WAITING = 100


def linear(points: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """Return the line through points that has the least relative errors."""
    xs, ys = zip(*points, strict=True)
    if len(points) == 1:
        return lambda x: x * ys[0] / xs[0]
    weights: list[float] = [1 / y / y for y in ys]
    total = sum(weights)
    x_mean = sum(w * x for w, x in zip(weights, xs, strict=True)) / total
    y_mean = sum(w * y for w, y in zip(weights, ys, strict=True)) / total
    slope = sum(
        w * (x - x_mean) * (y - y_mean) for w, x, y in zip(weights, xs, ys, strict=True)
    ) / sum(w * (x - x_mean) ** 2 for w, x in zip(weights, xs, strict=True))
    return lambda x: max(0.0, y_mean + slope * (x - x_mean))


@dataclass(frozen=True)
class Machine:
    """What one version of RabbitMQ, and one server process, were measured to take."""

    costs: Costs
    #: Of ``make bench``, for what the server processes take.
    results: Results

    @classmethod
    def load(cls, major: int) -> Self:
        """Read what is kept of a major version of RabbitMQ."""
        files = [SHOWN / f"results-{major}.json", *sorted(SHOWN.glob("results-*.json"))]
        found = (Results.load(file) for file in files if file.exists())
        # Of another version where there is none: it matters little to a server process.
        results = next(each for each in found if each.values("site-users", OURS, "cpu_us"))
        return cls(Costs.load(SHOWN / f"costs-{major}.json"), results)

    def server(self, case: str, figure: str) -> float:
        """Return what one of our server processes took."""
        return statistics.median(self.results.values(case, OURS, figure))

    def _nodes(self, wanted: int) -> int:
        """Return the measured number of nodes that comes next to ``wanted``."""
        return min({each.nodes for each in self.costs.fan_outs}, key=lambda n: abs(n - wanted))

    def broker_us(self, processes: float, nodes: int, *, without: int = 0) -> float:
        """RabbitMQ's processor time for a message that reaches some processes, on all nodes.

        ``without`` leaves a measured number of processes out, to hold the model against it.
        """
        points = [
            (each.processes, each.broker_us)
            for each in self.costs.fan_outs
            if each.nodes == self._nodes(nodes) and each.processes != without
        ]
        return linear(points)(processes)

    def join_rate(self, processes: int, nodes: int) -> float:
        """Groups that are joined a second, by all processes together.

        It is the best of those measured with no more processes: RabbitMQ does many at once for
        less, and what else the machine does can only slow it down.
        """
        joins = [each for each in self.costs.joins if each.nodes == self._nodes(nodes)]
        least = min(each.processes for each in joins)
        return max(each.rate for each in joins if each.processes <= max(processes, least))

    def mean(self, figure: str) -> float:
        """Return the median of a figure over all floods of messages."""
        figures: list[float] = [getattr(each, figure) for each in self.costs.fan_outs]
        return statistics.median(figures)


def arrivals(processes: int, away: float, chance: random.Random) -> list[float]:
    """Return when each process gets its connection, in seconds after RabbitMQ is back.

    Each was lost at 0, tries after the layer's own delays, and is refused until ``away``.
    """
    found = []
    for _ in range(processes):
        tried = 0.0
        for delay in delays(LONGEST_DELAY, chance.uniform):
            tried += delay
            if tried >= away:
                break
        found.append(tried - away)
    return found


def shared(arrived: Sequence[float], work: float, rate: float) -> list[float]:
    """Return when each is done that brings ``work``, of which ``rate`` a second is done for all.

    All who are there have an equal share of it.
    """
    coming = sorted(arrived, reverse=True)
    # Work that each must have been given, counted from 0, when it is done.
    present: list[float] = []
    given = now = 0.0
    done: list[float] = []
    while coming or present:
        if not present:
            now = max(now, coming[-1])
        share = rate / max(1, len(present))
        end = now + (present[0] - given) / share if present else float("inf")
        if coming and coming[-1] <= end:
            at = coming.pop()
            given += (at - now) * share if present else 0.0
            now = at
            heapq.heappush(present, given + work)
        else:
            given, now = present[0], end
            heapq.heappop(present)
            done.append(now)
    return done


def last_back(
    processes: int, groups: int, away: float, rate: float, seed: int = 0
) -> Sequence[float]:
    """Simulate outages; return when the last process was back in each, from early to late."""
    chance = random.Random(seed)
    return sorted(
        max(shared(arrivals(processes, away, chance), groups / processes, rate))
        for _ in range(STORMS)
    )


@dataclass(frozen=True)
class Site:
    """A site, as its owner would describe it."""

    websockets: int
    processes: int
    nodes: int = 1
    #: Rooms that each websocket is in, members of each, and messages a minute to each room.
    rooms: float = 1
    room_size: int = 50
    room_rate: float = 6
    #: Notifications a minute to each user, and whether each has a group, or only a channel.
    user_rate: float = 2
    user_groups: bool = True
    #: Of each RabbitMQ node: processors, and memory in GiB.
    cores: int = 4
    memory: float = 8
    #: How long a restart of RabbitMQ takes, in seconds.
    away: float = 10

    def reached(self) -> float:
        """Return how many processes a room's message reaches, with members anywhere."""
        return self.processes * (1 - (1 - 1 / self.processes) ** self.room_size)


@dataclass(frozen=True)
class Estimate:
    """What a site takes."""

    bindings: float
    #: Published, and handed to processes, a second.
    messages: float
    handed: float
    #: Sent to websockets a second.
    deliveries: float
    #: Processors: of all nodes together, and of each server process.
    broker_cores: float
    server_cores: float
    #: Bytes, of each node and of each server process.
    broker_memory: float
    server_memory: float
    #: Seconds until all is back: after a restart of RabbitMQ, and when all websockets come anew.
    restart: float
    return_all: float
    #: For each limit, how much of it is used.
    used: Mapping[str, float]

    @property
    def first(self) -> str:
        """The limit that comes first."""
        return max(self.used, key=lambda name: self.used[name])


def estimate(site: Site, machine: Machine) -> Estimate:
    """Tell what a site takes."""
    memory = machine.costs.memory
    each = site.websockets / site.processes
    rooms = site.websockets * site.rooms / site.room_size
    reached = site.reached()
    room_messages = rooms * site.room_rate / 60
    user_messages = site.websockets * site.user_rate / 60
    bindings = rooms * reached + site.user_groups * site.websockets + 3 * site.processes
    handed = room_messages * reached + user_messages
    broker_us = room_messages * machine.broker_us(reached, site.nodes)
    broker_us += user_messages * machine.broker_us(1, site.nodes)
    # What a delivery to a websocket takes has the layer's part in it.
    server_us = room_messages * site.room_size * machine.server("site-room", "cpu_us")
    server_us += user_messages * machine.server("site-users", "cpu_us")
    server_us += (room_messages + user_messages) * machine.mean("send_us")
    server_us += room_messages * reached * machine.mean("receive_us")
    waiting = site.processes * WAITING * memory.message
    broker_memory = memory.idle + bindings * memory.binding
    broker_memory += (site.processes * memory.process + waiting) / site.nodes
    rate = machine.join_rate(site.processes, site.nodes)
    connect = machine.server("site-storm", "cpu_us") / 1e6
    back = last_back(site.processes, round(bindings), site.away, rate)
    broker_cores = broker_us / 1e6
    server_cores = server_us / site.processes / 1e6
    return_all = max(each * connect, bindings / rate)
    return Estimate(
        bindings=bindings,
        messages=room_messages + user_messages,
        handed=handed,
        deliveries=room_messages * site.room_size + user_messages,
        broker_cores=broker_cores,
        server_cores=server_cores,
        broker_memory=broker_memory,
        server_memory=each * machine.server("site-room", "bytes_each"),
        restart=statistics.median(back),
        return_all=return_all,
        used={
            "server CPU": server_cores,
            "broker CPU": broker_cores / (site.cores * site.nodes),
            "broker memory": broker_memory / (site.memory * 2**30 * WATERMARK),
            "way back": max(*back, return_all) / PATIENCE,
        },
    )


_LARGE = Site(100_000, 128, 3, cores=8, memory=16)
#: What docs/scaling.rst tells of: there it says what the letters stand for.
EXAMPLES: Mapping[str, Site] = {
    "A": Site(1_000, 2),
    "B": Site(10_000, 16),
    "C": Site(10_000, 16, room_size=1_000, room_rate=60),
    "D": _LARGE,
    "E": replace(_LARGE, user_groups=False),
    "F": replace(_LARGE, nodes=1),
}


def rows(name: str, site: Site, found: Estimate) -> Iterator[tuple[str, str]]:
    """Yield what is told of a site."""
    yield "site", name
    yield "websockets", f"{site.websockets:,}"
    yield "processes", str(site.processes)
    yield "nodes of RabbitMQ", str(site.nodes)
    yield "bindings", number(found.bindings)
    yield "messages published a second", number(found.messages)
    yield "handed to processes a second", number(found.handed)
    yield "sent to websockets a second", number(found.deliveries)
    yield "RabbitMQ, processors in all", number(found.broker_cores, 2)
    yield "RabbitMQ, MB of each node", number(found.broker_memory / 1e6)
    yield "each process, of a processor", number(found.server_cores, 2)
    yield "each process, MB for websockets", number(found.server_memory / 1e6)
    yield f"back after {site.away:g} s without RabbitMQ, s", number(found.restart)
    yield "all websockets come anew, s", number(found.return_all)
    yield "first limit", found.first
    yield "of it used", f"{found.used[found.first]:.0%}"


def sites_table(sites: Mapping[str, Site], machine: Machine) -> str:
    """Return a table with a column for each site."""
    columns = [rows(name, site, estimate(site, machine)) for name, site in sites.items()]
    lines = [
        [cells[0][0], *(value for _, value in cells), ""] for cells in zip(*columns, strict=True)
    ]
    return table(lines[0], lines[1:])


def costs_table(machines: Sequence[Machine]) -> str:
    """Return what was measured of RabbitMQ."""
    header = ["RabbitMQ", *(machine.costs.facts["RabbitMQ"] for machine in machines), ""]

    def row(text: str, *values: float) -> list[str]:
        return [text, *map(number, values), ""]

    memories = [machine.costs.memory for machine in machines]
    waiting = "of a waiting message of 100 characters, bytes"
    connecting = [machine.costs.connect_us / 1e3 for machine in machines]
    lines = [
        row("memory of a node with nothing on it, MB", *(each.idle / 1e6 for each in memories)),
        row("of a process: connection, queue, kB", *(each.process / 1e3 for each in memories)),
        row("of a queue alone, kB", *(each.queue / 1e3 for each in memories)),
        row("of a binding, bytes", *(each.binding for each in memories)),
        row(waiting, *(each.message for each in memories)),
        row("CPU of a process that connects, ms", *connecting),
    ]
    for nodes in (1, 2, 3):
        on = f"on {nodes} node{'s' * (nodes > 1)}"
        one, eight, nine = (
            [machine.broker_us(reached, nodes) for machine in machines] for reached in (1, 8, 9)
        )
        more = [after - before for before, after in zip(eight, nine, strict=True)]
        rates = [[machine.join_rate(count, nodes) for machine in machines] for count in (1, 8)]
        lines += [
            row(f"CPU of a message to one process, {on}, µs", *one),
            row(f"CPU of each further process reached, {on}, µs", *more),
            row(f"groups joined a second, by few processes, {on}", *rates[0]),
            row(f"groups joined a second, by many, {on}", *rates[1]),
        ]
    return table(header, lines)


@dataclass(frozen=True)
class Check:
    """The model beside what was measured."""

    what: str
    measured: float
    predicted: float
    #: What the prediction may be, to count as right.
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether what was measured is where the model says."""
        return self.low <= self.measured <= self.high


#: By how much RabbitMQ's processor time may differ from what the model says, either way: a share,
#: or so many µs where that is more.
CPU_TOLERANCE, CPU_TOLERANCE_US = 0.4, 15
#: Seconds by which the last process may be back before or after all simulated times.
STORM_TOLERANCE = 1.0


def checks(machine: Machine) -> list[Check]:
    """Hold the model against each measurement, that one left out of it."""
    found = []
    for each in machine.costs.fan_outs:
        predicted = machine.broker_us(each.processes, each.nodes, without=each.processes)
        what = f"CPU of a message to {each.processes} processes on {each.nodes} nodes, µs"
        off = max(predicted * CPU_TOLERANCE, CPU_TOLERANCE_US)
        found.append(Check(what, each.broker_us, predicted, predicted - off, predicted + off))
    return found + [_check_outage(machine, each) for each in machine.costs.outages]


def _check_outage(machine: Machine, outage: Outage) -> Check:
    rate = machine.join_rate(outage.processes, 1)
    simulated = last_back(outage.processes, outage.groups, outage.away, rate)
    what = f"last of {outage.processes} back, {outage.groups:,} groups, s"
    low, high = simulated[0] - STORM_TOLERANCE, simulated[-1] + STORM_TOLERANCE
    return Check(what, outage.back[-1], statistics.median(simulated), low, high)


def checks_table(machine: Machine) -> str:
    """Return the model beside what was measured."""
    lines = [
        [
            each.what,
            *map(number, (each.measured, each.predicted)),
            f"{number(max(0.0, each.low))} - {number(each.high)}",
            "" if each.holds else "no",
        ]
        for each in checks(machine)
    ]
    return table(["", "measured", "model", "accepted", "holds"], lines)


def page(machines: Sequence[Machine]) -> str:
    """Return the tables of docs/scaling.rst."""
    parts = ["What was measured", "-----------------", "", costs_table(machines)]
    parts += [
        ".. image:: performance/reach.svg",
        "   :alt: What a message to a group costs RabbitMQ",
        "",
    ]
    for machine in machines:
        version = machine.costs.facts["RabbitMQ"]
        for title, text in (
            (f"The model beside what was measured, RabbitMQ {version}", checks_table(machine)),
            (f"Sites on RabbitMQ {version}", sites_table(EXAMPLES, machine)),
        ):
            parts += [title, "-" * len(title), "", text]
        parts += [f":{name}: {fact}" for name, fact in machine.costs.facts.items()]
        parts.append("")
    return "\n".join(parts)


def kept() -> list[Machine]:
    """Return what was measured of each version of RabbitMQ."""
    majors = sorted(int(path.stem.partition("-")[2]) for path in SHOWN.glob("costs-*.json"))
    return [Machine.load(major) for major in majors]


def main(arguments: Sequence[str]) -> int:
    """Tell of one site, or write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--page", action="store_true", help="write docs/scaling.rst's tables")
    parser.add_argument("--major", type=int, default=4, help="RabbitMQ's major version (4)")
    for field in dataclasses.fields(Site):
        if isinstance(field.default, bool):
            parser.add_argument(f"--no-{field.name}", dest=field.name, action="store_false")
        else:
            default = None if field.default is dataclasses.MISSING else field.default
            kind = int if "int" in str(field.type) else float
            parser.add_argument(f"--{field.name}", type=kind, default=default)
    options = vars(parser.parse_args(arguments))
    if options.pop("page"):
        write_between(PAGE, page(kept()))
        return 0
    machine = Machine.load(options.pop("major"))
    if None in options.values():
        parser.error("--websockets and --processes are needed")
    print(sites_table({"your site": Site(**options)}, machine))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
