"""Adds up what tox ran: ``python -m devtools.summary FILE``, the file of ``tox run --result-json``.

It shows the output of what failed, then one line for each environment, and last of all
``N passed, N failed, N skipped``, where a check without tests, such as lint, counts as one. The
exit status is 1 if anything failed or nothing ran.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

#: The last line of pytest: "=== 3 failed, 40 passed, 1 skipped in 2.20s ===", in any combination.
CLOSING = re.compile(r"^=*\s*(\d+ (?:passed|failed|skipped|error|xfailed|deselected).* in [\d.]+s)")
COUNTS = re.compile(r"(\d+) (passed|failed|skipped|error)")


class Command(TypedDict):
    """One command that tox ran, as far as it is looked at here."""

    output: str
    err: str
    retcode: int | None


class Result(TypedDict):
    """How an environment ended."""

    success: bool
    duration: float
    skipped: bool


class Environment(TypedDict, total=False):
    """One tox environment; without a result it was not run."""

    result: Result
    setup: list[Command]
    test: list[Command]


@dataclass(frozen=True)
class Outcome:
    """What became of one environment."""

    name: str
    success: bool
    seconds: float
    closing: str
    counts: Counter[str]
    output: str


def read(environments: dict[str, Environment]) -> list[Outcome]:
    """Return the outcome of every environment that ran, in their order."""
    outcomes = []
    for name, environment in environments.items():
        result = environment.get("result")
        if result is None or result["skipped"]:
            continue
        commands = environment.get("setup", []) + environment.get("test", [])
        output = "\n".join(command["output"] + command["err"] for command in commands)
        closings = [match[1] for line in output.splitlines() if (match := CLOSING.match(line))]
        closing = closings[-1] if closings else ""
        counts = Counter({word: int(number) for number, word in COUNTS.findall(closing)})
        counts["failed"] += counts.pop("error", 0)
        if not result["success"] and not counts["failed"]:
            counts["failed"] = 1
        elif not closing:
            counts["passed"] = 1
        outcomes.append(
            Outcome(name, result["success"], result["duration"], closing, counts, output)
        )
    return outcomes


def main(arguments: Sequence[str]) -> int:
    """Print the summary. Returns the exit status."""
    environments = json.loads(Path(arguments[0]).read_text())["testenvs"]
    outcomes = read(environments)
    for outcome in outcomes:
        if not outcome.success:
            print(f"\n--- {outcome.name} failed:\n{outcome.output.rstrip()}\n")
    total = Counter[str]()
    for outcome in outcomes:
        word = "ok" if outcome.success else "FAILED"
        print(
            f"    {outcome.name:12} {word:6} {outcome.seconds:4.0f} s  {outcome.closing}".rstrip()
        )
        total += outcome.counts
    print(f"\n{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 0 if outcomes and all(outcome.success for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
