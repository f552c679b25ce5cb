"""The table that ``make conformance`` writes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import tests.conformance
from tests.conformance.__main__ import GROUPS, by_clause, render
from tests.conformance.layers import OURS

FILES = sorted(Path(tests.conformance.__file__).parent.glob("test_*.py"))


def result(outcome: str, reason: str = "") -> dict[str, Any]:
    """What the suite tells of one test."""
    return {
        "outcome": outcome,
        "reason": reason,
        "clauses": [
            {
                "level": "must",
                "section": "Messages",
                "clause": "send_it() sends *it*.",
                "group": "Messages",
            }
        ],
    }


def test_one_failed_parameter_fails_the_clause() -> None:
    """A clause with several parameters passes only if it does so with each."""
    merged = by_clause(
        {
            "f.py::test_a[1]": result("passed"),
            "f.py::test_a[2]": result("failed", "why"),
            "f.py::test_a[3]": result("passed"),
            "f.py::test_b": result("passed"),
        }
    )
    assert {test: found["outcome"] for (test, _), found in merged.items()} == {
        "f.py::test_a": "failed",
        "f.py::test_b": "passed",
    }


def test_a_test_of_two_clauses_is_two_rows() -> None:
    """A test that proves several clauses has a row for each, in the group of each."""
    proven = result("passed")
    (one,) = proven["clauses"]
    proven["clauses"] = [one, {**one, "clause": "It sends.", "group": "Groups"}]
    rows = by_clause({"f.py::test_a": proven})
    assert [(row["group"], row["clause"], row["outcome"]) for row in rows.values()] == [
        ("Messages", "send_it() sends *it*.", "passed"),
        ("Groups", "It sends.", "passed"),
    ]


def test_table_tells_what_fails_and_what_was_not_run() -> None:
    """A clause is one row, with a cell for each layer, and each failure has its reason."""
    found = {
        OURS: {"versions": {"channels": "4.0"}, "results": {"f.py::test_a": result("passed")}},
        "inmemory": {
            "versions": {"channels": "4.0"},
            "results": {
                "f.py::test_a": result("failed", "it *broke*"),
                "f.py::test_b": result("not offered"),
            },
        },
    }
    text = "\n".join(render(found))
    row = "   * - *must*: send\\_it() sends \\*it\\*."
    assert f"{row}\n     - ✓\n     - **✗**\n{row}\n     - not run\n     - —\n" in text
    assert "* send\\_it() sends \\*it\\*. *it \\*broke\\**" in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_test_is_a_clause(file: Path) -> None:
    """Each test of the suite is marked as a clause, and states it in one sentence."""
    module = ast.parse(file.read_text())
    assert (ast.get_docstring(module) or "").split("\n")[0] in GROUPS
    tests_found = [
        node
        for node in module.body
        if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    assert tests_found
    for test in tests_found:
        marks = [ast.unparse(mark) for mark in test.decorator_list]
        assert any(mark.startswith(("clause(", "original(")) for mark in marks), test.name
        sentence = ast.get_docstring(test) or ""
        assert sentence.endswith("."), test.name
        assert "\n\n" not in sentence, test.name
