"""The project of ``docs/start.rst``, made by following that page, and servers that serve it."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

import websockets

from devtools.process import HOST, free_port
from tests.helpers import processes
from tests.helpers.pages import DOCUMENTED_URL, ROOT, snippets
from tests.helpers.processes import Process

__all__ = ["HOST", "PAGE", "free_port", "make_site", "said", "serving", "visit"]

PAGE = "docs/start.rst"
#: Where commands such as django-admin and daphne are.
_BIN = Path(sys.executable).parent


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(_BIN), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def make_site(directory: Path, amqp_url: str) -> Path:
    """Do what the page says, less what pip installs; RabbitMQ is at ``amqp_url``."""
    commands = dict(snippets(PAGE, "shell"))["start-project"].splitlines()
    subprocess.run(
        ["sh", "-ec", "\n".join(line for line in commands if " pip " not in line)],
        cwd=directory,
        env=_environment(),
        check=True,
        timeout=60,
    )
    for language, comment in (("python", "# "), ("html", "<!-- ")):
        for _, code in snippets(PAGE, language):
            first = code.partition("\n")[0]
            if not first.startswith(comment):
                continue
            path = directory / first.removeprefix(comment).removesuffix(" -->")
            # What is for the settings goes to their end.
            before = path.read_text() if path.name == "settings.py" else ""
            path.write_text(f"{before}\n\n{code.replace(DOCUMENTED_URL, amqp_url)}\n")
    return directory


def serving(site: Path, command: str | Sequence[str]) -> AbstractContextManager[Process]:
    """A server of the site, or another of its processes; ended in any case."""
    words = shlex.split(command) if isinstance(command, str) else command
    return processes.started(words, cwd=site, environment=_environment())


@asynccontextmanager
async def visit(
    server: Process, port: str | int, timeout: float = 60, origin: str | None = None
) -> AsyncIterator[websockets.ClientConnection]:
    """A websocket to the chat, as its page opens it, once the server is there."""
    address = f"{HOST}:{port}"
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket = await websockets.connect(
                f"ws://{address}/ws/", origin=origin or f"http://{address}", proxy=None
            )
        except OSError:
            if time.monotonic() > deadline:
                raise AssertionError(f"it does not listen:\n{server.log}") from None
            await asyncio.sleep(0.1)
        else:
            break
    async with socket:
        yield socket


async def said(socket: websockets.ClientConnection) -> str:
    """The next line of the chat."""
    line: str = json.loads(await asyncio.wait_for(socket.recv(), 20))["text"]
    return line
