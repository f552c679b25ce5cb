"""``docs/start.rst``, done as it says: a new project, two servers, and a shell that says hello."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.pages import snippet, snippets
from tests.helpers.site import PAGE, free_port, make_site, said, serving, visit


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_start_here(amqp_url: str, tmp_path: Path) -> None:
    """Two servers of a new project talk to each other's websockets, and a shell to both."""
    site = make_site(tmp_path, amqp_url)
    commands = dict(snippets(PAGE, "shell"))["start-serve"]
    first, second = (
        command.replace(f" {port}", f" --noreload {free_port()}")
        for command, port in zip(commands.splitlines(), (8001, 8002), strict=True)
    )
    with serving(site, first) as one, serving(site, second) as other:
        async with visit(one, first.split()[-1]) as here, visit(other, second.split()[-1]) as there:
            await here.send(json.dumps({"text": "Hello"}))
            assert await said(here) == await said(there) == "Hello"
            with serving(
                site, ["python", "manage.py", "shell", "-c", snippet(PAGE, "start-shell")]
            ) as shell:
                assert (await shell.end()).code == 0
            assert await said(here) == await said(there) == "Hello from the shell"
