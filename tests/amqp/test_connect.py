"""From a host name to an open connection, and giving up on the way."""

from __future__ import annotations

import asyncio

import pytest

from channels_rabbitmq.amqp.connect import connect
from channels_rabbitmq.errors import (
    ConnectionClosed,
)
from tests.helpers.scripted import (
    ScriptedServer,
    connected,
    fail_to_connect,
    never,
    serve,
    settled,
    unconnected,
)
from tests.helpers.waiting import until


async def test_nobody_there() -> None:
    """A port where nobody listens is an OSError."""

    async def script(peer: ScriptedServer) -> None:
        pass

    async with serve(script) as port:
        pass
    assert isinstance(await fail_to_connect(port), ConnectionRefusedError)


async def test_host_that_cannot_be_resolved() -> None:
    """A host name that does not exist is an OSError."""
    assert isinstance(await fail_to_connect(1, host="no-such-host.invalid"), OSError)


async def test_host_name() -> None:
    """A host name is resolved when no address is given."""

    async def script(peer: ScriptedServer) -> None:
        await peer.handshake()
        await peer.accept_close()

    async with serve(script) as port:
        connection = unconnected(port, host="localhost")
        await connect(connection.protocol, "127.0.0.1")
        async with connection as entered:
            assert entered is connection
        assert connection.protocol.closed.done()


async def test_before_connecting() -> None:
    """A connection that was not made yet cannot be used, and says so."""
    connection = unconnected(1)

    assert repr(connection.protocol) == "<Protocol 127.0.0.1:1/%2F connecting, 0 channels>"
    assert connection.protocol.endpoint.port == 1
    with pytest.raises(ConnectionClosed, match="the connection is closed"):
        await connection.publish(b"x")
    with pytest.raises(ConnectionClosed, match="closed before it was open"):
        await connection.close()


async def test_close_while_connecting() -> None:
    """Closing during the handshake ends it: ``connect()`` fails and nothing stays open."""
    reached = asyncio.Event()
    gone = asyncio.Event()

    async def script(peer: ScriptedServer) -> None:
        await peer.start()
        reached.set()
        await peer.wait_eof()
        gone.set()

    async with serve(script) as port:
        connection = unconnected(port)
        connecting = asyncio.create_task(connection.connect())
        await reached.wait()
        with pytest.raises(ConnectionClosed, match="closed before it was open"):
            await connection.close()
        with pytest.raises(ConnectionClosed, match="closed before it was open"):
            await connecting
        await asyncio.wait_for(gone.wait(), 10)


async def test_close_before_the_socket_is_there() -> None:
    """Closing while the socket is being connected ends that too."""
    greeted: list[bytes] = []

    async def script(peer: ScriptedServer) -> None:
        greeted.append(await peer.wait_eof())

    async with serve(script) as port:
        connection = unconnected(port)
        connecting = asyncio.create_task(connection.connect())
        while not connection.protocol.started:
            await asyncio.sleep(0)
        with pytest.raises(ConnectionClosed, match="closed before it was open"):
            await connection.close()
        with pytest.raises(ConnectionClosed, match="closed before it was open"):
            await connecting
        await until(lambda: greeted)
        assert greeted == [b""]


async def test_failed_connection_can_be_closed() -> None:
    """``close()`` after a ``connect()`` that failed does not wait for ever."""
    async with serve(never) as port:
        pass
    connection = unconnected(port)
    with pytest.raises(ConnectionRefusedError):
        await connection.connect()
    connection.protocol.abort()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.wait_for(connection.close(), 10)


async def test_connect_can_be_cancelled() -> None:
    """A ``connect()`` that is cancelled leaves no socket behind."""
    gone = asyncio.Event()

    async def script(peer: ScriptedServer) -> None:
        await peer.wait_eof()
        gone.set()

    async with serve(script) as port:
        connection = unconnected(port)
        connecting = asyncio.create_task(connection.connect())
        await until(lambda: connection.protocol.connected)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await asyncio.wait_for(gone.wait(), 10)
        with pytest.raises(ConnectionClosed, match="connecting was given up"):
            await connection.close()


async def test_cut() -> None:
    """A connection can be cut from another thread, and both sides notice."""
    gone = asyncio.Event()

    async def script(peer: ScriptedServer) -> None:
        await peer.wait_eof()
        gone.set()

    async with connected(script) as connection:
        await asyncio.to_thread(connection.protocol.cut)
        assert isinstance(await settled(connection.closed), ConnectionError)
        await asyncio.wait_for(gone.wait(), 10)
        connection.protocol.cut()
    unconnected(1).protocol.cut()
