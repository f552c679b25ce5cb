"""A site with rooms, whose visitors hear what a task says, and order what a worker carries out."""

from __future__ import annotations

import json

from channels_rabbitmq.errors import NotConnected


def cause(error: Exception) -> str:
    """Why a message was refused, for the report."""
    on_its_way = isinstance(error, NotConnected) and error.sent
    return f"{type(error).__name__}{', when on its way' if on_its_way else ''}"


def tell(**row: object) -> None:
    """Tell the soak, which reads our output, what became of a message."""
    print(json.dumps(row), flush=True)
