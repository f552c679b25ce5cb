"""The report of ``make soak`` finds what must not be."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.soak.report import Report
from tests.soak.visitors import Visitor


def failures(
    heard: Sequence[int], answers: Sequence[int] = (0, 1), error: str = "", fault: float = 1000
) -> list[str]:
    """What is wrong with what one visitor got of three messages and two orders."""
    visitor = Visitor(0, "room", "")
    visitor.heard, visitor.answers = list(heard), list(answers)
    visitor.orders = {0: 10.0, 1: 11.0}
    published = [
        {"room": "room", "n": n, "at": 10.0 + n, "seconds": 0.1, "error": error if n == 1 else ""}
        for n in range(3)
    ]
    return Report([visitor], published, [], [(fault, fault + 5)]).failures


def test_all_is_well() -> None:
    """Everything came, once and in order."""
    assert failures([0, 1, 2]) == []


@pytest.mark.parametrize(
    ("heard", "answers", "error", "found"),
    [
        ([0, 1, 1, 2], [0, 1], "", "duplicates: 1"),
        ([0, 2, 1], [0, 1], "", "reorderings: 1"),
        ([0, 2], [0, 1], "", "confirmed messages of quiet times not delivered: 1"),
        ([0, 1, 2], [0], "", "orders in quiet without an answer: 1"),
        ([0, 2], [0, 1], "NotConnected", "messages refused in quiet: 1"),
    ],
)
def test_fault_is_found(heard: list[int], answers: list[int], error: str, found: str) -> None:
    """Each thing that must not be is named."""
    assert failures(heard, answers, error) == [found]


def test_fault_excuses_what_was_lost_in_it() -> None:
    """What was sent just before a fault, or in it, may be lost or refused; never come twice."""
    assert failures([0, 2], [0], "NotConnected", fault=11) == []
    assert failures([0, 0], [0], "", fault=11) == ["duplicates: 1"]
