"""Real processes for tests: Python code that talks to its test over stdin and stdout, by lines."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]

_PROLOGUE = """
import asyncio, json, logging, os, signal, sys
from django.conf import settings
settings.configure()
logging.basicConfig(level="WARNING", stream=sys.stderr)
# A machine that is busy with other tests is slow, and says so.
logging.getLogger("asyncio").setLevel("ERROR")
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


class Process:
    """A process that runs an ``async def main()`` with a layer; both sides talk JSON."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        self.pid = process.pid

    @property
    def log(self) -> str:
        """What it wrote to stderr so far."""
        return os.pread(self._errors.fileno(), 1_000_000, 0).decode()

    async def hear(self, timeout: float = 20) -> object:
        """Wait for the next thing that it tells."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        if not line:
            raise AssertionError(f"the process ended:\n{self.log}")
        return json.loads(line)

    def tell(self, value: object) -> None:
        """Tell it something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")

    def kill(self) -> None:
        """End it without a warning."""
        self._process.kill()

    async def end(self, timeout: float = 20) -> int:
        """Close its stdin, wait for its end, and give its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await asyncio.wait_for(self._process.wait(), timeout)


@asynccontextmanager
async def running(code: str, **config: object) -> AsyncIterator[Process]:
    """Run a process whose code defines ``async def main()``; ``config`` is its layer's."""
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-X",
            "dev",
            "-c",
            f"{_PROLOGUE}\n{code}\nasyncio.run(main())\n",
            json.dumps(config),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
        try:
            yield Process(process, errors)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
