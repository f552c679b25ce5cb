"""Runs worker.py and limits.py in processes of their own, which end with all that they started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from devtools import environments

WORKER = Path(__file__).with_name("worker.py")
LIMITS = Path(__file__).with_name("limits.py")


def execute(
    command: Sequence[str], timeout: float, environ: Mapping[str, str] | None = None
) -> tuple[Mapping[str, float], str]:
    """Run a worker, with more environment variables; give its figures, or why there are none."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environments.clean_environ() | dict(environ or {}),
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
