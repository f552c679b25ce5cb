"""Version 4.0.1 and this one share a broker, and understand each other."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from channels_rabbitmq.contrib.opentelemetry import TracedChannelLayer
from tests.helpers.processes import ROOT, Process, started

VERSION = "4.0.1"

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


class LayerProcess:
    """A process with a layer of either version, which does what it is told."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.channel = ""

    async def call(self, method: str, *arguments: object) -> Any:
        """Call a method of its layer, and give the result."""
        self._process.say(repr([method, *arguments]))
        return ast.literal_eval(await self._process.line())


@contextmanager
def layer_process(python: str, url: str) -> Iterator[LayerProcess]:
    """Start a process with a layer on what this interpreter has installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, str(ROOT / "tests" / "helpers" / "layer_process.py"), url]
    with started(command, cwd=Path(python).parent, environment=environment) as process:
        yield LayerProcess(process)


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
async def processes(
    request: pytest.FixtureRequest, version_4: str, amqp_url: str
) -> AsyncIterator[tuple[LayerProcess, ...]]:
    """Two processes of each version, on one virtual host where one of them came first."""
    pythons = [sys.executable] * 2 + [version_4] * 2
    if request.param == "theirs first":
        pythons.reverse()
    with ExitStack() as stack:
        started_now = [stack.enter_context(layer_process(python, amqp_url)) for python in pythons]
        for process in started_now:
            await process.call("connect")
            process.channel = await process.call("new_channel")
        yield tuple(started_now)


async def test_versions(version_4: str) -> None:
    """The other side really is version 4.0.1."""
    script = "from importlib.metadata import version; print(version('channels_rabbitmq'))"
    process = await asyncio.create_subprocess_exec(
        version_4, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=Path(version_4).parent
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == VERSION


async def test_direct_messages(processes: tuple[LayerProcess, ...]) -> None:
    """Every process sends to every process, and each message arrives as it was sent."""
    for number, sender in enumerate(processes):
        for receiver in processes:
            await sender.call("send", receiver.channel, {**MESSAGE, "from": number})
            assert await receiver.call("receive", receiver.channel) == {**MESSAGE, "from": number}


async def test_group_messages(processes: tuple[LayerProcess, ...]) -> None:
    """Messages to a group reach every process that is in it, and no other."""
    for member in processes:
        await member.call("group_add", "room", member.channel)
    for number, sender in enumerate(processes):
        await sender.call("group_send", "room", {**MESSAGE, "from": number})
        for member in processes:
            assert await member.call("receive", member.channel) == {**MESSAGE, "from": number}
    for leaver in processes[1:3]:
        await leaver.call("group_discard", "room", leaver.channel)
    await processes[1].call("group_send", "room", {"type": "to the others"})
    for member in processes:
        await processes[0].call("send", member.channel, {"type": "last"})
    for number, member in enumerate(processes):
        received = [await member.call("receive", member.channel)]
        if number in (0, 3):
            received.append(await member.call("receive", member.channel))
        expected = [{"type": "to the others"}] if number in (0, 3) else []
        assert received == [*expected, {"type": "last"}]


async def test_large_messages(processes: tuple[LayerProcess, ...]) -> None:
    """Messages of a megabyte pass in both directions."""
    first, *_, last = processes
    for sender, receiver in ((first, last), (last, first)):
        await sender.call("send", receiver.channel, {"data": "x" * 1_000_000})
        received = await receiver.call("receive", receiver.channel)
        assert received == {"data": "x" * 1_000_000}


async def test_traced_messages(version_4: str, amqp_url: str) -> None:
    """The headers of a traced message are not looked at by version 4.0.1, which sends none."""
    traced = TracedChannelLayer(amqp_url)
    traced._tracer = TracerProvider().get_tracer("test")
    channel = await traced.new_channel()
    await traced.group_add("room", channel)
    try:
        with layer_process(version_4, amqp_url) as theirs:
            await theirs.call("connect")
            theirs.channel = await theirs.call("new_channel")
            await theirs.call("group_add", "room", theirs.channel)
            await traced.send(theirs.channel, MESSAGE)
            await traced.group_send("room", MESSAGE)
            for _ in range(2):
                assert await theirs.call("receive", theirs.channel) == MESSAGE
            assert await traced.receive(channel) == MESSAGE
            await theirs.call("send", channel, MESSAGE)
            assert await traced.receive(channel) == MESSAGE
    finally:
        await traced.close()
