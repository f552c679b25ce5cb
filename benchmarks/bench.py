"""One benchmark: environments and servers, then every case by everybody in turn, round by round."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from devtools import environments
from devtools.broker import Broker
from devtools.environments import Environment, EnvironmentFailed
from devtools.process import PrivateProcess, ServerError
from devtools.servers import Server

from .cases import FEW_PEERS, QUICK_PEERS, Case
from .peers import CAPACITY, PREFETCH, REQUIREMENTS, TOLD, Peer
from .processes import STATE, execute, run_worker
from .results import LIMIT, Results
from .servers import SERVERS, settle

#: When a quick run starts nothing more, and how long one of its runs may take, in seconds.
QUICK_END, QUICK_TIMEOUT = 160.0, 8.0
TIMEOUT = 100.0

Made = TypeVar("Made")


class Bench:
    """One benchmark, from start to end."""

    def __init__(
        self, peers: Sequence[Peer], cases: Sequence[Case], rounds: int, *, quick: bool
    ) -> None:
        self.peers = {peer.key: peer for peer in peers}
        self.cases = cases
        self.rounds = rounds
        self.quick = quick
        self.results = Results()
        self._started = time.monotonic()
        self._load = os.getloadavg()[0]
        self._environments: dict[str, Environment] = {}
        self._servers: dict[str, PrivateProcess] = {}

    def run(self, command: str) -> Results:
        """Measure everything; ``command`` is what the results say was run."""
        used = {peer.environment for peer in self.peers.values()} | {"ours"}
        self._environments, failed = _make_all("Virtual environments", used, environment)
        self._miss("environment", failed)
        if "ours" in failed:
            raise EnvironmentFailed(failed["ours"])
        with contextlib.ExitStack() as stack:
            names = {peer.server for peer in self.peers.values() if peer.server} | {"RabbitMQ"}
            self._servers, failed = _make_all(
                "Servers", names, lambda name: stack.enter_context(SERVERS[name]())
            )
            self._miss("server", failed)
            if "RabbitMQ" in failed:
                raise ServerError(failed["RabbitMQ"])
            self.results.facts = self._facts(command)
            self._run_all()
        print(f"Took {_minutes(time.monotonic() - self._started)}.")
        return self.results

    def _miss(self, attribute: str, failed: dict[str, str]) -> None:
        for peer in self.peers.values():
            if getattr(peer, attribute) in failed:
                self.results.missing[peer.key] = failed[getattr(peer, attribute)]

    def plan(self) -> list[tuple[int, Case, str]]:
        """Return what to run, in order: round, case, and a peer or the limit.

        Who is first changes from round to round. A quick run, which may not come to its end, has
        every case by a few before the rest.
        """
        few = {LIMIT, *(QUICK_PEERS if self.quick else FEW_PEERS)}
        alone = {peer.key for peer in self.peers.values() if peer.server is None}
        planned = [
            (number, case, key)
            for number in range(1, self.rounds + 1)
            for case in self.cases
            for key in ([LIMIT, *self.peers] if number % 2 else [*reversed(self.peers), LIMIT])
            if (key != LIMIT or case.limit is not None)
            and (key not in alone or not case.processes)
            and (key in (LIMIT, *case.peers) if case.peers else case.main or key in few)
            and (not case.once or number == 1)
            and key not in self.results.missing
        ]
        return sorted(planned, key=lambda run: run[2] not in few) if self.quick else planned

    def _run_all(self) -> None:
        """Run everything, showing how it goes."""
        planned = self.plan()
        began = time.monotonic()
        for index, (_, case, key) in enumerate(planned):
            if self.results.error(case.key, key):
                continue  # it fails once, not in every round
            run_began = time.monotonic()
            if self.quick and run_began - self._started > QUICK_END:
                if not self.results.values(case.key, key, case.figure):
                    self.results.add(case.key, key, {}, "not run: out of time")
                continue
            figures, error = self._run_one(case, key)
            self.results.add(case.key, key, figures, f"fails: {error}" if error else "")
            now = time.monotonic()
            left = (now - began) / (index + 1) * (len(planned) - index - 1)
            outcome = error or f"{case.shown(figures[case.figure])} {case.unit.name}"
            print(
                f"[{index + 1:>{len(str(len(planned)))}}/{len(planned)}] {case.key:16}"
                f" {key:14} {outcome[:60]:>22}  ({now - run_began:.1f} s,"
                f" about {_minutes(left)} left)",
                flush=True,
            )

    def _run_one(self, case: Case, key: str) -> tuple[dict[str, float], str]:
        """Run one workload of one peer, in a process of its own, and let its server settle."""
        used = "RabbitMQ" if key == LIMIT else self.peers[key].server
        server = self._servers[used] if used else None
        port = server.port if server else 0
        if key == LIMIT:
            name, spec = "ours", case.spec(quick=self.quick, port=port)
        else:
            peer = self.peers[key]
            name, spec = peer.environment, peer.spec(case, port, quick=self.quick)
        timeout = QUICK_TIMEOUT if self.quick else TIMEOUT
        figures, error = run_worker(self._environments[name].python, spec, timeout)
        if server and not settle(server):
            print(f"  {used} has not come to rest after {case.key} by {key}", flush=True)
        return dict(figures), error

    def _facts(self, command: str) -> dict[str, str]:
        """The command, the machine and the versions."""
        facts = {"command": command, "rounds": str(self.rounds)} | self._machine()
        for name, server in sorted(self._servers.items()):
            if isinstance(server, Broker):
                facts[name] = server.ctl("version").strip()
            elif isinstance(server, Server):
                facts[name] = server.version
        for name, made in sorted(self._environments.items()):
            told = [f"{p} {v}" for p, v in sorted(made.versions.items()) if TOLD.fullmatch(p)]
            facts[f"packages of {name}"] = ", ".join(told)
        facts["capacity"] = (
            f"{CAPACITY:,} messages stored for each layer that has such a setting; "
            f"local_capacity {PREFETCH:,}"
        )
        return facts

    def _machine(self) -> dict[str, str]:
        """What the machine is, which the figures mean nothing without."""
        code = "import json, pyperf; print(json.dumps(pyperf.Run([1.0]).get_metadata()))"
        told, _ = execute([str(self._environments["ours"].python), "-c", code], TIMEOUT)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return {
            "processors": f"{told['cpu_count']} x {told.get('cpu_model_name', 'unknown')}",
            "memory": f"{memory:.0f} GiB",
            "system": str(told["platform"]),
            "python": f"{told['python_implementation']} {told['python_version']}",
            "load before": f"{self._load:.1f}",
        }


def environment(name: str) -> Environment:
    """Make a virtual environment of ``REQUIREMENTS``, or find it made."""
    return environments.make(STATE / "environments", name, REQUIREMENTS[name])


def _make_all(
    title: str, names: Iterable[str], make: Callable[[str], Made]
) -> tuple[dict[str, Made], dict[str, str]]:
    """Make all at once. Return what was made, and of the rest, why not."""
    print(f"{title}: {', '.join(sorted(names))} ...", flush=True)
    made: dict[str, Made] = {}
    failed: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:
        futures = {name: pool.submit(make, name) for name in sorted(names)}
    for name, future in futures.items():
        try:
            made[name] = future.result()
        except (EnvironmentFailed, ServerError) as err:
            failed[name] = str(err)
            print(f"  {name} is not available: {err}", flush=True)
    return made, failed


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
