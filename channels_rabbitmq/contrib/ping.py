"""Goes the whole way that a layer goes, once, and says how long each step took or where it ended.

Nothing of it is the layer's own connection: each address gets a connection, a queue and a consumer
that are gone afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import pamqp.commands

from ..amqp.channel import Channel
from ..amqp.connect import Step, connect, resolve
from ..amqp.endpoint import Endpoint
from ..amqp.protocol import Protocol
from ..broker.topology import Topology
from ..config.options import Options
from ..errors import (
    AmqpError,
    ConnectionClosed,
    ConnectionClosedByServer,
    NotConnected,
    describe,
)
from ..local.queue_names import QueueNames
from ..wire.names import group_key

__all__ = ["DECLARE", "GROUP_MESSAGE", "MESSAGE", "Attempt", "Timing", "ping"]

#: The steps after those of :class:`~channels_rabbitmq.amqp.connect.Step`.
DECLARE = "declare"
MESSAGE = "message"
GROUP_MESSAGE = "group message"

#: Seconds for the closing handshake: all is done by then.
_CLOSE_TIMEOUT = 1.0


class Timing(NamedTuple):
    """How long a step took, in seconds."""

    step: str
    seconds: float


@dataclass(frozen=True)
class Attempt:
    """What came of one address of one URL."""

    #: ``host:port/vhost`` of the URL.
    url: str
    #: The IP address; None where the host was not found.
    address: str | None
    #: The steps that were done, in order.
    timings: tuple[Timing, ...]
    #: The step that failed; None if all were done.
    failed: str | None = None
    #: Why, in one line; None if nothing failed.
    error: str | None = None


class _Stopwatch:
    """Times steps, of which each ends as the next begins."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = 0.0
        #: The step that is under way.
        self.step: str | None = None
        self.timings: list[Timing] = []

    def begin(self, step: str) -> None:
        """End the step that is under way, and begin another."""
        self.end()
        self.step, self._began = step, self._clock()

    def end(self) -> None:
        """End the step that is under way, if one is."""
        if self.step is not None:
            self.timings.append(Timing(self.step, self._clock() - self._began))
            self.step = None


async def ping(options: Options) -> AsyncIterator[Attempt]:
    """Try every address of every URL, one after the other, as the layer would with one of them.

    The steps are to resolve the name, to connect, to agree on TLS, to log in, to declare exchange
    and queue and consume that, and to send a message to oneself, by the queue's name and by a
    group's. Connecting ends within the URL's ``connection_timeout``, each later step within
    ``send_timeout``.
    """
    for endpoint in options.endpoints:
        watch = _Stopwatch()
        watch.begin(Step.RESOLVE)
        try:
            async with asyncio.timeout(endpoint.connect_timeout):
                addresses = await resolve(endpoint.host, endpoint.port)
        except OSError as err:
            yield Attempt(str(endpoint), None, (), watch.step, _explain(err, endpoint))
            continue
        watch.end()
        for address in addresses:
            yield await _try(options, endpoint, address, watch.timings)


async def _try(options: Options, endpoint: Endpoint, address: str, so_far: list[Timing]) -> Attempt:
    watch = _Stopwatch()
    watch.timings += so_far
    name = f"{options.connection_name} ping"
    protocol = Protocol(endpoint, asyncio.get_running_loop(), name=name)
    failed = error = None
    try:
        await connect(protocol, address, on_step=watch.begin)
        await _use(protocol, options, watch)
        watch.end()
    except (OSError, AmqpError, NotConnected) as err:
        failed, error = watch.step, _explain(err, endpoint, protocol.blocked)
    finally:
        await _close(protocol)
    return Attempt(str(endpoint), address, tuple(watch.timings), failed, error)


async def _use(protocol: Protocol, options: Options, watch: _Stopwatch) -> None:
    """Do on an open connection what the layer does there."""
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    def take(source: Channel, tag: int, redelivered: bool, body: bytes) -> None:
        source.ack(tag)
        arrived.put_nowait(body)

    def drop(source: Channel, tag: int, size: int) -> None:
        source.ack(tag)

    async def send(exchange: str, key: str) -> None:
        body = secrets.token_bytes(8)
        async with asyncio.timeout(options.send_timeout):
            await topology.publish(exchange, key, body)
            while await arrived.get() != body:
                pass  # somebody else's

    names = QueueNames(options.prefix)
    watch.begin(DECLARE)
    topology = Topology(protocol, options, names, take, drop)
    # As an error on any of its AMQP channels ends it, that is what is told rather than a time-out.
    work = asyncio.ensure_future(_declare_and_send(topology, options, names, watch, send))
    try:
        ends: list[asyncio.Future[None] | asyncio.Future[Exception | None]]
        ends = [work, topology.ended]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        else:
            raise topology.ended.result() or ConnectionClosed("the connection was closed")
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError, AmqpError, NotConnected):
            await work


async def _declare_and_send(
    topology: Topology,
    options: Options,
    names: QueueNames,
    watch: _Stopwatch,
    send: Callable[[str, str], Awaitable[None]],
) -> None:
    async with asyncio.timeout(options.send_timeout):
        await topology.open(())
        await topology.start()
    watch.begin(MESSAGE)
    await send("", names.newest)
    watch.begin(GROUP_MESSAGE)
    exchange = options.groups_exchange
    key = group_key(options.prefix, f"ping.{names.newest}")
    async with asyncio.timeout(options.send_timeout):
        await topology.calls.run(
            pamqp.commands.Queue.Bind(queue=names.newest, exchange=exchange, routing_key=key)
        )
    await send(exchange, key)


async def _close(protocol: Protocol) -> None:
    protocol.close()
    if protocol.connected:
        await asyncio.wait({protocol.closed}, timeout=_CLOSE_TIMEOUT)
        protocol.abort()
        await asyncio.wait({protocol.closed}, timeout=_CLOSE_TIMEOUT)


def _explain(error: Exception, endpoint: Endpoint, blocked: str | None = None) -> str:
    """Say in one line what went wrong, first in plain words where RabbitMQ's need some."""
    if isinstance(error, ConnectionClosedByServer) and error.reply_code == 403:
        return f"wrong user name or password, or not allowed from here. {error}"
    if isinstance(error, ConnectionClosedByServer) and error.reply_code == 530:
        return f"no virtual host {endpoint.virtual_host!r} for this user. {error}"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens on port {endpoint.port}: connection refused"
    if isinstance(error, (TimeoutError, NotConnected)) and blocked is not None:
        return f"RabbitMQ takes no publishes: {blocked}"
    return describe(error)
