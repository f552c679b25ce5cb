"""The report of ``make soak`` finds what must not be."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.soak.report import Report, over_time
from tests.soak.visitors import Visitor


def failures(
    heard: Sequence[int], answers: Sequence[int] = (0, 1), error: str = "", fault: float = 1000
) -> list[str]:
    """What is wrong with what one visitor got of three messages and two orders."""
    visitor = Visitor(0, "room", "")
    visitor.heard, visitor.answers = list(heard), list(answers)
    visitor.orders = {0: 10.0, 1: 11.0}
    visitor.answered = {n: visitor.orders[n] + 0.5 for n in answers}
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
    # What was not confirmed may even come late.
    assert failures([0, 2, 1], [0], "NotConnected", fault=11) == []


def test_orders_before_a_fault() -> None:
    """One that would have been answered in quiet, by the slowest answer, is missed."""
    assert failures([0, 1, 2], [0], fault=13.6) == ["orders in quiet without an answer: 1"]
    assert failures([0, 1, 2], [0], fault=13.4) == []


def test_over_time() -> None:
    """A second has its deliveries, and who has heard nothing for one already."""
    visitor = Visitor(0, "room", "")
    visitor.came.update({100: 5, 102: 1, 104: 2, 105: 1})
    visitor.silences = [(100.9, 104.1)]
    assert over_time([visitor], [(101.0, 103.5)], 100.2) == {
        "deliveries": [5, 0, 1, 0, 2],
        "silent": [0, 1, 1, 1, 1],
        "faults": [[1.0, 3.5]],
    }
