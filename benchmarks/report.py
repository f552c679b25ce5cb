"""Tables of results, for a terminal and for docs/performance.rst, which is written from them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from .cases import CASES, TARGETS, UNITS, Case
from .peers import PEERS
from .results import LIMIT, OURS, Results, judge

BEGIN, END = ".. begin: written by a command", ".. end: written by a command"
TITLES: Mapping[str, str] = {LIMIT: "(limit)", **{peer.key: peer.title for peer in PEERS}}
#: Whose medians are shown where there is no room for all.
MEDIANS_OF = (OURS, "4.0.1", "redis-pubsub", "nats", LIMIT)


def terminal(results: Results) -> str:
    """Return all tables, for a terminal."""
    parts = [
        f"{case.title} ({case.better})\n\n{table(case_header(case), case_rows(results, case))}"
        for case in measured(results)
    ]
    return "\n".join(
        [*parts, "Targets\n", table(targets_header([results]), target_rows([results]))]
    )


def page(found: Sequence[Results], charts: Path) -> str:
    """Return all tables and charts, in reStructuredText: in full of the first results."""
    first, *others = found
    parts = [*_heading("Targets"), table(targets_header(found), target_rows(found), escape)]
    for case in measured(first):
        parts += _heading(case.title[0].upper() + case.title[1:])
        chart = charts / f"{case.key}.svg"
        if case.main and chart.exists():
            parts.append(f".. image:: performance/{chart.name}\n   :alt: {case.title}\n")
        parts.append(table(case_header(case), case_rows(first, case), escape))
    parts += _heading("How cost grows")
    for chart in sorted(charts.glob("growth-*.svg")):
        alt = f"How cost grows with {chart.stem.partition('-')[2]}"
        parts.append(f".. image:: performance/{chart.name}\n   :alt: {alt}\n")
    for results in others:
        parts += _heading(f"The same with RabbitMQ {results.facts['RabbitMQ']}")
        parts.append(
            table(
                ["case", "unit", *(TITLES[peer] for peer in MEDIANS_OF), ""],
                medians(results),
                escape,
            )
        )
    for results in found:
        parts += _heading(f"Command, versions and machine, RabbitMQ {results.facts['RabbitMQ']}")
        parts += [f":{escape(name)}: {escape(fact)}" for name, fact in results.facts.items()]
        parts.append("")
    return "\n".join(parts)


def medians(results: Results) -> list[list[str]]:
    """Return a row for each case: its medians."""
    rows = []
    for case in measured(results):
        spreads = [results.spread(case.key, peer, case.figure) for peer in MEDIANS_OF]
        cells = ["" if spread is None else case.shown(spread.median) for spread in spreads]
        rows.append([case.title, case.unit.name, *cells, ""])
    return rows


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


def targets_header(found: Sequence[Results]) -> list[str]:
    """Return the head of the table of targets."""
    versions = [results.facts.get("RabbitMQ", "measured") for results in found]
    return ["target", "bound", *(word for name in versions for word in (name, "held", "limit")), ""]


def target_rows(found: Sequence[Results]) -> list[list[str]]:
    """Return the rows of the table of targets, as far as they concern what was run.

    For each of the results: the median, in how many rounds the target held, and what the limit
    itself comes to where that is what it is held against.
    """
    keys = {case.key for results in found for case in measured(results)}
    rows = []
    for target in TARGETS:
        if target.case not in keys:
            continue
        row = [target.text, f"at {'least' if target.at_least else 'most'} {target.bound:,g}"]
        for verdict in (judge(results, target) for results in found):
            row += [
                "" if verdict.value is None else number(verdict.value),
                f"{verdict.held} of {len(verdict.values)}" if verdict.values else "",
                "" if verdict.limit is None else number(verdict.limit),
            ]
        rows.append([*row, ""])
    return rows


def case_header(case: Case) -> list[str]:
    """Return the head of a case's table."""
    return [
        "layer",
        *(case.unit.name, "lowest - highest", *(UNITS[figure].name for figure in columns(case))),
        *("to ours", "to the limit", "why not"),
    ]


def columns(case: Case) -> list[str]:
    """Return the further figures that a case's table shows."""
    return [*case.columns, *(["cpu_us"] if case.figure != "cpu_us" else [])]


def case_rows(results: Results, case: Case) -> list[list[str]]:
    """Return the rows of a case's table: the limit, then the peers, with figures or an error."""
    rows = []
    empty = [""] * (len(case_header(case)) - 2)
    for peer, title in TITLES.items():
        name = case.limit or "" if peer == LIMIT else title
        spread = results.spread(case.key, peer, case.figure)
        if spread is not None:
            further = [(UNITS[key], results.spread(case.key, peer, key)) for key in columns(case)]
            ratios = [results.ratios(case.key, peer, other, case.figure) for other in (OURS, LIMIT)]
            median, low, high = map(case.shown, (spread.median, spread.low, spread.high))
            cells = [median, f"{low} - {high}"]
            cells += ["" if each is None else unit.shown(each.median) for unit, each in further]
            cells += ["" if ratio is None else number(ratio.median, 2) for ratio in ratios]
            rows.append([name, *cells, ""])
        elif peer in results.missing:
            rows.append([name, *empty, f"not available: {results.missing[peer]}"])
        elif error := results.error(case.key, peer):
            rows.append([name, *empty, textwrap.shorten(error, 110, placeholder=" ...")])
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
