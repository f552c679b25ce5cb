"""Virtual environments for layers with requirements of their own, each made once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class EnvironmentFailed(Exception):
    """A virtual environment could not be made. The text says why."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    python: Path
    #: Package -> version, of all that is installed.
    versions: Mapping[str, str]


def clean_environ() -> dict[str, str]:
    """Return our environment variables, less those that change what a Python program imports."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def make(directory: Path, name: str, requirements: Sequence[str]) -> Environment:
    """Make the environment, or find it made. Raises EnvironmentFailed.

    It is made again when the requirements change, or our own, or the interpreter.
    """
    text = "\n".join([sys.version, *requirements, (ROOT / "setup.cfg").read_text()])
    target = directory / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    python = target / "bin" / "python"
    made = target / "made.json"
    if not made.exists():
        # Left over from before: made for other requirements, or not to the end.
        for old in directory.glob(f"{name}-{'?' * 10}"):
            shutil.rmtree(old)
        _run([sys.executable, "-m", "venv", str(target)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", *requirements])
        listed = json.loads(_run([*pip, "list", "--format=json"]))
        made.write_text(json.dumps({entry["name"]: entry["version"] for entry in listed}))
    return Environment(python, json.loads(made.read_text()))


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=clean_environ(),
        cwd=ROOT,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise EnvironmentFailed(f"{' '.join(command[1:4])}: {lines[-1]}")
    return done.stdout
