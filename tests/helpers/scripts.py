"""Runs scripts and servers in processes of their own, as strictly as Python can."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "anywhere" / "scripts"
PROJECT = ROOT / "tests" / "projects" / "anywhere"

#: Development mode: asyncio's debug mode, and every warning shown. Warnings are errors.
STRICT = ("-X", "dev", "-W", "error")
#: Python 3.12 warns of every fork of a process that has threads, as the layer's may be one.
FORKING = (*STRICT, "-W", "ignore:This process:DeprecationWarning")

#: What asyncio's debug mode says of a busy machine.
_SLOW = re.compile(r"^.*\bExecuting <.*> took [\d.]+ seconds\n", re.MULTILINE)


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    #: Standard error, without what only says that the machine is slow.
    err: str
    #: Seconds from the last line that was read to its end.
    lingered: float


def environment(url: str, **options: object) -> dict[str, str]:
    """The environment of a process that uses the layer."""
    return {
        **os.environ,
        "AMQP_URL": url,
        "LAYER_OPTIONS": json.dumps(options),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(PROJECT)]),
        "PYTHONUNBUFFERED": "1",
    }


class Running:
    """A process that was started. Its standard error goes to a file, so that it never blocks."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._process = process
        self.pid = process.pid
        self._errors = errors
        self._out: list[str] = []
        self._last_output = time.monotonic()

    async def line(self) -> str:
        """The next line of its standard output."""
        line = await self._read_line(30)
        if not line:
            raise AssertionError(f"it ended: {await self.end()}")
        return line.rstrip("\n")

    async def _read_line(self, timeout: float) -> str:
        assert self._process.stdout is not None
        timer = asyncio.get_running_loop().call_later(timeout, self._abort)
        try:
            line = await asyncio.to_thread(self._process.stdout.readline)
        finally:
            timer.cancel()
        self._last_output = time.monotonic()
        self._out.append(line)
        return line

    def say(self) -> None:
        """Have it go on, where it waits for a line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def _abort(self) -> None:
        # In development mode faulthandler is on: it says where each thread hangs.
        self.signal(signal.SIGABRT)
        # What it forked may keep its output open.
        asyncio.get_running_loop().call_later(1, self._kill_group)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self, timeout: float = 40) -> Ended:
        """Wait until it ends."""
        timer = asyncio.get_running_loop().call_later(timeout, self._abort)
        try:
            code = await asyncio.to_thread(self._process.wait)
            lingered = time.monotonic() - self._last_output
            assert self._process.stdout is not None
            self._out.append(await asyncio.to_thread(self._process.stdout.read))
        finally:
            timer.cancel()
        self._errors.seek(0)
        return Ended(code, "".join(self._out), _SLOW.sub("", self._errors.read()), lingered)

    async def end_well(self) -> Ended:
        """Wait until it ends; fail if there is a warning, or any other word on standard error."""
        ended = await self.end()
        assert (ended.code, ended.err) == (0, ""), f"{ended.code}\n{ended.out}\n{ended.err}"
        return ended

    def kill(self) -> None:
        """End it by force, if it still runs, and all that it started."""
        self._kill_group()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def started(
    arguments: Sequence[str],
    url: str,
    *,
    flags: Sequence[str] = STRICT,
    cwd: Path = ROOT,
    **options: object,
) -> Iterator[Running]:
    """A Python process, with the layer's options; ended in any case."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, *flags, *arguments],
            cwd=cwd,
            env=environment(url, **options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        running = Running(process, errors)
        try:
            yield running
        finally:
            running.kill()


def script(name: str) -> list[str]:
    """The arguments that run a script of this directory."""
    return ["-m", f"tests.anywhere.scripts.{name}"]


async def run(
    name: str, url: str, *arguments: str, flags: Sequence[str] = STRICT, **options: object
) -> Ended:
    """Run a script; it must end well."""
    with started([*script(name), *arguments], url, flags=flags, **options) as running:
        return await running.end_well()
