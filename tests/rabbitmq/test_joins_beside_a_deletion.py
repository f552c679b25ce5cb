"""Joins while RabbitMQ deletes the thousands of bindings of a process that has just ended."""

from __future__ import annotations

import asyncio

import pytest

from channels_rabbitmq.broker import bindings
from channels_rabbitmq.local.contention import Contention
from devtools.broker import Broker
from tests.helpers.processes import running
from tests.helpers.rabbit import MakeLayer

HOLDER = """
async def main():
    channel = await layer.new_channel()
    await asyncio.gather(*(layer.group_add(f"held{number}", channel) for number in range(6000)))
    tell("holds")
    await hear()
"""


class Noted(Contention):
    """Remembers the rests that were taken."""

    def __init__(self) -> None:
        super().__init__()
        self.rests: list[float | None] = []

    def overdue(self, now: float) -> float | None:
        """Rest as ever."""
        self.rests.append(super().overdue(now))
        return self.rests[-1]


@pytest.mark.slow
async def test_joins_beside_a_deletion(
    make_layer: MakeLayer, broker: Broker, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They rest where RabbitMQ has the deletion and the joins hold each other up, and all join.

    RabbitMQ 3.10 made about 100 bindings a second beside the deletion, which then took 12 seconds.
    """
    noted = Noted()
    monkeypatch.setattr(bindings, "Contention", lambda: noted)
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.current_connection
    with running(HOLDER, host=amqp_url) as holder:
        assert await holder.hear() == "holds"
        holder.kill()
    await asyncio.gather(*(layer.group_add(f"new{number}", channel) for number in range(1000)))
    numbers = layer.statistics()
    assert (numbers.bindings, numbers.bindings_pending) == (1000, 0)
    if broker.version < (4,):
        assert noted.rests
