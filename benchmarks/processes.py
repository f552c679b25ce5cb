"""Runs a worker in a process of its own, which ends with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from devtools.environments import ROOT, clean_environ

from .spec import Figures, Spec

#: Where environments and results are kept between runs.
STATE = ROOT / ".bench"


def module_path() -> Path:
    """Return a directory with this package and what it needs of the repository, and no more.

    It is what the peers' interpreters import from: beside ``channels_rabbitmq`` itself, version
    4.0.1 would not be found.
    """
    directory = STATE / "path"
    directory.mkdir(parents=True, exist_ok=True)
    (STATE / ".gitignore").write_text("*\n")
    for package in ("benchmarks", "devtools"):
        with contextlib.suppress(FileExistsError):
            (directory / package).symlink_to(ROOT / package)
    return directory


def run_worker(python: Path, spec: Spec, timeout: float) -> tuple[Figures, str]:
    """Run one workload; return its figures, or why there are none."""
    command = [str(python), "-m", "benchmarks.worker", spec.dumps()]
    return execute(command, timeout, {"PYTHONPATH": spec.source} if spec.source else {})


def execute(
    command: Sequence[str], timeout: float, environ: Mapping[str, str] | None = None
) -> tuple[Mapping[str, Any], str]:
    """Run a command that prints a JSON object; return that, or what went wrong."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=module_path(),
        env=clean_environ() | dict(environ or {}),
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return {}, f"no result within {timeout:g} s"
        finally:
            # With whatever it started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    try:
        answer = json.loads(output)
    except ValueError:
        lines = errors.strip().splitlines() or [f"ended with status {process.returncode}"]
        return {}, lines[-1]
    if "error" in answer:
        return {}, answer["error"]
    return answer, ""
