"""Bodies of every size that matters to frames, over the engine's connection to a real broker."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from channels_rabbitmq.amqp.frames import FRAME_OVERHEAD
from channels_rabbitmq.connection import Connection
from devtools.broker import Broker
from tests.helpers.connections import connection_to

FRAME_MAX = 131072


async def echo(connection: Connection, *bodies: bytes) -> None:
    """Send messages through a queue and get them back, in order, with 100 bytes after them."""
    await connection.queue_declare("q")
    sent = [*bodies, b"x" * 100]
    async with connection.acking_consumer("q", prefetch_count=0) as consumer:
        futures = [connection.publish(body, routing_key="q") for body in sent]
        for number, body in enumerate(sent, 1):
            received, tag = await asyncio.wait_for(consumer.next_delivery(), 30)
            assert tag == number
            assert len(received) == len(body)
            assert received == body
            consumer.ack(tag)
        await asyncio.gather(*futures)


@pytest.mark.parametrize(
    "over",
    [-FRAME_OVERHEAD - 1, -FRAME_OVERHEAD, -FRAME_OVERHEAD + 1, -1, 0, 1, FRAME_MAX - 16],
)
async def test_around_frame_max(amqp_url: str, over: int) -> None:
    """Bodies at the edges of the frame size arrive as they were sent."""
    async with connection_to(amqp_url) as connection:
        assert connection.protocol.frame_max == FRAME_MAX
        await echo(connection, os.urandom(FRAME_MAX + over))


@pytest.mark.parametrize("over", [-9, -8, -7, 0, 1])
async def test_around_a_small_frame_max(amqp_url: str, over: int) -> None:
    """The same holds for the least frame size that can be agreed on."""
    async with connection_to(f"{amqp_url}?frame_max=8192") as connection:
        assert connection.protocol.frame_max == 8192
        await echo(connection, os.urandom(8192 + over))


async def test_empty_body(amqp_url: str) -> None:
    """Empty messages arrive, one by one and many at a time."""
    async with connection_to(amqp_url) as connection:
        await echo(connection, b"", b"x", *[b""] * 100)


@pytest.mark.parametrize("size", [5_000_000, 16 * 1024 * 1024])
async def test_large(amqp_url: str, size: int) -> None:
    """Messages of five megabytes, and of all that RabbitMQ 4 takes, arrive whole."""
    async with connection_to(amqp_url) as connection:
        await echo(connection, os.urandom(size))


async def test_large_over_tls(broker: Broker, tls_url: str, certs: Path) -> None:
    """A large message arrives whole over TLS as well."""
    async with connection_to(f"{tls_url}?cacertfile={certs / 'ca.cert'}") as connection:
        await echo(connection, os.urandom(5_000_000))


async def test_large_does_not_hold_up_heartbeats(amqp_url: str) -> None:
    """Many large messages at once arrive, with small ones between, and the connection lives."""
    async with connection_to(f"{amqp_url}?heartbeat=1") as connection:
        large = os.urandom(5_000_000)
        await echo(connection, large, b"small", large, b"", large)
