"""``python -m benchmarks.charts RESULTS_JSON DIRECTORY``: draw the charts of a benchmark.

A bar chart per workload, with the limit as a line; a line chart of how cost grows with each of
members, groups, payload and processes; and what a message costs RabbitMQ. Needs matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found,unused-ignore]

mpl.use("svg")
import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]

from .cases import CASES, Case
from .report import TITLES
from .results import LIMIT, OURS, Results

#: Ours stand out; the rest is for telling lines apart, also without colours.
OURS_COLOUR = "#d95f02"
COLOURS = ("#1b6ca8", "#3a8f5c", "#7a5195", "#8c6d31", "#555555", "#c05a8a", "#2f8f9d")
OTHER_COLOUR = "#9db4c8"
MARKS = "sD^vPX*"

AXES = {
    "payload": ("bytes of text in each message", "µs for each message"),
    "members": ("members of the group in this process", "µs for each delivery"),
    "groups": ("groups joined at once", "µs for each join"),
    "processes": ("publishing, and as many receiving, processes", "µs for each delivery"),
}


def bars(found: Results, case: Case, path: Path) -> None:
    """One workload: a bar for each peer, whiskers from the lowest to the highest run."""
    spreads = {peer: found.spread(case.key, peer, case.figure) for peer in TITLES}
    limit = spreads.pop(LIMIT)
    rows = [peer for peer in reversed(spreads) if spreads[peer] or found.error(case.key, peer)]
    if not any(spreads.values()):
        return
    figure, axes = plt.subplots(figsize=(8, 0.7 + 0.42 * len(rows)))
    scale = case.unit.scale
    greatest = 0.0
    for row, peer in enumerate(rows):
        spread = spreads[peer]
        if spread is None:
            text = " " + found.error(case.key, peer)
            axes.text(0, row, text[:90], va="center", fontsize=7, color="#a00000")
            continue
        greatest = max(greatest, spread.high)
        axes.barh(
            row,
            spread.median * scale,
            color=OURS_COLOUR if peer.startswith("ours") else OTHER_COLOUR,
            xerr=[
                [(spread.median - spread.low) * scale],
                [(spread.high - spread.median) * scale],
            ],
            error_kw={"ecolor": "#333333", "capsize": 2, "linewidth": 0.8},
            height=0.7,
        )
        axes.annotate(
            case.shown(spread.median),
            (spread.high * scale, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    if limit is not None:
        greatest = max(greatest, limit.median)
        x = limit.median * scale
        axes.axvline(x, color="#333333", linestyle="--", linewidth=1, label=case.limit)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=7, frameon=False)
    axes.set_yticks(range(len(rows)), [TITLES[peer] for peer in rows])
    axes.set_xlim(0, greatest * scale * 1.15)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_title(case.title, loc="left", fontsize=10)
    axes.set_xlabel(f"{case.unit.name} ({case.better})", fontsize=8)
    finish(figure, axes, path)


def growth(found: Results, kind: str, path: Path) -> None:
    """How the time that one message, delivery or membership takes grows with something."""
    rate = "join_rate" if kind == "groups" else "rate"
    sizes = {
        case.growth[1]: case
        for case in sorted(CASES, key=lambda case: case.growth or ("", 0))
        if case.growth and case.growth[0] == kind and found.spread(case.key, OURS, rate)
    }
    figure, axes = plt.subplots(figsize=(8, 4))
    drawn = False
    for number, (peer, title) in enumerate(TITLES.items()):
        points = [
            (size, 1e6 / spread.median)
            for size, case in sizes.items()
            if (spread := found.spread(case.key, peer, rate))
        ]
        # A line over a gap would say something of what was not measured.
        if len(points) < 2 or [size for size, _ in points] != list(sizes)[: len(points)]:
            continue
        drawn = True
        xs, ys = zip(*points, strict=True)
        if peer == LIMIT:
            label = next(iter(sizes.values())).limit
            axes.plot(xs, ys, color="#333333", linestyle="--", label=label)
        else:
            ours = peer.startswith("ours")
            axes.plot(
                xs,
                ys,
                color=OURS_COLOUR if ours else COLOURS[number % len(COLOURS)],
                linewidth=2.2 if ours else 1.2,
                marker="o" if ours else MARKS[number % len(MARKS)],
                markersize=5,
                label=title,
            )
    if not drawn:
        plt.close(figure)
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = list(sizes)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel(AXES[kind][0], fontsize=8)
    axes.set_ylabel(AXES[kind][1], fontsize=8)
    axes.set_title(f"How cost grows with {kind} (lower is better)", loc="left", fontsize=10)
    axes.legend(fontsize=7, frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
    finish(figure, axes, path)


def reach(files: list[Path], path: Path) -> None:
    """How RabbitMQ's processor time for a message grows with the processes that it reaches."""
    figure, axes = plt.subplots(figsize=(8, 4))
    for number, file in enumerate(files):
        costs = json.loads(file.read_text(encoding="utf-8"))
        for nodes in (1, 2, 3):
            points = [
                (each["processes"], each["broker_us"])
                for each in costs["fan_outs"]
                if each["nodes"] == nodes
            ]
            label = f"RabbitMQ {costs['facts']['RabbitMQ']}, {nodes} node{'s' * (nodes > 1)}"
            style = {"color": COLOURS[number], "marker": MARKS[nodes], "markersize": 5}
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1 + nodes / 3, **style)
    axes.set_xlabel("processes that have a member of the group", fontsize=8)
    axes.set_ylabel("µs of RabbitMQ's processor time for a message", fontsize=8)
    axes.set_title("What a message to a group costs RabbitMQ", loc="left", fontsize=10)
    axes.legend(fontsize=7, frameon=False)
    finish(figure, axes, path)


def finish(figure: Any, axes: Any, path: Path) -> None:
    """Write the picture, the same bytes for the same figures."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    # No trailing blanks: they disturb whoever reads a diff.
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def main(results: Path, directory: Path) -> None:
    """Draw all that there are figures for."""
    mpl.rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.size": 9})
    found = Results.load(results)
    for case in CASES:
        if case.main:
            bars(found, case, directory / f"{case.key}.svg")
    for kind in AXES:
        growth(found, kind, directory / f"growth-{kind}.svg")
    if costs := sorted(directory.glob("costs-*.json")):
        reach(costs, directory / "reach.svg")
    print(json.dumps({"charts": len(list(directory.glob("*.svg")))}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
