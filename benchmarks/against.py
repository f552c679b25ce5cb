"""``python -m benchmarks --against REV``: the working tree beside another revision of itself.

Both run the same workloads in turns, on one RabbitMQ and in one virtual environment, only the
package's sources differ. A ratio is of two runs that followed each other, so what the machine does
meanwhile falls on both alike; the median over all pairs is what counts. Nothing is written.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from devtools import environments

from .cases import CASES, Case
from .peers import PEERS, REQUIREMENTS
from .processes import WORKER, execute
from .results import OURS, text_table
from .servers import SERVERS

PACKAGE = "channels_rabbitmq"
#: What is compared unless the command line names cases.
USUAL = ("send", "plain", "group-1000")
HEADER = ["", "this tree", "other", "ratio", "lowest - highest", "CPU µs each, ratio"]

Pair = tuple[Mapping[str, float], Mapping[str, float]]


class NotComparable(Exception):
    """The revision cannot be had or measured. The text says why."""


def unpack(root: Path, revision: str, directory: Path) -> str:
    """Put the package as it was at ``revision`` into a directory; return the commit."""
    git = ["git", "-C", str(root)]
    named = subprocess.run(
        [*git, "rev-parse", "--verify", "--short", f"{revision}^{{commit}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if named.returncode != 0:
        raise NotComparable(f"git knows no revision {revision!r}")
    archive = subprocess.run(
        [*git, "archive", named.stdout.strip(), PACKAGE], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(directory, filter="data")
    return named.stdout.strip()


def row(case: Case, pairs: Sequence[Pair]) -> list[str]:
    """The row of a table: medians, and the ratio of this tree's figures to the other's."""

    def ratios(figure: str) -> list[float]:
        return [ours[figure] / other[figure] for ours, other in pairs if figure in ours]

    rates, cpu = ratios(case.figure), ratios("cpu_us")
    medians = [
        statistics.median(run[case.figure] for run in runs) for runs in zip(*pairs, strict=True)
    ]
    return [
        case.key,
        *(f"{median:,.0f}" for median in medians),
        f"{statistics.median(rates):.3f}",
        f"{min(rates):.3f} - {max(rates):.3f}",
        f"{statistics.median(cpu):.3f}" if cpu else "",
    ]


def compare(root: Path, revision: str, keys: Sequence[str], rounds: int, seconds: float) -> None:
    """Run the cases for both trees in turns, and print the ratios. Raises NotComparable."""
    cases = [case for case in CASES if case.key in (keys or USUAL)]
    if not cases:
        raise NotComparable(f"there is no case {' or '.join(keys)}; give whole names")
    peer = next(peer for peer in PEERS if peer.key == OURS)
    environment = environments.make(
        root / ".bench" / "environments", "against", REQUIREMENTS["against"]
    )
    with tempfile.TemporaryDirectory() as temporary, SERVERS["RabbitMQ"]() as server:
        commit = unpack(root, revision, Path(temporary))
        trees = (root, Path(temporary))
        print(
            f"This tree against {commit}, {rounds} pairs of each, {seconds:g} s a run", flush=True
        )

        def measure(case: Case, tree: Path) -> Mapping[str, float]:
            spec = {
                "layer": peer.layer,
                "config": peer.config(server.port),
                "loop": peer.loop,
                "workload": case.workload,
                "params": case.params,
                "seconds": seconds,
                "source": str(tree),
            }
            command = [str(environment.python), str(WORKER), json.dumps(spec)]
            figures, error = execute(command, 60, {"PYTHONPATH": str(tree)})
            if error:
                raise NotComparable(f"{case.key} in {tree}: {error}")
            return figures

        rows = []
        for case in cases:
            pairs: list[Pair] = []
            for number in range(rounds):
                # Who is first changes from pair to pair.
                order = trees if number % 2 == 0 else trees[::-1]
                found = {tree: measure(case, tree) for tree in order}
                pairs.append((found[trees[0]], found[trees[1]]))
                ratio = found[trees[0]][case.figure] / found[trees[1]][case.figure]
                print(f"{case.key:16} pair {number + 1:>2}/{rounds}: {ratio:.3f}", flush=True)
            rows.append(row(case, pairs))
    print("\n" + text_table(HEADER, rows))
