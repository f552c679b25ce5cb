"""Streams, read by the consumer of users from wherever it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from channels_rabbitmq.connection import Connection
from channels_rabbitmq.errors import PreconditionFailed
from tests.helpers.connections import LOOPS, open_connection

#: More than one signed byte holds: AMQP's tables have integers of several sizes.
COUNT = 300
DAY = timedelta(days=1)


@pytest.fixture(params=LOOPS)
async def connection(amqp_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A connection to a virtual host with a stream "s" of the numbers below COUNT."""
    async with open_connection(amqp_url, request.param) as opened:
        await opened.queue_declare("s", durable=True, arguments={"x-queue-type": "stream"})
        await publish(opened, range(COUNT))
        yield opened


async def publish(connection: Connection, numbers: range) -> None:
    """Publish to the stream, and wait until it has all."""
    await asyncio.gather(*(connection.publish(b"%d" % n, routing_key="s") for n in numbers))


async def read(connection: Connection, count: int, offset: object = None) -> list[int]:
    """So many messages, from an offset on."""
    arguments = None if offset is None else {"x-stream-offset": offset}
    async with connection.acking_consumer("s", prefetch_count=50, arguments=arguments) as consumer:  # type: ignore[arg-type]
        found = []
        for _ in range(count):
            body, tag = await asyncio.wait_for(consumer.next_delivery(), 20)
            consumer.ack(tag)
            found.append(int(body))
        return found


@pytest.mark.parametrize("offset", [0, 1, 100, 200, "first", "1h", "last"])
async def test_from_an_offset(connection: Connection, offset: int | str) -> None:
    """A stream is read from the message that the offset names, as often as one likes."""
    if offset == "last":  # begins with the last chunk, of however many messages
        assert (await read(connection, 1, offset))[0] in range(COUNT)
        return
    expected = list(range(offset if isinstance(offset, int) else 0, COUNT))
    assert await read(connection, len(expected), offset) == expected
    assert await read(connection, len(expected), offset) == expected


async def test_from_a_time(connection: Connection) -> None:
    """A time in the past is where reading begins; one to come is the next message."""
    assert await read(connection, COUNT, datetime.now(UTC) - DAY) == list(range(COUNT))
    reading = asyncio.ensure_future(read(connection, 1, datetime.now(UTC) + DAY))
    assert await first_after(connection, reading) >= COUNT


@pytest.mark.parametrize("offset", [None, "next"])
async def test_what_comes_next(connection: Connection, offset: str | None) -> None:
    """Without an offset, or from "next" on, only what is published from now on is read."""
    reading = asyncio.ensure_future(read(connection, 1, offset))
    assert await first_after(connection, reading) >= COUNT


async def first_after(connection: Connection, reading: asyncio.Future[list[int]]) -> int:
    """The first number that is read, while more and more are published."""
    published = COUNT
    while not reading.done():
        await publish(connection, range(published, published + 1))
        published += 1
        await asyncio.wait({reading}, timeout=0.01)
    (found,) = await reading
    return found


async def test_two_read_the_same(connection: Connection) -> None:
    """Each reader of a stream gets all of it, also past its prefetch count."""
    both = await asyncio.gather(*(read(connection, COUNT, "first") for _ in range(2)))
    assert both == [list(range(COUNT))] * 2


@pytest.mark.parametrize(
    ("offset", "error"),
    [
        *[(wrong, ValueError) for wrong in ("tomorrow", "1 h", -1, 2**63)],
        *[(wrong, TypeError) for wrong in (True, 1.5, None)],
    ],
)
async def test_a_wrong_offset(
    connection: Connection, offset: object, error: type[Exception]
) -> None:
    """An offset that is none raises at once: some versions of RabbitMQ end connections over it."""
    with pytest.raises(error, match="x-stream-offset must be a number from 0, a datetime, 'first'"):
        connection.acking_consumer("s", arguments={"x-stream-offset": offset})  # type: ignore[dict-item]
    assert await read(connection, 1, 0) == [0]


async def test_no_limit_is_refused(connection: Connection) -> None:
    """A stream without a prefetch count is refused, and nothing else is lost."""
    consumer = connection.acking_consumer("s", prefetch_count=0)
    with pytest.raises(PreconditionFailed, match="prefetch count is not set"):
        await asyncio.wait_for(consumer.next_delivery(), 20)
    assert await read(connection, 1, 0) == [0]


async def test_arguments_that_cannot_be_sent(connection: Connection) -> None:
    """Arguments that AMQP cannot carry, or no frame can hold, raise at once."""
    with pytest.raises(TypeError, match="the consumer has a value that AMQP cannot carry"):
        connection.acking_consumer("s", arguments={"x-priority": object()})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="arguments must be a dict, not of type str"):
        connection.acking_consumer("s", arguments="first")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the consumer must fit into"):
        connection.acking_consumer("s", arguments={"x": "x" * 200_000})
    assert await read(connection, 1, 0) == [0]
