"""Every block of code in the documentation runs, or says why not."""

from __future__ import annotations

import ast
import asyncio
import subprocess
from pathlib import Path

import pytest

from channels_rabbitmq.config.options import Options
from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.helpers.blocks import Block, blocks, named_in_a_test
from tests.helpers.pages import DOCUMENTED_URL, ROOT

_CODE = [block for block in blocks() if block.language]
_HERE = [
    block
    for block in _CODE
    if block.language == "python"
    and not (block.run_by or block.not_run)
    and (block.then or not named_in_a_test(block))
]


def _name(block: Block) -> str:
    return block.name or f"{block.page}: {block.code[:30]}"


def test_something_runs_each() -> None:
    """A block is run here, by a test that names it, or not for a reason that is given."""
    idle = []
    for block in _CODE:
        assert not (block.run_by and block.not_run)
        if block.run_by:
            assert (ROOT / block.run_by).exists()
        elif block in _HERE:
            if block.defines_only and not block.then:
                idle.append(f"{_name(block)}: nothing calls what it defines: add `.. then:`")
        elif not block.not_run and not named_in_a_test(block):
            idle.append(f"{_name(block)}: no test runs it: say why, `.. not run: REASON`")
    assert not idle


def test_names_are_unique() -> None:
    """Each block of code has a name of its own."""
    names = [block.name for block in _CODE]
    assert "" not in names
    assert len(names) == len(set(names))


def test_literal_blocks_are_no_code() -> None:
    """Python and commands are in code blocks, so that the above holds for them."""
    literal = [block for block in blocks() if not block.language]
    assert literal
    assert not [_name(block) for block in literal if block.looks_like_code]


def test_commands_are_valid() -> None:
    """What is for a shell is a shell's language."""
    commands = [block for block in _CODE if block.language == "shell"]
    assert commands
    for block in commands:
        done = subprocess.run(
            ["sh", "-n"], input=block.code, text=True, capture_output=True, check=False, timeout=20
        )
        assert (done.returncode, done.stderr) == (0, ""), _name(block)


@pytest.mark.parametrize("block", _HERE, ids=_name)
async def test_it_runs(
    block: Block, layer: RabbitmqChannelLayer, private_url: str, certs: Path
) -> None:
    """It runs on a private RabbitMQ, as a script does; and so does what follows it, on a loop."""
    code = block.code.replace("/etc/rabbitmq/", f"{certs}/").replace(DOCUMENTED_URL, private_url)
    namespace: dict[str, object] = {"__name__": block.name}
    # Not on this loop: a script has none, and may call asyncio.run().
    await asyncio.to_thread(exec, compile(code, block.name, "exec"), namespace)
    if "CONFIG" in namespace:
        assert isinstance(namespace["CONFIG"], dict)
        assert Options.from_config(namespace["CONFIG"])
    settings = namespace.get("CHANNEL_LAYERS", {})
    assert isinstance(settings, dict)
    for entry in settings.values():
        if entry["BACKEND"].startswith("channels_rabbitmq."):
            assert Options.from_config(entry.get("CONFIG", {}))
    namespace |= {"layer": layer}
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    coroutine = eval(compile(block.then, f"{block.name}, then", "exec", flags), namespace)
    if coroutine is not None:
        await coroutine
