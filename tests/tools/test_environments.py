"""Virtual environments of layers with requirements of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from devtools import environments


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """What was run, instead of pip and venv."""
    found: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> str:
        found.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
        return json.dumps([{"name": "layer", "version": "1.2"}])

    monkeypatch.setattr(environments, "_run", run)
    return found


def test_made_once(tmp_path: Path, commands: list[Sequence[str]]) -> None:
    """The second time it is found, with its versions."""
    first = environments.make(tmp_path, "peer", ["layer"])
    assert [word for command in commands for word in command if word in ("venv", "layer")] == [
        "venv",
        "layer",
    ]
    made = len(commands)
    assert environments.make(tmp_path, "peer", ["layer"]) == first
    assert len(commands) == made
    assert first.versions == {"layer": "1.2"}


def test_made_again(tmp_path: Path, commands: list[Sequence[str]]) -> None:
    """Other requirements make another one in its place, and leave others alone."""
    old = environments.make(tmp_path, "peer", ["layer"])
    other = environments.make(tmp_path, "peer-other", ["layer"])
    new = environments.make(tmp_path, "peer", ["layer <2"])
    assert new.python != old.python
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {new.python.parts[-3], other.python.parts[-3]}


def test_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be installed is told in the last words of who tried."""
    monkeypatch.setattr("sys.executable", "/bin/sh")
    with pytest.raises(environments.EnvironmentFailed, match="-m venv"):
        environments.make(tmp_path, "peer", ["layer"])


def test_clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes a Python program is not handed on."""
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("HOME", "/home")
    found = environments.clean_environ()
    assert "PYTHONPATH" not in found
    assert found["HOME"] == "/home"
