"""``python -m benchmarks``: the layer beside its peers and the limits, on servers of its own.

Each peer runs each workload in a process and a virtual environment of its own; the runs take
turns, so that what else the machine does falls on all alike. Results, charts and the part of
docs/performance.rst between its two marks are written anew. ``--quick`` (or QUICK=1) measures
briefly, ends within three minutes, and leaves the documentation as it is. ``--against REV``
compares with another revision of this repository instead: see against.py.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from devtools import environments
from devtools.servers import ServerError

from . import against, machine
from .cases import CASES, FEW_PEERS, QUICK_PEERS, TARGETS, UNITS, Case
from .peers import CAPACITY, PEERS, PREFETCH, REQUIREMENTS, TOLD, Peer
from .processes import LIMITS, WORKER, execute
from .results import (
    LIMIT,
    OURS,
    VERDICT_HEADER,
    Results,
    Run,
    Verdict,
    better,
    case_header,
    case_rows,
    judge,
    rst_table,
    shown,
    text_table,
)
from .servers import SERVERS, Server

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE = ROOT / "docs" / "performance.rst"
BEGIN, END = ".. begin: make bench writes this", ".. end: make bench writes this"

#: Seconds after which a quick run starts nothing more, and how long one of its runs may take.
QUICK_END, QUICK_TIMEOUT = 160.0, 8.0
TIMEOUT = 100.0
#: Seconds without a message after which it counts as lost.
QUICK_PATIENCE, PATIENCE = 4.0, 20.0


class Bench:
    """One benchmark, from start to end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.quick: bool = options.quick
        self.started = time.monotonic()
        self.results = Results()
        self.environments: dict[str, environments.Environment] = {}
        self.servers: dict[str, Server] = {}
        #: Peers that cannot take part, and why.
        self.missing: dict[str, str] = {}
        self.peers = [peer for peer in PEERS if not options.peer or peer.key in options.peer]
        self.cases = [
            case
            for case in CASES
            if (case.quick or not self.quick)
            and (not options.case or any(part in case.key for part in options.case))
        ]
        self.rounds: int = options.rounds or (1 if self.quick else 3)
        state = ROOT / ".bench"
        state.mkdir(exist_ok=True)
        (state / ".gitignore").write_text("*\n")
        self.environments_directory = state / "environments"
        whole = not (options.peer or options.case or options.rounds or self.quick)
        self.for_documentation: bool = (
            options.page or options.update or (whole and options.output is None)
        )
        #: What the machine is, and its load before.
        self.machine: dict[str, str] = {}
        #: The facts of the run that this one updates; empty if it stands for itself.
        self.updated: dict[str, str] = {}
        self.output: Path = options.output or (
            ROOT / "docs" / "performance" if self.for_documentation else state / "results"
        )

    # Before

    def make_environments(self) -> None:
        """Make the virtual environments, all at once; what fails makes its peers unavailable."""
        names = {peer.environment for peer in self.peers} | {"ours", "charts"}
        print(f"Virtual environments: {', '.join(sorted(names))} ...", flush=True)
        with ThreadPoolExecutor() as pool:
            futures = {
                name: pool.submit(
                    environments.make, self.environments_directory, name, REQUIREMENTS[name]
                )
                for name in sorted(names)
            }
        for name, future in futures.items():
            try:
                self.environments[name] = future.result()
            except environments.EnvironmentFailed as err:
                print(f"  {name}: {err}", flush=True)
                for peer in self.peers:
                    if peer.environment == name:
                        self.missing[peer.key] = str(err)
        if "ours" not in self.environments:
            raise SystemExit("This project cannot be installed into a virtual environment.")

    def start_servers(self, stack: contextlib.ExitStack) -> None:
        """Start the servers, all at once; one that does not start makes its peers unavailable."""
        names = {peer.server for peer in self.peers if peer.server} | {"RabbitMQ"}
        print(f"Servers: {', '.join(sorted(names))} ...", flush=True)
        managers = {name: SERVERS[name]() for name in sorted(names)}
        with ThreadPoolExecutor() as pool:
            futures = {name: pool.submit(manager.__enter__) for name, manager in managers.items()}
        for name, future in futures.items():
            try:
                self.servers[name] = future.result()
            except ServerError as err:
                print(f"  {name} is not available: {err}", flush=True)
                for peer in self.peers:
                    if peer.server == name:
                        self.missing[peer.key] = str(err)
            else:
                stack.push(managers[name])
                print(f"  {name} {self.servers[name].version}", flush=True)

    # Running

    def plan(self) -> list[tuple[int, Case, str]]:
        """What to run, in order: each case by all in turn, round after round."""
        everybody = [LIMIT, *(peer.key for peer in self.peers)]
        few = {LIMIT, *(QUICK_PEERS if self.quick else FEW_PEERS)}
        alone = {peer.key for peer in self.peers if not peer.networked}
        planned = []
        for number in range(1, self.rounds + 1):
            for case in self.cases:
                for key in everybody:
                    wanted = (
                        (key != LIMIT or case.limit is not None)
                        and (key not in alone or not case.processes)
                        and (case.main or key in few)
                        and (not case.once or number == 1)
                        and key not in self.missing
                    )
                    if wanted:
                        planned.append((number, case, key))
        return planned

    def run_all(self) -> None:
        """Run everything, showing how it goes."""
        planned = self.plan()
        titles = self.titles()
        began = time.monotonic()
        for index, (number, case, key) in enumerate(planned):
            if self.results.error(case.key, key):
                continue  # it fails once, not in every round
            if self.quick and time.monotonic() - self.started > QUICK_END:
                if not self.results.by_round(case.key, key, case.figure):
                    self.results.add(Run(case.key, key, number, error="not run: out of time"))
                continue
            run_began = time.monotonic()
            run = self.run(number, case, key)
            self.results.add(run)
            now = time.monotonic()
            left = (now - began) / (index + 1) * (len(planned) - index - 1)
            print(
                f"[{index + 1:>{len(str(len(planned)))}}/{len(planned)}] {case.key:16}"
                f" {titles[key]:26} {_outcome(case, run):>22}  ({now - run_began:.1f} s,"
                f" about {_minutes(left)} left)",
                flush=True,
            )

    def run(self, number: int, case: Case, key: str) -> Run:
        """Run one workload of one peer, in a process of its own."""
        seconds = case.quick_seconds if self.quick else case.seconds
        params = {**case.params, **(case.quick_params if self.quick else {})}
        spec: dict[str, object] = {
            "workload": case.workload,
            "params": params,
            "seconds": seconds,
            "patience": QUICK_PATIENCE if self.quick else PATIENCE,
        }
        if key == LIMIT:
            spec["port"] = self.servers["RabbitMQ"].port
            python, program = self.environments["ours"].python, LIMITS
        else:
            peer = next(peer for peer in self.peers if peer.key == key)
            spec |= self.layer(peer)
            python, program = self.environments[peer.environment].python, WORKER
        figures, error = execute(
            [str(python), str(program), json.dumps(spec)],
            QUICK_TIMEOUT if self.quick else TIMEOUT,
        )
        return Run(case.key, key, number, figures, f"fails: {error}" if error else "")

    def layer(self, peer: Peer) -> dict[str, object]:
        """What worker.py must be told to make the peer's layer."""
        port = self.servers[peer.server].port if peer.server else 0
        return {
            "layer": peer.layer,
            "config": peer.config(port),
            "loop": peer.loop,
            "django": peer.django(port),
            "flush": peer.flush,
        }

    def prepare_databases(self) -> None:
        """Make the tables of the peers that have some."""
        for peer in self.peers:
            if peer.migrate is None or peer.key in self.missing:
                continue
            spec = self.layer(peer) | {
                "workload": "migrate",
                "params": {"database": peer.migrate},
                "flush": False,
            }
            python = self.environments[peer.environment].python
            _, error = execute([str(python), str(WORKER), json.dumps(spec)], 60)
            if error:
                self.missing[peer.key] = f"its tables cannot be made: {error}"
                print(f"  {peer.title} is not available: {error}", flush=True)

    # After

    def titles(self) -> dict[str, str]:
        """What everybody is called, the limit first."""
        return {LIMIT: "(limit)", **{peer.key: peer.title for peer in self.peers}}

    def update(self, command: Sequence[str]) -> None:
        """Take what the last run found for all cases that were not measured again."""
        last = json.loads((self.output / "results.json").read_text(encoding="utf-8"))
        again = [case.key for case in self.cases]
        kept = [Run(**run) for run in last["runs"] if run["case"] not in again]
        self.results = Results([*kept, *self.results.runs])
        measured = {run.case for run in self.results.runs}
        self.cases = [case for case in CASES if case.key in measured]
        self.updated = {
            **last["facts"],
            f"measured again ({', '.join(again)})": shlex.join(command),
            "load before that": self.machine["load before"],
        }

    def facts(self, command: Sequence[str]) -> dict[str, str]:
        """The command, the machine and the versions."""
        if self.updated:
            return self.updated
        facts = {"command": shlex.join(command), "rounds": str(self.rounds), **self.machine}
        facts |= {name: server.version for name, server in sorted(self.servers.items())}
        for name, environment in self.environments.items():
            if name != "charts":
                versions = sorted(environment.versions.items())
                told = ", ".join(
                    f"{package} {v}" for package, v in versions if TOLD.fullmatch(package)
                )
                facts[f"packages of {name}"] = told
        facts["capacity"] = (
            f"{CAPACITY:,} messages stored for each layer that has such a setting; "
            f"local_capacity {PREFETCH:,}"
        )
        return facts

    def write(self, command: Sequence[str]) -> None:
        """Write results and charts."""
        self.output.mkdir(parents=True, exist_ok=True)
        found = {
            "facts": self.facts(command),
            "peers": self.titles(),
            "missing": self.missing,
            "cases": [
                {
                    **dataclasses.asdict(case),
                    "unit": UNITS[case.figure][0],
                    "digits": UNITS[case.figure][1],
                    "scale": shown(case.figure, 1.0),
                    "better": better(case),
                }
                for case in self.cases
            ],
            "summary": self.results.summary(self.cases, list(self.titles())),
            "targets": [
                {"text": v.target.text, "bound": v.target.bound, "value": v.value, "met": v.met}
                for v in self.verdicts()
            ],
            "runs": [dataclasses.asdict(run) for run in self.results.runs],
        }
        path = self.output / "results.json"
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if "charts" in self.environments:
            python = self.environments["charts"].python
            command = [str(python), str(HERE / "charts.py"), str(path), str(self.output)]
            done = subprocess.run(
                command,
                env=environments.clean_environ(),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                print(f"No charts: {done.stderr.strip().splitlines()[-1]}")
        else:
            print("No charts: matplotlib is not available")

    def verdicts(self) -> list[Verdict]:
        """The targets, as far as they concern what was run."""
        keys = {case.key for case in self.cases}
        return [judge(self.results, target) for target in TARGETS if target.case in keys]

    def text(self) -> str:
        """All tables, for a terminal."""
        parts = []
        for case in self.cases:
            rows = case_rows(self.results, case, self.titles(), self.missing)
            table = text_table(case_header(case), rows)
            parts.append(f"{case.title} ({better(case)})\n\n{table}\n")
        rows = [verdict.cells() for verdict in self.verdicts()]
        parts.append("Targets\n\n" + text_table(VERDICT_HEADER, rows) + "\n")
        return "\n".join(parts)

    def page(self, command: Sequence[str]) -> str:
        """All tables and charts, for the documentation."""
        rows = [verdict.cells() for verdict in self.verdicts()]
        parts = [_heading("Targets"), rst_table(VERDICT_HEADER, rows)]
        for case in self.cases:
            chart = self.output / f"{case.key}.svg"
            parts.append(_heading(case.title[0].upper() + case.title[1:]))
            if case.main and chart.exists():
                parts.append(f".. image:: performance/{chart.name}\n   :alt: {case.title}\n")
            rows = case_rows(self.results, case, self.titles(), self.missing)
            parts.append(rst_table(case_header(case), rows))
        parts.append(_heading("How cost grows"))
        for chart in sorted(self.output.glob("growth-*.svg")):
            kind = chart.stem.partition("-")[2]
            alt = f"How cost grows with {kind}"
            parts.append(f".. image:: performance/{chart.name}\n   :alt: {alt}\n")
        parts.append(_heading("Command, versions and machine"))
        parts.append(rst_table(["", ""], [list(item) for item in self.facts(command).items()]))
        return "\n".join(parts)

    def main(self) -> int:
        """Run it all."""
        command = (
            ["python", "-m", "benchmarks", *sys.argv[1:]] if sys.argv[1:] else ["make", "bench"]
        )
        self.machine = machine.describe()
        self.make_environments()
        with contextlib.ExitStack() as stack:
            self.start_servers(stack)
            if "RabbitMQ" not in self.servers:
                print("Without RabbitMQ there is nothing to compare.")
                return 1
            self.prepare_databases()
            self.run_all()
        if self.options.update:
            self.update(command)
        self.write(command)
        print("\n" + self.text())
        if self.for_documentation:
            write_between(PAGE, self.page(command))
        print(f"Results and charts: {os.path.relpath(self.output)}")
        print(f"Took {_minutes(time.monotonic() - self.started)}.")
        errors = (self.results.error(case.key, OURS) for case in self.cases)
        return 1 if any(error.startswith("fails") for error in errors) else 0


def write_between(page: Path, text: str) -> None:
    """Replace what is between the two marks of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page.name} lacks the lines {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def _heading(text: str) -> str:
    return f"{text}\n{'-' * len(text)}\n"


def _outcome(case: Case, run: Run) -> str:
    if run.error:
        return run.error[:60]
    unit, digits = UNITS[case.figure]
    return f"{shown(case.figure, run.figures[case.figure]):,.{digits}f} {unit}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", default=os.environ.get("QUICK", "0") not in ("", "0")
    )
    parser.add_argument(
        "--case", action="append", help="only cases whose name has this in it (may be repeated)"
    )
    parser.add_argument(
        "--peer",
        action="append",
        choices=[peer.key for peer in PEERS],
        help="only this peer (may be repeated)",
    )
    parser.add_argument("--rounds", type=int, help="how often everything is run")
    parser.add_argument(
        "--page", action="store_true", help="write docs/performance.rst although it is not all"
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help="put what is measured into docs/performance.rst beside what is there of other cases",
    )
    parser.add_argument("--output", type=Path, help="the directory for results and charts")
    parser.add_argument(
        "--against",
        metavar="REV",
        help="only compare with another revision of this repository, in turns: --case (whole"
        f" names; otherwise {', '.join(against.USUAL)}), --rounds and --quick apply",
    )
    options = parser.parse_args(arguments)
    if options.update and (options.quick or options.peer or options.output):
        parser.error("--update goes with --case and --rounds only")
    return options


def main(options: argparse.Namespace) -> int:
    """Do what the command line asks for; return the exit status."""
    if options.against is None:
        return Bench(options).main()
    rounds = options.rounds or (3 if options.quick else 10)
    seconds = 0.5 if options.quick else 2.0
    try:
        against.compare(ROOT, options.against, options.case or (), rounds, seconds)
    except (against.NotComparable, environments.EnvironmentFailed, ServerError) as err:
        print(err)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[1:])))
