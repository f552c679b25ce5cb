"""``python -m benchmarks --against REV``: the working tree beside another revision of itself.

Both run the same workloads in turns, on one RabbitMQ and in one virtual environment: only the
package's sources differ. A ratio is of two runs that followed each other, so what the machine does
meanwhile falls on both alike; the median over all pairs is what counts. Nothing is kept.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .bench import Bench
from .cases import CASES, Case
from .peers import PEERS
from .report import table
from .results import OURS, Results

PACKAGE = "channels_rabbitmq"
#: What is compared unless the command line names cases.
USUAL = ("send", "plain", "group-1000")
OTHER = "other"
HEADER = ["case", "this tree", "other", "ratio", "lowest - highest", "CPU, ratio", ""]


class NotComparable(Exception):
    """The revision cannot be had or measured. The text says why."""


def unpack(root: Path, revision: str, directory: Path) -> str:
    """Put the package as it was at ``revision`` into a directory; return the commit."""
    git = ["git", "-C", str(root)]
    parsed = [*git, "rev-parse", "--verify", "--short", f"{revision}^{{commit}}"]
    named = subprocess.run(parsed, capture_output=True, text=True, check=False)
    if named.returncode != 0:
        raise NotComparable(f"git knows no revision {revision!r}")
    commit = named.stdout.strip()
    archive = subprocess.run([*git, "archive", commit, PACKAGE], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(directory, filter="data")
    return commit


def row(results: Results, case: Case) -> list[str]:
    """Return the row of a table: medians, and the ratios of this tree's figures to the other's."""
    cells = [case.key]
    for peer in (OURS, OTHER):
        spread = results.spread(case.key, peer, case.figure)
        if spread is None:
            raise NotComparable(f"{case.key}, {peer}: {results.error(case.key, peer)}")
        cells.append(case.shown(spread.median))
    for figure in (case.figure, "cpu_us"):
        ratios = results.ratios(case.key, OURS, OTHER, figure)
        cells.append("" if ratios is None else f"{ratios.median:.3f}")
        if ratios is not None and figure == case.figure:
            cells.append(f"{ratios.low:.3f} - {ratios.high:.3f}")
    return [*cells, ""]


def compare(root: Path, revision: str, keys: Sequence[str], rounds: int, *, quick: bool) -> str:
    """Run the cases for both trees in turns; return the table of ratios. Raises NotComparable."""
    cases = [replace(case, main=True, limit=None) for case in CASES if case.key in keys]
    if not cases:
        raise NotComparable(f"there is no case {' or '.join(keys)}: give whole names")
    with tempfile.TemporaryDirectory() as directory:
        commit = unpack(root, revision, Path(directory))
        ours = next(peer for peer in PEERS if peer.key == OURS)
        this = replace(ours, environment="against", source=str(root))
        other = replace(this, key=OTHER, source=directory)
        results = Bench([this, other], cases, rounds, quick=quick).run("")
    rows = [row(results, case) for case in cases]
    return f"This tree against {commit}, {rounds} pairs\n\n{table(HEADER, rows)}"
