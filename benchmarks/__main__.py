"""``python -m benchmarks``: the layer beside its peers and the limits, on servers of its own.

Each peer runs each workload in a process and a virtual environment of its own; the runs take
turns, so that what else the machine does falls on all alike. A whole run writes the results, the
charts, and what is between the marks of docs/performance.rst and docs/scaling.rst, anew.
``--quick`` (or QUICK=1) measures briefly, ends within three minutes, and leaves the documentation
as it is.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from devtools.environments import ROOT, EnvironmentFailed
from devtools.process import ServerError

from . import against, costs, scaling
from .bench import Bench, environment
from .cases import CASES
from .peers import PEERS
from .processes import STATE, execute, module_path
from .report import page, terminal, write_between
from .results import OURS, Results

PAGE = ROOT / "docs" / "performance.rst"
#: The results and charts that the page shows.
SHOWN = ROOT / "docs" / "performance"


def kept_results() -> list[Path]:
    """Return the files of what the page shows: one for each major version of RabbitMQ."""
    return sorted(SHOWN.glob("results-*.json"))


def name_of(results: Results) -> str:
    """Return the name of the file for results: by RabbitMQ's major version."""
    return f"results-{results.facts['RabbitMQ'].partition('.')[0]}.json"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    quick = os.environ.get("QUICK", "0") not in ("", "0")
    keys = [peer.key for peer in PEERS]
    add = parser.add_argument
    add("--quick", action="store_true", default=quick, help="measure briefly")
    add("--case", action="append", help="only cases whose name has this in it (may be repeated)")
    add("--peer", action="append", choices=keys, help="only this peer (may be repeated)")
    add("--rounds", type=int, help="how often everything is run")
    add(
        "--page",
        action="store_true",
        help="with --case: put what is measured on the page, and leave its other cases as they are;"
        " with --report: write the page and its charts",
    )
    add("--report", action="store_true", help="measure nothing: show the page's results")
    add("--costs", action="store_true", help="only what RabbitMQ itself takes: see costs.py")
    add("--micro", action="store_true", help="only what takes no broker: see micro.py")
    add(
        "--against",
        metavar="REV",
        help="only compare with another revision of this repository, in turns; --case (whole names;"
        f" otherwise {', '.join(against.USUAL)}), --rounds and --quick apply",
    )
    options = parser.parse_args(arguments)
    if options.page and (options.quick or options.peer):
        parser.error("--page is for all peers, and not for a quick run")
    return options


def main(arguments: Sequence[str]) -> int:
    """Do what the command line asks for; return the exit status."""
    options = parse(arguments)
    try:
        if options.report:
            for kept in kept_results():
                report(Results.load(kept), to_page=options.page)
            return 0
        if options.micro:
            python = str(environment("ours").python)
            command = [python, "-m", "benchmarks.micro", *(["--fast"] if options.quick else [])]
            return subprocess.run(command, cwd=module_path(), check=False).returncode
        if options.against is not None:
            rounds = options.rounds or (3 if options.quick else 10)
            cases = options.case or against.USUAL
            print(against.compare(ROOT, options.against, cases, rounds, quick=options.quick))
            return 0
        told = shlex.join(["python", "-m", "benchmarks", *arguments]) if arguments else "make bench"
        if options.costs:
            return measure_costs(told)
        status = measure(options, told)
        if not (options.quick or options.peer or options.case):
            status = status or measure_costs(told)
        return status
    except (against.NotComparable, EnvironmentFailed, ServerError) as err:
        print(err)
        return 1


def measure(options: argparse.Namespace, command: str) -> int:
    """Run the benchmark, and show what it found."""
    bench = Bench(
        [peer for peer in PEERS if not options.peer or peer.key in options.peer],
        [
            case
            for case in CASES
            if (case.quick or not options.quick)
            and (not options.case or any(part in case.key for part in options.case))
        ],
        options.rounds or (1 if options.quick else 3),
        quick=options.quick,
    )
    results = bench.run(command)
    broken = [case.key for case in bench.cases if "fails" in results.error(case.key, OURS)]
    kept = SHOWN / name_of(results)
    if options.page and options.case and kept.exists():
        newer, results = results, Results.load(kept)
        results.replace(newer)
    report(results, to_page=options.page or not (options.quick or options.peer or options.case))
    return 1 if broken else 0


def report(results: Results, *, to_page: bool) -> int:
    """Show results: on the terminal, in charts, and on the page."""
    directory = SHOWN if to_page else STATE / "results"
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / name_of(results)
    results.save(file)
    print("\n" + terminal(results))
    if not to_page or file == kept_results()[0]:
        draw(file, directory)
    if to_page:
        write_between(PAGE, page([Results.load(kept) for kept in kept_results()], directory))
        scaling.main(["--page"])
    print(f"Results and charts: {os.path.relpath(directory)}")
    return 0


def measure_costs(command: str) -> int:
    """Measure what RabbitMQ itself takes, and have the model write its page."""
    found = costs.measure(command)
    found.save(SHOWN / f"costs-{found.facts['RabbitMQ'].partition('.')[0]}.json")
    draw(kept_results()[0], SHOWN)
    return scaling.main(["--page"])


def draw(results: Path, directory: Path) -> None:
    """Draw the charts."""
    try:
        python = environment("charts").python
    except EnvironmentFailed as err:
        print(f"No charts: {err}")
    else:
        command = [str(python), "-m", "benchmarks.charts", str(results), str(directory)]
        _, error = execute(command, 100)
        if error:
            print(f"No charts: {error}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
