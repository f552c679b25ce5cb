"""Joins while RabbitMQ deletes the thousands of bindings of a process that has just ended."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.processes import running
from tests.helpers.rabbit import MakeLayer

HOLDER = """
async def main():
    channel = await layer.new_channel()
    await asyncio.gather(*(layer.group_add(f"held{number}", channel) for number in range(8000)))
    tell("holds")
    await hear()
"""


@pytest.mark.slow
async def test_joins_beside_a_deletion(make_layer: MakeLayer, amqp_url: str) -> None:
    """All join, though RabbitMQ 3 has the deletion and the joins hold each other up.

    It made about 100 bindings a second beside the deletion of 10,000, which then took 12 seconds.
    """
    layer = make_layer(send_timeout=60)
    channel = await layer.new_channel()
    await layer.current_connection
    with running(HOLDER, host=amqp_url) as holder:
        assert await holder.hear() == "holds"
        holder.kill()
    await asyncio.gather(*(layer.group_add(f"new{number}", channel) for number in range(2000)))
    numbers = layer.statistics()
    assert (numbers.bindings, numbers.bindings_pending) == (2000, 0)
