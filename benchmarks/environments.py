"""The virtual environments that the peers live in, each made once and kept."""

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

#: What is installed into each.
REQUIREMENTS: Mapping[str, Sequence[str]] = {
    "ours": ["--editable", str(ROOT), "uvloop"],
    # Revisions before carehare became an extra need it.
    "against": ["--editable", str(ROOT), "carehare"],
    "4.0.1": ["channels_rabbitmq==4.0.1"],
    "channels_redis": ["channels_redis", "redis <8"],
    "channels_postgres": ["channels_postgres"],
    "channels-nats": ["channels-nats"],
    "charts": ["matplotlib"],
}

#: Of these the version is told in the results.
_TOLD = frozenset(
    [
        "asgiref",
        "carehare",
        "channels",
        "channels-nats",
        "channels_postgres",
        "channels-rabbitmq",
        "channels_rabbitmq",
        "channels_redis",
        "Django",
        "matplotlib",
        "msgpack",
        "nats-py",
        "pamqp",
        "psycopg",
        "redis",
        "uvloop",
    ]
)


class EnvironmentFailed(Exception):
    """A virtual environment could not be made; the text says why."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    python: Path
    #: Package -> version.
    versions: Mapping[str, str]


def clean_environ() -> dict[str, str]:
    """Our environment variables, less those that change what a Python program imports or does."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def make(directory: Path, name: str) -> Environment:
    """Make the environment, or find it made. Raises EnvironmentFailed."""
    wanted = REQUIREMENTS[name]
    target = directory / f"{name}-{_fingerprint(wanted)}"
    python = target / "bin" / "python"
    made = target / "made.json"
    if not made.exists():
        # Left over from before: made for other requirements, or not to the end.
        for old in directory.glob(f"{name}-*"):
            shutil.rmtree(old)
        _run([sys.executable, "-m", "venv", str(target)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", *wanted])
        listed = json.loads(_run([*pip, "list", "--format=json"]))
        versions = {entry["name"]: entry["version"] for entry in listed}
        made.write_text(json.dumps(versions))
    versions = json.loads(made.read_text())
    return Environment(
        python, {package: versions[package] for package in versions if package in _TOLD}
    )


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


def _fingerprint(wanted: Sequence[str]) -> str:
    """Changes when what is to be installed does, or the interpreter."""
    text = "\n".join([sys.version, *wanted, (ROOT / "setup.cfg").read_text()])
    return hashlib.sha256(text.encode()).hexdigest()[:10]
