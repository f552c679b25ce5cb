"""How a connection is used from other loops and threads, at a scripted server."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pamqp.commands
import pytest

from channels_rabbitmq.connection import Connection
from channels_rabbitmq.errors import ConnectionClosed
from channels_rabbitmq.layer.portal import Portal
from tests.helpers.scripted import ScriptedServer, connected
from tests.helpers.waiting import until


async def nothing(server: ScriptedServer) -> None:
    """Do nothing after the handshake."""


def in_thread(work: Callable[[], object]) -> None:
    """Run something in a thread of its own, and raise what it raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as err:
            errors.append(err)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


async def test_other_loop_needs_a_portal() -> None:
    """A connection that was made for one loop says so on another."""

    async def use(connection: Connection) -> None:
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            await connection.publish(b"x")

    async with connected(nothing) as connection:
        await asyncio.to_thread(lambda: asyncio.run(use(connection)))


async def test_loop_that_ended() -> None:
    """When the loop of the connection has ended, so has the connection for all other loops."""

    async def use(connection: Connection) -> None:
        with pytest.raises(ConnectionClosed):
            await connection.publish(b"x")
        with pytest.raises(ConnectionClosed):
            await connection.acking_consumer("q").next_delivery()

    async with connected(nothing) as opened:
        portal = Portal(opened.protocol.loop, lambda: None)
        portal.end()
        connection = Connection(opened.protocol, portal)
        await asyncio.to_thread(lambda: asyncio.run(use(connection)))


async def test_closed_is_asked_by_two_loops() -> None:
    """Two loops that ask ``closed.done()`` again and again start one call each, without noise."""
    started: list[int] = []
    noise: list[object] = []
    both = threading.Barrier(2)

    async def ask(connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: noise.append(context))
        for _ in range(20):
            assert not connection.closed.done()
            await asyncio.sleep(0.005)
        started.append(len(asyncio.all_tasks()) - 1)
        both.wait(10)
        connection.protocol.loop.call_soon_threadsafe(
            connection.protocol.abort, ConnectionResetError()
        )
        await until(lambda: connection.closed.done())

    async with connected(nothing) as opened:
        made = [Connection(opened.protocol, Portal(opened.protocol.loop, lambda: None))]
        await asyncio.gather(
            *(asyncio.to_thread(lambda: asyncio.run(ask(made[0]))) for _ in range(2))
        )
        made.clear()
        gc.collect()
    assert started == [1, 1]
    assert not noise


async def test_publishing_in_vain_lets_others_run() -> None:
    """A program that publishes again and again on a closed connection does not stop the loop."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while turns < 10:
            turns += 1
            await asyncio.sleep(0)

    async def script(server: ScriptedServer) -> None:
        await server.accept_close()

    async with connected(script) as connection:
        await connection.close()
        counting = asyncio.create_task(count())
        for _ in range(50):
            with pytest.raises(ConnectionClosed):
                await connection.publish(b"x")
        assert counting.done()


async def test_cancelled_before_it_failed() -> None:
    """A publish that is cancelled as it fails is cancelled."""
    async with connected(nothing) as connection:
        connection.protocol.abort()
        await asyncio.wait({connection.closed})
        publishing = connection.publish(b"x")
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing


async def test_wrong_arguments_never_cross() -> None:
    """What cannot be sent raises on the calling thread, where no event loop need run."""
    async with connected(nothing) as connection:
        with pytest.raises(TypeError, match="message must be bytes"):
            in_thread(lambda: connection.publish("text"))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="queue_name must have at most 255 bytes"):
            in_thread(lambda: connection.queue_declare("q" * 256))


async def test_operations_need_a_running_loop() -> None:
    """Without an event loop to give a future of, an operation is an error."""
    async with connected(nothing) as connection:
        with pytest.raises(RuntimeError, match="no running event loop"):
            in_thread(lambda: connection.publish(b"x"))


async def test_ack_and_close_from_a_plain_thread() -> None:
    """A thread without an event loop may acknowledge a message and close the consumer."""
    seen: list[object] = []

    async def script(server: ScriptedServer) -> None:
        number = await server.accept_consumer()
        server.deliver(number, 1, b"1")
        seen.append(await server.expect(pamqp.commands.Basic.Ack))
        seen.append(await server.expect(pamqp.commands.Channel.Close))
        server.send(number, pamqp.commands.Channel.CloseOk())

    async with connected(script) as opened:
        portal = Portal(opened.protocol.loop, lambda: None)
        consumer = Connection(opened.protocol, portal).acking_consumer("q")
        body, tag = await asyncio.wait_for(consumer.next_delivery(), 10)

        def work() -> None:
            consumer.ack(tag)
            consumer.close()

        in_thread(work)
        await asyncio.wait_for(consumer.closed, 10)
        assert body == b"1"
        await until(lambda: len(seen) == 2)
