"""Child processes of tests: started, spoken to by lines, and ended in any case.

All tests that need a process of their own use :func:`started`; :func:`running` is one with a layer.
"""

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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]

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


class Process:
    """A child process. Its standard error goes to a file, so that it never blocks."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._process = process
        self.pid = process.pid
        self._errors = errors
        self._out: list[str] = []
        self._last_output = time.monotonic()
        # A thread of its own: many processes may be waited for at once.
        self._thread = ThreadPoolExecutor(1)

    @property
    def log(self) -> str:
        """What it wrote to standard error so far, without what says that the machine is slow."""
        self._errors.seek(0)
        return _SLOW.sub("", self._errors.read())

    async def line(self, timeout: float = 30) -> str:
        """The next line of its standard output. Fails if it ends first."""
        assert self._process.stdout is not None
        with self._limited(timeout):
            line = await self._in_thread(self._process.stdout.readline)
        self._last_output = time.monotonic()
        self._out.append(line)
        if not line:
            raise AssertionError(f"it ended: {await self.end()}")
        return line.rstrip("\n")

    def say(self, line: str = "") -> None:
        """Give it a line to read."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    async def hear(self) -> Any:
        """The next value that it tells, in JSON."""
        return json.loads(await self.line())

    def tell(self, value: object) -> None:
        """Tell it a value, in JSON."""
        self.say(json.dumps(value))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def end(self, timeout: float = 40) -> Ended:
        """Give it nothing more to read, and wait until it ends."""
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        with self._limited(timeout):
            code = await self._in_thread(self._process.wait)
            lingered = time.monotonic() - self._last_output
            self._out.append(await self._in_thread(self._process.stdout.read))
        return Ended(code, "".join(self._out), self.log, lingered)

    async def end_well(self) -> Ended:
        """Wait until it ends; fail if there is a warning, or any other word on standard error."""
        ended = await self.end()
        assert (ended.code, ended.err) == (0, ""), f"{ended.code}\n{ended.out}\n{ended.err}"
        return ended

    def kill(self) -> None:
        """End it without a warning, and all that it started. Safe to call again."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End it by force, if it still runs, and forget it."""
        self.kill()
        self._thread.shutdown()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    async def _in_thread(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @contextlib.contextmanager
    def _limited(self, timeout: float) -> Iterator[None]:
        """Abort the process if what is waited for takes longer."""
        loop = asyncio.get_running_loop()
        # In development mode faulthandler is on: it says where each thread hangs.
        timers = [loop.call_later(timeout, self._process.send_signal, signal.SIGABRT)]
        # What it forked may keep its output open.
        timers.append(loop.call_later(timeout + 1, self._kill_group))
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def require_import(statement: str, *, without: str) -> None:
    """Import in a new process, without a word, as where the package ``without`` is missing."""
    code = f"import sys; sys.modules[{without!r}] = None; {statement}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")


@contextlib.contextmanager
def started(
    command: Sequence[str], *, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """A process that runs *command*; ended in any case."""
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        process = Process(child, errors)
        try:
            yield process
        finally:
            process.close()


_PROLOGUE = """
import asyncio, json, logging, os, signal, sys
from django.conf import settings
settings.configure()
logging.basicConfig(level="WARNING", stream=sys.stderr)
from channels_rabbitmq.core import RabbitmqChannelLayer

def tell(value):
    print(json.dumps(value), flush=True)

async def hear():
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    if not line:
        raise SystemExit
    return json.loads(line)

CONFIG = json.loads(sys.argv[1])
layer = RabbitmqChannelLayer(**CONFIG)
"""


def running(code: str, **config: object) -> contextlib.AbstractContextManager[Process]:
    """A process whose *code* defines ``async def main()``, with a layer; ``config`` is that's.

    In it ``tell(value)`` and ``await hear()`` talk to this side.
    """
    program = f"{_PROLOGUE}\n{code}\nasyncio.run(main())\n"
    return started(
        [sys.executable, "-X", "dev", "-c", program, json.dumps(config)],
        environment={**os.environ, "PYTHONPATH": str(ROOT)},
    )
