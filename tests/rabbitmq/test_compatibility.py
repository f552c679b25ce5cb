"""Version 4.0.1 and this one share a broker, and understand each other."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
VERSION = "4.0.1"

Start = Callable[[], Awaitable["Peer"]]

MESSAGE = {
    "type": "test.message",
    "none": None,
    "bool": True,
    "ints": [0, -1, 2**63, -(2**63)],
    "float": 1.5,
    "text": "h\u00e9llo \U0001f30d",
    "bytes": b"\x00\xff",
    "nested": {"list": [{"a": [b"b", {}]}]},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Peer:
    """A process with a layer."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.channel = ""

    async def call(self, method: str, *arguments: object) -> Any:
        """Call a method of its layer, and give the result."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{[method, *arguments]!r}\n".encode())
        await stdin.drain()
        answer = await asyncio.wait_for(stdout.readline(), 30)
        assert answer, "the process has ended"
        return ast.literal_eval(answer.decode())


@asynccontextmanager
async def peer(python: str, url: str) -> AsyncIterator[Peer]:
    """Start a process with a layer that is connected and has a channel; end it afterwards."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        python,
        str(Path(__file__).with_name("peer.py")),
        url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        cwd=Path(python).parent,
        limit=2**24,
    )
    assert process.stdin is not None
    try:
        made = Peer(process)
        await made.call("connect")
        made.channel = await made.call("new_channel")
        yield made
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()


@pytest.fixture(scope="session")
def version_4() -> str:
    """The interpreter of a virtual environment with version 4.0.1, made once and kept."""
    work = Path(os.environ.get("TOX_WORK_DIR", ROOT / ".tox"))
    directory = work / f"channels_rabbitmq-{VERSION}-{sys.implementation.cache_tag}"
    python = directory / "bin" / "python"
    ready = directory / "ready"
    if not ready.exists():
        venv.create(directory, clear=True, with_pip=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", f"channels_rabbitmq=={VERSION}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"version {VERSION} cannot be installed: {done.stderr.strip()[-300:]}")
        ready.touch()
    return str(python)


@pytest.fixture(params=["ours first", "theirs first"])
async def peers(
    request: pytest.FixtureRequest, version_4: str, amqp_url: str
) -> AsyncIterator[tuple[Peer, ...]]:
    """Two processes of each version, on one virtual host where one of them came first."""
    pythons = [sys.executable] * 2 + [version_4] * 2
    if request.param == "theirs first":
        pythons.reverse()
    async with AsyncExitStack() as stack:
        yield tuple([await stack.enter_async_context(peer(python, amqp_url)) for python in pythons])


async def test_versions(version_4: str) -> None:
    """The other side really is version 4.0.1."""
    script = "from importlib.metadata import version; print(version('channels_rabbitmq'))"
    process = await asyncio.create_subprocess_exec(
        version_4, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=Path(version_4).parent
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == VERSION


async def test_direct_messages(peers: tuple[Peer, ...]) -> None:
    """Every process sends to every process, and each message arrives as it was sent."""
    for number, sender in enumerate(peers):
        for receiver in peers:
            await sender.call("send", receiver.channel, {**MESSAGE, "from": number})
            assert await receiver.call("receive", receiver.channel) == {**MESSAGE, "from": number}


async def test_group_messages(peers: tuple[Peer, ...]) -> None:
    """Messages to a group reach every process that is in it, and no other."""
    for member in peers:
        await member.call("group_add", "room", member.channel)
    for number, sender in enumerate(peers):
        await sender.call("group_send", "room", {**MESSAGE, "from": number})
        for member in peers:
            assert await member.call("receive", member.channel) == {**MESSAGE, "from": number}
    for leaver in peers[1:3]:
        await leaver.call("group_discard", "room", leaver.channel)
    await peers[1].call("group_send", "room", {"type": "to the others"})
    for member in peers:
        await peers[0].call("send", member.channel, {"type": "last"})
    for number, member in enumerate(peers):
        received = [await member.call("receive", member.channel)]
        if number in (0, 3):
            received.append(await member.call("receive", member.channel))
        expected = [{"type": "to the others"}] if number in (0, 3) else []
        assert received == [*expected, {"type": "last"}]


async def test_large_messages(peers: tuple[Peer, ...]) -> None:
    """Messages of a megabyte pass in both directions."""
    first, *_, last = peers
    for sender, receiver in ((first, last), (last, first)):
        await sender.call("send", receiver.channel, {"data": "x" * 1_000_000})
        received = await receiver.call("receive", receiver.channel)
        assert received == {"data": "x" * 1_000_000}
