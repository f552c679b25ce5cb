"""What the runs found: medians and spread, ratios, targets, and the tables that show them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .cases import LOWER_IS_BETTER, UNITS, Case, Target

#: The limit takes part like a peer.
LIMIT = "limit"
OURS = "ours"


@dataclass(frozen=True)
class Run:
    """One workload, run once."""

    case: str
    peer: str
    round: int
    figures: Mapping[str, float] = field(default_factory=dict)
    #: Why there are no figures, "fails: ..." or "not run: ..."; empty if there are.
    error: str = ""


@dataclass(frozen=True)
class Spread:
    """A figure over all rounds."""

    median: float
    low: float
    high: float


class Results:
    """All runs of one benchmark."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self.runs = list(runs)

    def add(self, run: Run) -> None:
        """Note one more."""
        self.runs.append(run)

    def error(self, case: str, peer: str) -> str:
        """Why a peer has no figures for a case; empty if it has."""
        for run in self.runs:
            if (run.case, run.peer) == (case, peer) and run.error:
                return run.error
        return ""

    def by_round(self, case: str, peer: str, figure: str) -> dict[int, float]:
        """Round -> figure. Empty where the peer failed in any round."""
        if self.error(case, peer):
            return {}
        return {
            run.round: run.figures[figure]
            for run in self.runs
            if (run.case, run.peer) == (case, peer) and figure in run.figures
        }

    def spread(self, case: str, peer: str, figure: str) -> Spread | None:
        """The median, the lowest and the highest of a figure; None if there is none."""
        values = list(self.by_round(case, peer, figure).values())
        if not values:
            return None
        return Spread(statistics.median(values), min(values), max(values))

    def ratio(
        self, case: str, peer: str, other: str, figure: str, other_figure: str | None = None
    ) -> float | None:
        """The median of one peer's figure over another's, each of one round."""
        values = self.by_round(case, peer, figure)
        others = self.by_round(case, other, other_figure or figure)
        ratios = [values[number] / others[number] for number in values.keys() & others.keys()]
        return statistics.median(ratios) if ratios else None

    def summary(self, cases: Sequence[Case], peers: Sequence[str]) -> dict[str, object]:
        """The same as JSON has it: case -> peer -> figures or error."""
        found: dict[str, object] = {}
        for case in cases:
            of_case: dict[str, object] = {}
            for peer in peers:
                error = self.error(case.key, peer)
                names = {name for run in self.runs for name in run.figures}
                spreads = {name: self.spread(case.key, peer, name) for name in sorted(names)}
                figures = {
                    name: {"median": spread.median, "low": spread.low, "high": spread.high}
                    for name, spread in spreads.items()
                    if spread is not None
                }
                if error or figures:
                    of_case[peer] = {"error": error} if error else {"figures": figures}
            if of_case:
                found[case.key] = of_case
        return found


# Targets


@dataclass(frozen=True)
class Verdict:
    """What became of a target: the value is None if it was not measured."""

    target: Target
    value: float | None

    @property
    def met(self) -> bool | None:
        """Whether it was met; None if it was not measured."""
        if self.value is None:
            return None
        if self.target.at_least:
            return self.value >= self.target.bound
        return self.value <= self.target.bound

    def cells(self) -> list[str]:
        """The row of a table."""
        words = {None: "not measured", True: "met", False: "NOT MET"}
        sign = "at least" if self.target.at_least else "at most"
        value = "-" if self.value is None else _number(self.value)
        return [self.target.text, f"{sign} {self.target.bound:,g}", value, words[self.met]]


VERDICT_HEADER = ["target", "bound", "measured", ""]


def judge(results: Results, target: Target) -> Verdict:
    """Hold a target against what was measured."""
    value: float | None
    if target.spread_over:
        spreads = [results.spread(case, OURS, target.figure) for case in target.spread_over]
        medians = [spread.median for spread in spreads if spread is not None]
        complete = len(medians) == len(target.spread_over)
        value = max(medians) / min(medians) if complete else None
    elif target.against is not None:
        value = results.ratio(
            target.case, OURS, target.against, target.figure, target.against_figure
        )
    else:
        spread = results.spread(target.case, OURS, target.figure)
        value = None if spread is None else spread.median
    return Verdict(target, value)


# Tables


def shown(figure: str, value: float) -> float:
    """A figure in the unit that people read it in."""
    return value / 1e6 if figure == "bytes_rate" else value


def _number(value: float, digits: int | None = None) -> str:
    if digits is None:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def case_header(case: Case) -> list[str]:
    """The head of a case's table."""
    unit = UNITS[case.figure][0]
    return ["", unit, "lowest - highest", "CPU µs each", "to ours", "to the limit"]


def case_rows(
    results: Results, case: Case, titles: Mapping[str, str], missing: Mapping[str, str]
) -> list[list[str]]:
    """The rows of a case's table: the limit, then the peers, each with figures or an error.

    ``missing`` has peers that could not take part at all, with the reason.
    """
    rows = []
    digits = UNITS[case.figure][1]
    for peer, title in titles.items():
        if peer == LIMIT:
            title = case.limit or ""
        error = results.error(case.key, peer) or missing.get(peer, "")
        spread = results.spread(case.key, peer, case.figure)
        if spread is not None:
            cpu = results.spread(case.key, peer, "cpu_us")
            low, high = (shown(case.figure, value) for value in (spread.low, spread.high))
            rows.append(
                [
                    title,
                    _number(shown(case.figure, spread.median), digits),
                    f"{_number(low, digits)} - {_number(high, digits)}",
                    "" if cpu is None else _number(cpu.median, 1),
                    _ratio(results.ratio(case.key, peer, OURS, case.figure)),
                    _ratio(results.ratio(case.key, peer, LIMIT, case.figure)),
                ]
            )
        elif error and (peer in missing or results.error(case.key, peer)):
            word = "not available: " if peer in missing else ""
            rows.append([title, f"{word}{_short(error)}", "", "", "", ""])
    return rows


def better(case: Case) -> str:
    """Which way is better."""
    return "lower is better" if case.figure in LOWER_IS_BETTER else "higher is better"


def _ratio(value: float | None) -> str:
    return "" if value is None else _number(value, 2)


def _short(text: str, limit: int = 110) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal. A row whose cells after the second are empty may be wide."""
    whole = [row for row in rows if any(row[2:])]
    widths = [max(len(row[column]) for row in [header, *whole]) for column in range(len(header))]
    widths[0] = max(len(row[0]) for row in [header, *rows])
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])]
        if any(row[2:]) or row is header:
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        else:
            cells.append(row[1])
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def rst_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for documentation."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [header, *rows]:
        for index, cell in enumerate(row):
            lines.append(f"   {'* -' if index == 0 else '  -'} {_escape(cell)}".rstrip())
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    for mark in "\\*`|_":
        text = text.replace(mark, "\\" + mark)
    return text
