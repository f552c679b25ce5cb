"""Point 10: publishing jobs, and all else that a connection does, from plain code and threads."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import async_to_sync

from channels_rabbitmq.connection import Connection
from channels_rabbitmq.errors import ChannelClosedByServer, ConnectionClosed, MessageReturned
from tests.anywhere.scripts.prelude import layer, owner_threads, sockets


async def publish_job(number: int) -> None:
    connection = await layer.current_connection
    assert isinstance(connection, Connection)
    await connection.publish(b"job %d" % number, routing_key="anywhere-jobs", delivery_mode=2)


async def consume(count: int) -> list[bytes]:
    connection = await layer.carehare_connection
    got: list[bytes] = []
    async with connection.acking_consumer("anywhere-jobs", prefetch_count=3) as consumer:
        async for body in consumer:
            got.append(body)
            if len(got) == count:
                consumer.close()
    return got


async def by_tags(count: int) -> None:
    connection = await layer.current_connection
    async with connection.acking_consumer("anywhere-jobs") as consumer:
        for _ in range(count):
            _, tag = await consumer.next_delivery()
            consumer.ack(tag)
        consumer.close()
        await consumer.closed


async def declare() -> None:
    connection = await layer.current_connection
    await connection.queue_declare("anywhere-jobs", arguments={"x-expires": 60_000})
    await connection.exchange_declare("anywhere-exchange", auto_delete=True)
    await connection.queue_bind("anywhere-jobs", "anywhere-exchange", routing_key="k")
    await connection.publish(b"bound", exchange_name="anywhere-exchange", routing_key="k")
    await connection.queue_unbind("anywhere-jobs", "anywhere-exchange", routing_key="k")


async def errors() -> None:
    connection = await layer.current_connection
    with pytest.raises(MessageReturned):
        await connection.publish(b"", routing_key="no-such-queue", mandatory=True)
    with pytest.raises(ChannelClosedByServer, match="404"):
        await connection.queue_declare("no-such-queue", passive=True)
    with pytest.raises(TypeError):
        await connection.publish("text", routing_key="anywhere-jobs")


async def close_it() -> None:
    connection = await layer.current_connection
    await connection.close()
    await connection.closed
    with pytest.raises(ConnectionClosed):
        await connection.publish(b"late", routing_key="anywhere-jobs")
    await publish_job(4)  # on the next one


async def scenario() -> None:
    await declare()
    assert await consume(1) == [b"bound"]
    await asyncio.gather(*(publish_job(number) for number in range(3)))
    assert sorted(await consume(3)) == [b"job 0", b"job 1", b"job 2"]
    await asyncio.gather(*(publish_job(number) for number in range(3)))
    await by_tags(3)
    await errors()
    await close_it()
    assert await consume(1) == [b"job 4"]


async_to_sync(declare)()
assert async_to_sync(consume)(1) == [b"bound"]
for number in range(3):
    async_to_sync(publish_job)(number)
threads = [
    threading.Thread(target=async_to_sync(publish_job), args=(number,)) for number in range(3, 6)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert sorted(async_to_sync(consume)(6)) == [b"job %d" % number for number in range(6)]
assert sockets() == 1
assert owner_threads() == 1
async_to_sync(scenario)()
asyncio.run(scenario())
