"""``devtools.summary``: what the closing line of ``make test`` says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devtools.summary import Environment, main


def environment(success: bool, output: str, skipped: bool = False) -> Environment:
    """What tox writes about one environment that ran one command."""
    return {
        "result": {"success": success, "duration": 2.0, "skipped": skipped},
        "setup": [],
        "test": [{"output": output, "err": "", "retcode": 0 if success else 1}],
    }


@pytest.mark.parametrize(
    ("environments", "status", "last"),
    [
        (
            {
                "lint": environment(True, "All checks passed!"),
                "py311": environment(True, "..\n==== 40 passed, 2 skipped in 2.20s ====\n"),
                "py312": environment(True, "70 passed, 1 warning in 65.00s (0:01:05)\nTOTAL 97 %"),
                "py313": {},
            },
            0,
            "111 passed, 0 failed, 2 skipped",
        ),
        (
            {"py311": environment(False, "1 failed, 3 passed, 2 errors in 0.10s\n")},
            1,
            "3 passed, 3 failed, 0 skipped",
        ),
        (
            {"coverage": environment(False, "5 passed in 1.00s\nCoverage failure: 94 %")},
            1,
            "5 passed, 1 failed, 0 skipped",
        ),
        ({"lint": environment(False, "")}, 1, "0 passed, 1 failed, 0 skipped"),
        ({"py310": environment(True, "", skipped=True)}, 1, "0 passed, 0 failed, 0 skipped"),
    ],
)
def test_last_line_and_status(
    environments: dict[str, Environment],
    status: int,
    last: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The last line adds up all environments, and the status is 0 only if each one passed."""
    (tmp_path / "tox.json").write_text(json.dumps({"testenvs": environments}))

    assert main([str(tmp_path / "tox.json")]) == status
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_output_of_a_failure_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What failed is shown with its output, what passed is not."""
    environments = {"a": environment(False, "it broke"), "b": environment(True, "it went well")}
    (tmp_path / "tox.json").write_text(json.dumps({"testenvs": environments}))

    main([str(tmp_path / "tox.json")])

    shown = capsys.readouterr().out
    assert "a failed:\nit broke" in shown
    assert "it went well" not in shown
