"""What the runs found: figures round by round, spread, ratios, and what became of the targets."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from .cases import Target

#: The limit takes part like a peer.
LIMIT = "limit"
OURS = "ours"


@dataclass(frozen=True)
class Spread:
    """A figure over all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """Return the spread of some values; None if there are none."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclass
class Results:
    """All that one benchmark found, as its JSON file has it: a line for each case and peer."""

    #: The command, the machine and the versions.
    facts: dict[str, str] = field(default_factory=dict)
    #: Peers that cannot take part, and why.
    missing: dict[str, str] = field(default_factory=dict)
    #: "case/peer" -> figure -> its value in each round.
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    #: "case/peer" -> why there are no figures: "fails: ..." or "not run: ...".
    errors: dict[str, str] = field(default_factory=dict)

    def add(self, case: str, peer: str, figures: Mapping[str, float], error: str = "") -> None:
        """Note one more round. Who failed in one has no figures at all."""
        key = f"{case}/{peer}"
        if error:
            self.errors[key] = error
            self.figures.pop(key, None)
        elif key not in self.errors:
            of_key = self.figures.setdefault(key, {})
            for figure, value in figures.items():
                rounded = float(f"{value:.5g}")  # more digits are noise
                whole = int(rounded)
                of_key.setdefault(figure, []).append(whole if whole == rounded else rounded)

    def values(self, case: str, peer: str, figure: str) -> list[float]:
        """Return a figure of all rounds in turn; empty if there is none."""
        return self.figures.get(f"{case}/{peer}", {}).get(figure, [])

    def error(self, case: str, peer: str) -> str:
        """Return why a peer has no figures for a case; empty if it has."""
        return self.errors.get(f"{case}/{peer}", "")

    def spread(self, case: str, peer: str, figure: str) -> Spread | None:
        """Return the median, the lowest and the highest of a figure; None if there is none."""
        return Spread.of(self.values(case, peer, figure))

    def each_ratio(
        self, case: str, peer: str, other: str, figure: str, other_figure: str | None = None
    ) -> list[float]:
        """Compare one peer's figure with another's of the same round, round by round."""
        values = self.values(case, peer, figure)
        others = self.values(case, other, other_figure or figure)
        return [one / another for one, another in zip(values, others, strict=False)]

    def ratios(self, case: str, peer: str, other: str, figure: str) -> Spread | None:
        """Return the spread of :meth:`each_ratio`; None if there is none."""
        return Spread.of(self.each_ratio(case, peer, other, figure))

    def replace(self, newer: Results) -> None:
        """Take another benchmark's figures for the cases that it measured."""
        again = {key.partition("/")[0] for key in [*newer.figures, *newer.errors]}
        for ours, theirs in ((self.figures, newer.figures), (self.errors, newer.errors)):
            for key in [key for key in ours if key.partition("/")[0] in again]:
                del ours[key]
            ours.update(theirs)  # type: ignore[arg-type]
        names = f"measured again ({', '.join(sorted(again))})"
        self.facts[names] = newer.facts["command"]
        self.facts["load before that"] = newer.facts["load before"]

    def save(self, path: Path) -> None:
        """Write everything: a line for each fact, and for each case and peer."""
        parts = []
        for name, mapping in vars(self).items():
            lines = [
                f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
                for key, value in mapping.items()
            ]
            parts.append(f'"{name}": {{\n' + ",\n".join(lines) + "\n}")
        path.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Verdict:
    """What became of a target."""

    target: Target
    #: Of each round; empty if it was not measured.
    values: Sequence[float]
    #: What the limit itself comes to, held against the same; None if that is not known.
    limit: float | None = None

    @property
    def value(self) -> float | None:
        """The median; None if it was not measured."""
        return statistics.median(self.values) if self.values else None

    @property
    def held(self) -> int:
        """In how many rounds it was met."""
        least, bound = self.target.at_least, self.target.bound
        return sum(value >= bound if least else value <= bound for value in self.values)

    @property
    def met(self) -> bool | None:
        """Whether it was met in every round; None if it was not measured."""
        return self.held == len(self.values) if self.values else None


def judge(results: Results, target: Target) -> Verdict:
    """Hold a target against what was measured."""
    if target.spread_over:
        cases = [results.values(case, OURS, target.figure) for case in target.spread_over]
        rounds = zip(*cases, strict=False)
        return Verdict(target, [max(figures) / min(figures) for figures in rounds])
    if target.against is None:
        return Verdict(target, results.values(target.case, OURS, target.figure))
    other = (target.against, target.figure, target.against_figure)
    limit = None
    if target.against != LIMIT:
        limit = Spread.of(results.each_ratio(target.case, LIMIT, *other))
    values = results.each_ratio(target.case, OURS, *other)
    return Verdict(target, values, None if limit is None else limit.median)
