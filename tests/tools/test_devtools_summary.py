"""``devtools.summary``: what the closing line of ``make test`` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devtools.summary import main

PASSES = "def test_a(): pass\ndef test_b(): pass\n"
SKIPS = "import pytest\ndef test_a(): pytest.skip()\ndef test_b(): pass\n"
FAILS = """
import pytest
def test_a(): pass
def test_b(): assert 0
@pytest.fixture
def broken(): assert 0
def test_c(broken): pass
"""


def report(directory: Path, number: int, tests: str) -> None:
    """Run some tests as an environment does, with the file that pytest writes about them."""
    (directory / f"test_{number}.py").write_text(tests)
    file = directory / f"environment{number}.xml"
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={file}"]
    subprocess.run(
        [sys.executable, *command, f"test_{number}.py"],
        cwd=directory,
        check=False,
        capture_output=True,
    )


@pytest.mark.parametrize(
    ("tox", "environments", "status", "last"),
    [
        ("0", [PASSES, SKIPS], 0, "3 passed, 0 failed, 1 skipped"),
        ("1", [PASSES, FAILS], 1, "3 passed, 2 failed, 0 skipped"),
        # lint or coverage failed, or an environment could not be made
        ("1", [PASSES], 1, "2 passed, 1 failed, 0 skipped"),
        ("1", [], 1, "0 passed, 1 failed, 0 skipped"),
        ("0", [], 1, "0 passed, 0 failed, 0 skipped"),
    ],
)
def test_last_line_and_status(
    tox: str,
    environments: list[str],
    status: int,
    last: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The last line adds up all environments, and the status is 0 only if each one passed."""
    for number, tests in enumerate(environments):
        report(tmp_path, number, tests)

    assert main([tox, str(tmp_path)]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == last
    assert len([line for line in lines if "environment" in line]) == len(environments)
