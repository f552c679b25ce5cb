"""Tables of results, for a terminal and for docs/performance.rst, which is written from them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from .cases import CASES, TARGETS, Case
from .peers import PEERS
from .results import LIMIT, OURS, Results, Verdict, judge

BEGIN, END = ".. begin: make bench writes this", ".. end: make bench writes this"
TARGETS_HEADER = ["target", "bound", "measured", ""]
TITLES: Mapping[str, str] = {LIMIT: "(limit)", **{peer.key: peer.title for peer in PEERS}}


def terminal(results: Results) -> str:
    """Return all tables, for a terminal."""
    parts = [
        f"{case.title} ({case.better})\n\n{table(case_header(case), case_rows(results, case))}"
        for case in measured(results)
    ]
    return "\n".join([*parts, "Targets\n", table(TARGETS_HEADER, target_rows(results))])


def page(results: Results, charts: Path) -> str:
    """Return all tables and charts, in reStructuredText."""
    parts = [*_heading("Targets"), table(TARGETS_HEADER, target_rows(results), escape)]
    for case in measured(results):
        parts += _heading(case.title[0].upper() + case.title[1:])
        chart = charts / f"{case.key}.svg"
        if case.main and chart.exists():
            parts.append(f".. image:: performance/{chart.name}\n   :alt: {case.title}\n")
        parts.append(table(case_header(case), case_rows(results, case), escape))
    parts += _heading("How cost grows")
    for chart in sorted(charts.glob("growth-*.svg")):
        alt = f"How cost grows with {chart.stem.partition('-')[2]}"
        parts.append(f".. image:: performance/{chart.name}\n   :alt: {alt}\n")
    parts += _heading("Command, versions and machine")
    parts += [f":{escape(name)}: {escape(fact)}" for name, fact in results.facts.items()]
    return "\n".join(parts) + "\n"


def write_between(file: Path, text: str) -> None:
    """Replace what is between the two marks of a page."""
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file.name} lacks the lines {BEGIN!r} and {END!r}")
    file.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def measured(results: Results) -> list[Case]:
    """Return the cases that there are results of."""
    keys = {key.partition("/")[0] for key in [*results.figures, *results.errors]}
    return [case for case in CASES if case.key in keys]


def verdicts(results: Results) -> list[Verdict]:
    """Return what became of the targets, as far as they concern what was run."""
    keys = {case.key for case in measured(results)}
    return [judge(results, target) for target in TARGETS if target.case in keys]


def target_rows(results: Results) -> list[list[str]]:
    """Return the rows of the table of targets."""
    words = {None: "not measured", True: "met", False: "NOT MET"}
    return [
        [
            verdict.target.text,
            f"at {'least' if verdict.target.at_least else 'most'} {verdict.target.bound:,g}",
            "" if verdict.value is None else number(verdict.value),
            words[verdict.met],
        ]
        for verdict in verdicts(results)
    ]


def case_header(case: Case) -> list[str]:
    """Return the head of a case's table."""
    return [
        "layer",
        *(case.unit.name, "lowest - highest", "CPU µs each", "to ours", "to the limit"),
        "why not",
    ]


def case_rows(results: Results, case: Case) -> list[list[str]]:
    """Return the rows of a case's table: the limit, then the peers, with figures or an error."""
    rows = []
    for peer, title in TITLES.items():
        name = case.limit or "" if peer == LIMIT else title
        spread = results.spread(case.key, peer, case.figure)
        if spread is not None:
            cpu = results.spread(case.key, peer, "cpu_us")
            ratios = [results.ratios(case.key, peer, other, case.figure) for other in (OURS, LIMIT)]
            median, low, high = map(case.shown, (spread.median, spread.low, spread.high))
            cells = [median, f"{low} - {high}", "" if cpu is None else number(cpu.median, 1)]
            cells += ["" if ratio is None else number(ratio.median, 2) for ratio in ratios]
            rows.append([name, *cells, ""])
        elif peer in results.missing:
            rows.append([name, *[""] * 5, f"not available: {results.missing[peer]}"])
        elif error := results.error(case.key, peer):
            rows.append([name, *[""] * 5, textwrap.shorten(error, 110, placeholder=" ...")])
    return rows


def number(value: float, digits: int | None = None) -> str:
    """Write a number, with three digits where it does not matter how many."""
    if digits is None:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    write: Callable[[str], str] = str,
) -> str:
    """Return a simple table of reStructuredText, which is legible on a terminal as well.

    The first column is to the left, the last one too: it may be wide, and is left out where it is
    empty. All others are numbers.
    """
    lines = [[" ".join(write(cell).split()) for cell in row] for row in [header, *rows]]
    *columns, last = zip(*lines, strict=True)
    widths = [max(map(len, column)) for column in columns]
    rule = "  ".join("=" * width for width in widths)
    if any(last[1:]):
        rule += "  " + "=" * max(len(last[0]), 2)
    else:
        lines[0][-1] = ""

    def line(row: Sequence[str]) -> str:
        numbers = map(str.rjust, row[1:-1], widths[1:])
        return "  ".join([row[0].ljust(widths[0]), *numbers, row[-1]]).rstrip()

    return "\n".join([rule, line(lines[0]), rule, *map(line, lines[1:]), rule]) + "\n"


def escape(text: str) -> str:
    """Keep reStructuredText from seeing markup; what is in words, like ``a_b``, is none."""
    return re.sub(r"([\\*`|]|_(?!\w)|(?<!\w)_)", r"\\\1", text)


def _heading(text: str) -> list[str]:
    return [text, "-" * len(text) + "\n"]
