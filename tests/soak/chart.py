"""``python -m tests.soak.chart SVG JSON...``: draw what ``--json`` of soaks wrote.

Needs matplotlib. For each run, one below the other: deliveries in each second, how many websockets
had heard nothing for a second, and the faults, each until everyone was heard and answered again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl  # type: ignore[import-not-found,unused-ignore]

mpl.use("svg")
import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]


def draw(target: Path, files: Sequence[Path]) -> None:
    """Draw all runs into one picture; the same bytes for the same figures."""
    mpl.rcParams.update({"svg.hashsalt": "soak", "svg.fonttype": "none", "font.size": 8})
    figure, rows = plt.subplots(len(files), figsize=(9, 2.4 * len(files)), squeeze=False)
    for file, (axes,) in zip(files, rows, strict=True):
        run = json.loads(file.read_text())
        for number, (start, end) in enumerate(run["faults"]):
            label = None if number else "a fault, until all are heard and answered"
            axes.axvspan(start, end, color="#e8e8e8", linewidth=0, label=label)
        axes.plot(run["deliveries"], color="#1b6ca8", linewidth=0.8, label="deliveries in a second")
        axes.fill_between(
            range(len(run["silent"])),
            run["silent"],
            step="post",
            color="#d95f02",
            linewidth=0,
            label="websockets that heard nothing for a second",
        )
        axes.set_title(run["title"], loc="left")
        axes.set_xlim(0, len(run["deliveries"]))
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1][0].set_xlabel("seconds")
    rows[-1][0].legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None}, facecolor="white")
    # No trailing blanks: they disturb whoever reads a diff.
    lines = target.read_text(encoding="utf-8").splitlines()
    target.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
