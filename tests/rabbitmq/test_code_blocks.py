"""Every block of Python in the documentation that no other test names runs on a private RabbitMQ.

``tests/tools/test_docs.py`` sees to it that there is no block which nothing runs.
"""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest

from channels_rabbitmq.config.options import Options
from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.helpers.blocks import Block, runs_here
from tests.helpers.pages import DOCUMENTED_URL


@pytest.mark.parametrize("block", runs_here(), ids=lambda block: block.name)
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
