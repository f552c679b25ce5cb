"""What a worker process is to run, as its command line says it, and the layer it runs it on."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

Figures = Mapping[str, float]
#: Any channel layer: a workload uses nothing but the Channel Layer Specification's methods.
Layer = Any


class Failure(Exception):
    """The layer did not do what the workload asked of it."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One workload for one peer, or for a limit, where ``layer`` is empty."""

    #: A key of ``WORKLOADS`` or ``LIMITS``.
    workload: str
    params: Mapping[str, Any] = field(default_factory=dict)
    #: How long to measure.
    seconds: float
    #: The key of the peer; empty for a limit.
    peer: str = ""
    #: Of the server; for a limit, of RabbitMQ.
    port: int = 0
    #: The dotted path of the layer's class, and its CONFIG.
    layer: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    loop: str = "asyncio"
    #: More Django settings.
    django: Mapping[str, Any] = field(default_factory=dict)
    #: The database that the layer's tables are in, if it has some.
    database: str | None = None
    #: Where the layer must have been imported from; empty if that does not matter.
    source: str = ""

    def dumps(self) -> str:
        """Return this as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Self:
        """Read JSON."""
        return cls(**json.loads(text))

    def role(self, workload: str, **params: object) -> Self:
        """Return the same, with another workload and more parameters."""
        return replace(self, workload=workload, params={**self.params, **params})


def set_up(spec: Spec, **more: object) -> None:
    """Set Django up, with ``more`` settings."""
    import django
    from django.conf import settings

    settings.configure(**spec.django, **more)
    django.setup()


def run(spec: Spec, work: Callable[[Layer], Awaitable[None]], *, first: bool = True) -> None:
    """Await ``work`` on a new event loop with the layer that ``spec`` names.

    The ``first`` process of a workload clears away what earlier ones have left in a database.
    """
    from django.core.management import call_command

    set_up(spec)
    if first and spec.database is not None:
        call_command("migrate", database=spec.database, verbosity=0)
    loops = importlib.import_module("uvloop" if spec.loop == "uvloop" else "asyncio")
    loop: asyncio.AbstractEventLoop = loops.new_event_loop()
    asyncio.set_event_loop(loop)

    async def make_and_work() -> None:
        module, _, name = spec.layer.rpartition(".")
        imported = importlib.import_module(module)
        if not str(imported.__file__).startswith(spec.source):
            raise Failure(f"{module} was imported from {imported.__file__}")
        layer = getattr(imported, name)(**spec.config)
        if first and spec.database is not None:
            await layer.flush()
        await work(layer)

    loop.run_until_complete(make_and_work())
