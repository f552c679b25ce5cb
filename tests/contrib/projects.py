"""A real Django project with whatever channel layers a test gives it, and its ``manage.py``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager

from tests.helpers import processes
from tests.helpers.processes import ROOT, Ended, Process

PROJECT = ROOT / "tests" / "projects" / "commands"
BACKEND = "channels_rabbitmq.core.RabbitmqChannelLayer"


def layer(backend: str = BACKEND, **config: object) -> dict[str, object]:
    """An entry of ``CHANNEL_LAYERS``."""
    return {"BACKEND": backend, "CONFIG": config}


def started(layers: Mapping[str, object], *arguments: str) -> AbstractContextManager[Process]:
    """A ``manage.py`` with these layers, whose warnings are errors; ended in any case."""
    return processes.started(
        [sys.executable, "-X", "dev", "-W", "error", "manage.py", *arguments],
        cwd=PROJECT,
        environment={
            **os.environ,
            "CHANNEL_LAYERS": json.dumps(layers),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
        },
    )


async def manage(layers: Mapping[str, object], *arguments: str) -> Ended:
    """Run ``manage.py`` to its end."""
    with started(layers, *arguments) as process:
        return await process.end()
