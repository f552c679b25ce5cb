"""``make soak``: a site over a cluster whose nodes are killed and restarted at random.

Two Daphnes with websockets, a publisher in a Celery task, a worker of a normal channel. Messages
are numbered. The exit status is 0 when nothing came twice or out of order, and everything that was
sent while there was no fault, nor the seconds that it took to be over it, has arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import secrets
import sys
import time
from collections import Counter
from pathlib import Path

from devtools.cluster import Cluster
from devtools.process import HOST, ServerError
from tests.helpers.waiting import until

from .report import Report, over_time
from .site import Site
from .visitors import Visitor

#: Most seconds after a fault until every visitor hears its room and has an order answered.
BACK = 60
ROOMS = 10


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long (600)")
    parser.add_argument("--websockets", type=int, default=200, help="how many (200)")
    parser.add_argument("--rate", type=float, default=50, help="messages published a second (50)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="of the faults")
    parser.add_argument("--json", type=Path, help="a file for what tests.soak.chart draws")
    return parser.parse_args()


class Soak:
    """One run."""

    def __init__(self, cluster: Cluster, site: Site, options: argparse.Namespace) -> None:
        self._cluster = cluster
        self._site = site
        self._random = random.Random(options.seed)
        self._kinds: list[bool] = []
        self.began = time.time()
        self._until = self.began + options.seconds
        self.windows: list[tuple[float, float]] = []
        self.visitors = [
            Visitor(number, f"room-{number // 2 % ROOMS}", f"ws://{HOST}:{server.port}")
            for number in range(options.websockets)
            for server in [site.servers[number % 2]]
        ]

    def say(self, text: str) -> None:
        """Show what happens."""
        print(f"{time.time() - self.began:6.1f} s  {text}", flush=True)

    async def back(self, since: float) -> None:
        """Wait until every visitor has heard its room, and an answer, of later than ``since``."""

        def lacking() -> list[Visitor]:
            return [v for v in self.visitors if min(v.said_at, v.answered_at) <= since]

        with contextlib.suppress(AssertionError):
            await until(lambda: not lacking(), timeout=BACK, step=0.1)
        if late := lacking():
            silent = sum(v.said_at <= since for v in late)
            raise TimeoutError(
                f"after {BACK} s {silent} visitors have not heard their room, and "
                f"{sum(v.answered_at <= since for v in late)} no answer"
            )

    async def run(self) -> None:
        """Do faults until the time is over."""
        await self.back(time.time())
        self.say(f"{len(self.visitors)} websockets hear their rooms, and are answered")
        while True:
            await asyncio.sleep(self._random.uniform(4, 12))
            # A fault takes half a minute, and there is to be a quiet end.
            if time.time() > self._until - 30:
                break
            await self._fault()
        await asyncio.sleep(max(0, self._until - time.time()))

    async def end(self) -> None:
        """Stop sending, and give what is under way time: a machine may be behind with its work."""
        for visitor in self.visitors:
            visitor.ordering = False
        self._site.stop_publishing()
        publisher = self._site.publisher
        await until(lambda: "ended" in publisher.told[-1], timeout=30, step=0.1)
        quiet = max((end for _, end in self.windows), default=0)

        def unanswered() -> bool:
            return any(
                at > quiet and n not in visitor.answered
                for visitor in self.visitors
                for n, at in visitor.orders.items()
            )

        with contextlib.suppress(AssertionError):  # the report says it
            await until(lambda: not unanswered(), timeout=20, step=0.1)
        await asyncio.sleep(3)

    async def _fault(self) -> None:
        number = self._random.randrange(len(self._cluster.nodes))
        node = self._cluster.nodes[number]
        if not self._kinds:
            # Two kills to a restart in good order, so that a short run sees both.
            self._kinds = self._random.sample([True, True, False], 3)
        kill = self._kinds.pop()
        down, began = self._random.uniform(1, 12) if kill else 0, time.time()
        self.windows.append((began, float("inf")))
        if kill:
            await asyncio.to_thread(node.kill)
            await asyncio.sleep(down)
        await asyncio.to_thread(node.restart)
        up = time.time()
        await self.back(up)
        self.windows[-1] = (began, time.time())
        self.say(
            f"node {number + 1} {'killed' if kill else 'restarted'}: away for {up - began:.1f} s, "
            f"then {time.time() - up:.1f} s until all are heard and answered"
        )


async def main() -> int:
    """Run it, and print the report."""
    options = parse()
    print(f"==> Starting a cluster of three nodes; seed {options.seed}", flush=True)
    with Cluster.start(config={"cluster_partition_handling": "pause_minority"}) as cluster:
        version = ".".join(map(str, cluster.nodes[0].version))
        print(f"==> RabbitMQ {version}, {options.seconds:g} seconds", flush=True)
        site = Site(cluster.urls, ROOMS, options.rate)
        with contextlib.closing(site):
            await asyncio.to_thread(site.start)
            soak = Soak(cluster, site, options)
            tasks = [asyncio.create_task(visitor.stay()) for visitor in soak.visitors]
            site.publisher.launch()
            failure = ""
            memory: list[list[float]] = [[], []]
            dropped: dict[str, dict[str, int]] = {}
            try:
                await soak.back(time.time())
                memory[0] = [process.memory for process in site.all]
                await soak.run()
                memory[1] = [process.memory for process in site.all]
                await soak.end()
                dropped = await asyncio.to_thread(site.dropped)
            except (AssertionError, TimeoutError, ServerError) as error:
                failure = str(error)
            ended = time.time()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            published = [row for row in site.publisher.told if "room" in row]
            report = Report(soak.visitors, published, site.worker.told, soak.windows)
            if failure:
                report.failures.append(failure)
            for process in site.all:
                try:
                    process.check()
                except ServerError as error:
                    report.failures.append(str(error))
                bad = Counter(
                    line for line in process.output if "Traceback" in line or "A bug in" in line
                )
                report.failures += [f"{process.key}: {line}" for line in bad]
                warned = sum(" WARNING " in line for line in process.output)
                again = max(0, process.connections - 1)
                report.lines.append(f"{process.key}: {again} reconnections, {warned} warnings")
            for key, causes in dropped.items():
                text = ", ".join(f"{count:,} {cause}" for cause, count in causes.items())
                report.lines.append(f"{key}: dropped {text or 'nothing'}")
            for process, *measured in zip(site.all, *memory, strict=False):
                start, end = measured
                report.lines.append(f"{process.key}: memory {start:.0f} MiB, then {end:.0f} MiB")
            print("", f"faults: {len(soak.windows)}", *report.lines, sep="\n")
            if options.json:
                windows = [(start, min(end, ended)) for start, end in soak.windows]
                drawn = over_time(soak.visitors, windows, soak.began)
                options.json.write_text(json.dumps({"title": f"RabbitMQ {version}", **drawn}))
            if report.failures:
                for process in site.all:
                    print(f"\nThe last lines of {process.key}:\n{process.tail(15)}")
            for text in report.failures:
                print(f"FAILED: {text}")
            print("FAILED" if report.failures else "passed")
            return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
