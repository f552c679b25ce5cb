"""The consumer of users, in both its forms, against a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from channels_rabbitmq.connection import Connection
from channels_rabbitmq.errors import ChannelClosed, ChannelClosedByServer, ConnectionClosed
from devtools.broker import Broker
from tests.helpers.connections import LOOPS, connection_to, open_connection, to_same
from tests.helpers.waiting import until


@pytest.fixture(params=LOOPS)
async def connection(amqp_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """An open connection with an empty queue "q", on the test's event loop or on another."""
    async with open_connection(amqp_url, request.param) as opened:
        await opened.queue_declare("q")
        yield opened


async def fill(connection: Connection, *bodies: bytes) -> None:
    """Publish to the queue."""
    await asyncio.gather(*(connection.publish(body, routing_key="q") for body in bodies))


async def left(connection: Connection, count: int) -> list[bytes]:
    """The messages that another consumer gets, sorted; there must be exactly so many.

    RabbitMQ may deliver what it has before what the consumer that closes gives back.
    """
    async with connection.acking_consumer("q", prefetch_count=0) as consumer:
        bodies = [(await asyncio.wait_for(consumer.next_delivery(), 10))[0] for _ in range(count)]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(consumer.next_delivery(), 0.1)
        return sorted(bodies)


# Iterating


async def test_iterate(connection: Connection) -> None:
    """Each message is acknowledged when the next one is asked for."""
    await fill(connection, b"1", b"2", b"3", b"4")
    got = []
    async with connection.acking_consumer("q") as consumer:
        async for body in consumer:
            got.append(body)
            if body == b"3":
                break

    assert got == [b"1", b"2", b"3"]
    assert await left(connection, 2) == [b"3", b"4"]


async def test_close_in_the_loop(connection: Connection) -> None:
    """``close()`` within the loop ends it, with the message in hand acknowledged."""
    await fill(connection, b"1", b"2", b"3")
    got = []
    async with connection.acking_consumer("q", prefetch_count=3) as consumer:
        async for body in consumer:
            got.append(body)
            if body == b"2":
                consumer.close()

    assert got == [b"1", b"2"]
    assert await left(connection, 1) == [b"3"]


async def test_close_without_a_context(connection: Connection) -> None:
    """The loop works, and ends, without ``async with`` too."""
    await fill(connection, b"1")
    consumer = connection.acking_consumer("q")
    async for _ in consumer:
        consumer.close()
    await asyncio.wait_for(consumer.closed, 10)

    assert await left(connection, 0) == []


async def test_close_again_gives_the_message_back(connection: Connection) -> None:
    """Closed again before the loop goes on, the message in hand goes to another consumer."""
    await fill(connection, b"1")
    consumer = connection.acking_consumer("q")
    async for _ in consumer:
        consumer.close()
        consumer.close()
        break
    await asyncio.wait_for(consumer.closed, 10)

    assert await left(connection, 1) == [b"1"]


async def test_close_from_outside(connection: Connection) -> None:
    """``close()`` from another task ends a loop that waits for a message."""
    consumer = connection.acking_consumer("q")

    async def loop() -> list[bytes]:
        return [body async for body in consumer]

    task = asyncio.create_task(loop())
    await until(lambda: consumer._engine()._waiters)
    consumer.close()
    assert await asyncio.wait_for(task, 10) == []
    await consumer.closed


async def test_exception_leaves_the_message(connection: Connection) -> None:
    """An exception in the loop leaves the message to another consumer, and comes through."""
    await fill(connection, b"1", b"2")

    async def work() -> None:
        async with connection.acking_consumer("q") as consumer:
            async for body in consumer:
                if body == b"2":
                    raise LookupError

    with pytest.raises(LookupError):
        await work()
    assert await left(connection, 1) == [b"2"]


async def test_cancelled_loop(connection: Connection) -> None:
    """A task that is cancelled in the loop leaves the message in hand to another consumer."""
    await fill(connection, b"1", b"2")
    working = asyncio.Event()

    async def work() -> None:
        async with connection.acking_consumer("q") as consumer:
            async for body in consumer:
                if body == b"2":
                    working.set()
                    await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await working.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await left(connection, 1) == [b"2"]


async def test_large_backlog(connection: Connection) -> None:
    """A thousand messages come in order, each once, whatever the prefetch count."""
    bodies = [b"%d" % number for number in range(1000)]
    for prefetch_count in (1, 7, 0):
        await fill(connection, *bodies)
        got = []
        async with connection.acking_consumer("q", prefetch_count=prefetch_count) as consumer:
            async for body in consumer:
                got.append(body)
                if len(got) == len(bodies):
                    consumer.close()
        assert got == bodies
    assert await left(connection, 0) == []


async def test_fair_sharing(connection: Connection) -> None:
    """With a prefetch count of one, a busy consumer leaves the messages to the other."""
    async with connection.acking_consumer("q") as busy, connection.acking_consumer("q") as free:
        await fill(connection, *[b"x"] * 10)
        await busy.next_delivery()
        for _ in range(9):
            _, tag = await asyncio.wait_for(free.next_delivery(), 10)
            free.ack(tag)


# Taking deliveries


async def test_next_delivery_and_ack(connection: Connection) -> None:
    """Deliveries that were acknowledged are gone, in whichever order; others come again."""
    await fill(connection, b"1", b"2", b"3", b"4", b"5")
    async with connection.acking_consumer("q", prefetch_count=5) as consumer:
        taken = [await consumer.next_delivery() for _ in range(5)]
        assert taken == [(b"%d" % number, number) for number in range(1, 6)]
        consumer.ack(4)
        consumer.ack(2)
        await asyncio.sleep(0)
        consumer.ack(1)

    assert await left(connection, 2) == [b"3", b"5"]


async def test_ack_and_close_at_once(connection: Connection) -> None:
    """An ack just before the close, of the consumer or the connection, is not lost."""
    await fill(connection, b"1", b"2", b"3")
    consumer = connection.acking_consumer("q")
    consumer.ack((await consumer.next_delivery())[1])
    consumer.close()
    assert await left(connection, 2) == [b"2", b"3"]

    async with to_same(connection) as other:
        consumer = other.acking_consumer("q")
        consumer.ack((await consumer.next_delivery())[1])
    assert await left(connection, 1) == [b"3"]


async def test_ack_of_what_was_not_delivered(connection: Connection) -> None:
    """An ack that RabbitMQ would close the channel over raises instead."""
    await fill(connection, b"1", b"2")
    async with connection.acking_consumer("q") as consumer:
        with pytest.raises(ValueError, match="no unacknowledged delivery 1"):
            consumer.ack(1)
        _, tag = await consumer.next_delivery()
        consumer.ack(tag)
        for wrong in (tag, 0, 10**12):
            with pytest.raises(ValueError, match=f"no unacknowledged delivery {wrong}"):
                consumer.ack(wrong)
        assert await consumer.next_delivery() == (b"2", 2)


async def test_ack_after_the_end(connection: Connection) -> None:
    """An ack on a closed consumer does nothing, whatever its tag."""
    await fill(connection, b"1")
    consumer = connection.acking_consumer("q")
    _, tag = await consumer.next_delivery()
    consumer.close()
    consumer.close()
    consumer.ack(tag)
    consumer.ack(tag)
    with pytest.raises(ChannelClosed):
        await consumer.next_delivery()
    await connection.publish(b"2", routing_key="q")
    assert sorted(await left(connection, 2)) == [b"1", b"2"]


async def test_waiting_tasks_take_turns(connection: Connection) -> None:
    """Of several tasks that wait, each message goes to one, first come first served."""
    async with connection.acking_consumer("q", prefetch_count=10) as consumer:
        tasks = [asyncio.create_task(consumer.next_delivery()) for _ in range(3)]
        await until(lambda: len(consumer._engine()._waiters) == 3)
        await fill(connection, b"1", b"2", b"3")
        assert [body for body, _ in await asyncio.gather(*tasks)] == [b"1", b"2", b"3"]


async def test_cancelled_wait_loses_nothing(connection: Connection) -> None:
    """A wait that is cancelled, even as the message comes, leaves the message to the next."""
    async with connection.acking_consumer("q", prefetch_count=10) as consumer:
        first, second = (asyncio.create_task(consumer.next_delivery()) for _ in range(2))
        await until(lambda: len(consumer._engine()._waiters) == 2)
        consumer._engine()._handle_delivery(
            consumer._engine()._channel, 1, False, b"1"
        )  # as the engine does when a message comes
        first.cancel()
        assert (await asyncio.wait_for(second, 10))[0] == b"1"
        assert first.cancelled()

        first, second = (asyncio.create_task(consumer.next_delivery()) for _ in range(2))
        await until(lambda: len(consumer._engine()._waiters) == 2)
        first.cancel()
        consumer._engine()._handle_delivery(consumer._engine()._channel, 2, False, b"2")
        assert (await asyncio.wait_for(second, 10))[0] == b"2"


async def test_cancelled_wait_on_another_loop_loses_nothing(amqp_url: str) -> None:
    """A message that crosses the cancellation of its wait, between two loops, goes to the next."""
    async with open_connection(amqp_url, "other loop") as connection:
        await connection.queue_declare("q")
        async with connection.acking_consumer("q", prefetch_count=1) as consumer:
            waiting = asyncio.create_task(consumer.next_delivery())
            await until(lambda: consumer._engine()._waiters)
            publishing = connection.publish(b"1", routing_key="q")
            await asyncio.sleep(0)
            # This loop stands still until the message is on its way back to it.
            while consumer._engine()._waiters:
                time.sleep(0.01)  # noqa: ASYNC251
            waiting.cancel()
            await publishing
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await asyncio.wait_for(consumer.next_delivery(), 10))[0] == b"1"


async def test_cancelled_wait_as_the_consumer_closes(connection: Connection) -> None:
    """A wait that is cancelled just as the consumer closes is cancelled."""
    consumer = connection.acking_consumer("q")
    waiting = asyncio.create_task(consumer.next_delivery())
    await until(lambda: consumer._engine()._waiters)
    consumer.close()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_closing_consumer_gives_no_more(connection: Connection) -> None:
    """Once told to close, a consumer gives no more, though it still holds a message."""
    await fill(connection, b"1", b"2")
    consumer = connection.acking_consumer("q", prefetch_count=2)
    assert await consumer.__anext__() == b"1"
    await until(lambda: consumer._engine()._deliveries)
    consumer.close()
    with pytest.raises(ChannelClosed, match="the consumer is closed"):
        await consumer.next_delivery()
    with pytest.raises(StopAsyncIteration):
        await consumer.__anext__()
    assert await left(connection, 1) == [b"2"]


async def test_polling_costs_no_memory(connection: Connection) -> None:
    """Waiting with a time-out again and again leaves nothing behind."""
    async with connection.acking_consumer("q") as consumer:
        for _ in range(100):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(consumer.next_delivery(), 0)
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(consumer.next_delivery(), 0.01)
        await until(lambda: not consumer._engine()._waiters)


# The end


async def test_missing_queue(connection: Connection) -> None:
    """A queue that does not exist fails the consumer, and nothing else."""
    consumer = connection.acking_consumer("missing")
    with pytest.raises(ChannelClosedByServer, match="404 NOT_FOUND - no queue 'missing'"):
        await asyncio.wait_for(consumer.next_delivery(), 10)
    with pytest.raises(ChannelClosedByServer):
        await consumer.next_delivery()
    with pytest.raises(ChannelClosedByServer):
        await consumer.closed

    async def loop() -> None:
        async with connection.acking_consumer("missing") as other:
            async for _ in other:
                pass

    with pytest.raises(ChannelClosedByServer):
        await loop()
    await connection.publish(b"x", routing_key="q")


async def test_queue_of_another_connection(connection: Connection, amqp_url: str) -> None:
    """An exclusive queue of another connection is refused."""
    async with connection_to(amqp_url) as other:
        await other.queue_declare("mine", exclusive=True)
        with pytest.raises(ChannelClosedByServer, match="405 RESOURCE_LOCKED"):
            await asyncio.wait_for(connection.acking_consumer("mine").next_delivery(), 10)


async def test_deleted_queue(broker: Broker, vhost: str) -> None:
    """When an operator deletes the queue, the consumer ends with an error; the connection lives."""
    async with connection_to(f"{broker.url}/{vhost}") as connection:
        await connection.queue_declare("q")
        consumer = connection.acking_consumer("q")
        waiting = asyncio.ensure_future(consumer.next_delivery())
        await consuming(broker, vhost)
        await asyncio.to_thread(broker.api, "DELETE", f"queues/{vhost}/q")
        with pytest.raises(ChannelClosedByServer, match="the queue of the consumer was deleted"):
            await asyncio.wait_for(waiting, 10)
        await until(lambda: len(connection.protocol._channels) == 1)  # its number is free again
        await connection.queue_declare("q")
        await fill(connection, b"x")
        assert await left(connection, 1) == [b"x"]


async def consuming(broker: Broker, vhost: str) -> None:
    """Wait until the queue has its consumer."""

    def count() -> list[str]:
        return broker.ctl("list_queues", "-p", vhost, "consumers").split()

    while await asyncio.to_thread(count) != ["1"]:
        pass


async def test_closed_connection(amqp_url: str) -> None:
    """When we close the connection, those who wait learn of it."""
    connection = connection_to(amqp_url)
    await connection.connect()
    await connection.queue_declare("q")
    consumer = connection.acking_consumer("q")
    waiting = asyncio.ensure_future(consumer.next_delivery())

    async def loop() -> None:
        async for _ in connection.acking_consumer("q"):
            pass

    looping = asyncio.create_task(loop())
    await asyncio.sleep(0)
    await connection.close()

    for task in (waiting, looping):
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(task, 10)
    with pytest.raises(ConnectionClosed):
        await consumer.closed
    with pytest.raises(ConnectionClosed):
        await consumer.next_delivery()
    consumer.close()


async def test_connection_lost_in_the_loop(amqp_url: str) -> None:
    """When the connection is lost, the loop ends with an error, and so does the context."""
    connection = connection_to(amqp_url)
    await connection.connect()
    await connection.queue_declare("q")
    await connection.publish(b"1", routing_key="q")
    await connection.publish(b"2", routing_key="q")
    got = []

    async def loop() -> None:
        async with connection.acking_consumer("q", prefetch_count=2) as consumer:
            async for body in consumer:
                got.append(body)
                connection.protocol.abort()
                await asyncio.wait({connection.closed}, timeout=10)

    with pytest.raises(ConnectionClosed):
        await loop()
    assert got == [b"1"]


async def test_waiting_for_the_end_can_be_cancelled(connection: Connection) -> None:
    """A task that is cancelled while it awaits ``closed`` harms neither consumer nor others."""
    await fill(connection, b"1")
    consumer = connection.acking_consumer("q")
    closed = consumer.closed
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(closed, 0.01)
    assert closed.cancelled()
    assert not consumer.closed.done()
    assert (await asyncio.wait_for(consumer.next_delivery(), 10))[0] == b"1"
    consumer.close()
    await consumer.closed
    assert consumer.closed.done()
