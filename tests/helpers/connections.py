"""Connections of the engine to a real broker, used from their own event loop or from another."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import AsyncIterator, Iterator

from channels_rabbitmq.amqp.connect import connect
from channels_rabbitmq.amqp.endpoint import Endpoint
from channels_rabbitmq.amqp.protocol import Protocol
from channels_rabbitmq.config.options import Options
from channels_rabbitmq.connection import Connection
from channels_rabbitmq.layer.portal import Portal

#: Where a connection lives, seen from the test that uses it.
LOOPS = ["own loop", "other loop"]


def connection_to(
    url: str, config: dict[str, object] | None = None, **changes: object
) -> Connection:
    """A connection, not connected yet, to where a layer with this URL and CONFIG would connect.

    ``changes`` are to the endpoint.
    """
    (endpoint,) = Options.from_config({"host": url} | (config or {})).endpoints
    return to_endpoint(dataclasses.replace(endpoint, **changes))  # type: ignore[arg-type]


def to_endpoint(endpoint: Endpoint) -> Connection:
    """A connection, not connected yet, to an endpoint."""
    return Connection(Protocol(endpoint, asyncio.get_running_loop()), None)


def to_same(connection: Connection) -> Connection:
    """Another connection to the same virtual host, on the loop that is running."""
    return to_endpoint(connection.protocol.endpoint)


@contextlib.asynccontextmanager
async def open_connection(url: str, loop: str) -> AsyncIterator[Connection]:
    """An open connection that lives on one of :data:`LOOPS`."""
    if loop == "own loop":
        async with connection_to(url) as connection:
            yield connection
        return
    endpoint = connection_to(url).protocol.endpoint
    with loop_in_thread() as other:

        async def make() -> Protocol:
            protocol = Protocol(endpoint, other)
            await connect(protocol)
            return protocol

        making = asyncio.run_coroutine_threadsafe(make(), other)
        protocol = await asyncio.wrap_future(making)
        async with Connection(protocol, Portal(other, lambda: None)) as connection:
            yield connection


@contextlib.contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="other loop")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
