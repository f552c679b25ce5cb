"""Runs scripts and servers in processes of their own, as strictly as Python can."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tests.helpers import processes
from tests.helpers.processes import ROOT, Ended, Process

SCRIPTS = ROOT / "tests" / "anywhere" / "scripts"
PROJECT = ROOT / "tests" / "projects" / "anywhere"

#: Development mode: asyncio's debug mode, and every warning shown. Warnings are errors.
STRICT = ("-X", "dev", "-W", "error")
#: Python 3.12 warns of every fork of a process that has threads, as the layer's may be one.
FORKING = (*STRICT, "-W", "ignore:This process:DeprecationWarning")


def environment(url: str, **options: object) -> dict[str, str]:
    """The environment of a process that uses the layer."""
    return {
        **os.environ,
        "AMQP_URL": url,
        "LAYER_OPTIONS": json.dumps(options),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(PROJECT)]),
        "PYTHONUNBUFFERED": "1",
    }


def started(
    arguments: Sequence[str],
    url: str,
    *,
    flags: Sequence[str] = STRICT,
    cwd: Path = ROOT,
    **options: object,
) -> AbstractContextManager[Process]:
    """A Python process, with the layer's options; ended in any case."""
    return processes.started(
        [sys.executable, *flags, *arguments], cwd=cwd, environment=environment(url, **options)
    )


def script(name: str) -> list[str]:
    """The arguments that run a script of ``tests/anywhere/scripts``."""
    return ["-m", f"tests.anywhere.scripts.{name}"]


async def run(
    name: str, url: str, *arguments: str, flags: Sequence[str] = STRICT, **options: object
) -> Ended:
    """Run a script; it must end well."""
    with started([*script(name), *arguments], url, flags=flags, **options) as process:
        return await process.end_well()
