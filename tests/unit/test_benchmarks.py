"""The benchmark's own arithmetic, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import BEGIN, END, PAGE, write_between
from benchmarks.cases import CASES, TARGETS


def test_targets_name_cases() -> None:
    """Every target is about a case that is measured."""
    assert {target.case for target in TARGETS} <= {case.key for case in CASES}


def test_page_has_its_marks() -> None:
    """The documentation has the place that the benchmark writes, once."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1


def test_writing_between_the_marks(tmp_path: Path) -> None:
    """What is between the marks is replaced; all else stays."""
    page = tmp_path / "page.rst"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_between(page, "new")
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n\nnew\n{END}\nafter\n"


def test_a_page_without_marks(tmp_path: Path) -> None:
    """A page without the marks is refused, and left as it was."""
    page = tmp_path / "page.rst"
    page.write_text("all\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the lines"):
        write_between(page, "new")
    assert page.read_text(encoding="utf-8") == "all\n"
