"""Publishing from plain code: each call returns once RabbitMQ has confirmed, or raises.

The connection lives on an event loop in a daemon thread, is made at the first use, in each process
anew, and closed at the end of the process.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import random
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

from ..amqp.connect import connect, resolve
from ..amqp.endpoint import Endpoint
from ..amqp.protocol import Protocol
from ..connection import Connection
from ..errors import (
    AmqpError,
    ChannelClosedByServer,
    ConnectionClosed,
    NotConnected,
    ServerSentNack,
    describe,
)
from ..layer.loop_thread import LoopThread
from ..layer.process_hooks import EXIT_TIMEOUT, follow_process
from .cloud_events import EncodedEvent

__all__ = ["BlockingPublisher"]

#: How long an answer of RabbitMQ counts as proof that it is well, in seconds.
_FRESH = 1.0
#: How long after a failure to connect the next attempt fails at once, in seconds: a batch of events
#: is not to wait for the same silence once for each.
_HOLD_OFF = 1.0
#: How often a publish that waits looks for an alarm, in seconds.
_LOOK_INTERVAL = 0.1
#: How long the thread may take beyond a call's own time-out, in seconds, before it is given up.
_THREAD_MARGIN = 5.0
#: How long the closing handshake may take, in seconds.
_CLOSE_TIMEOUT = 1.0

#: The task of each connection, which closes it. An event loop keeps no task from being collected.
_tasks: set[asyncio.Task[None]] = set()
#: What a forked child has from its parent. Kept, so that no destructor touches the parent's
#: socket, loop or selector.
_inherited: list[object] = []


class BlockingPublisher:
    """Publishes to one RabbitMQ, from any thread. Making one does no I/O.

    ``prepare`` declares what is published to, on each new connection, and after RabbitMQ refused a
    message. The text of ``name`` is the connection's.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        prepare: Callable[[Connection], Awaitable[None]],
        name: object,
    ) -> None:
        self._endpoints = endpoints
        self._prepare = prepare
        self._name = name
        #: Held while the thread is started or stopped.
        self._lock = threading.Lock()
        self._running = _Running()
        follow_process(self)
        weakref.finalize(self, self._running.stop).atexit = False

    def publish(
        self, exchange: str, routing_key: str, event: EncodedEvent, *, timeout: float
    ) -> None:
        """Publish a mandatory message; return once it is confirmed, within ``timeout`` seconds.

        Raises :class:`~channels_rabbitmq.errors.NotConnected` if RabbitMQ is away, takes no
        messages, or did not answer in time, :class:`.ServerSentNack` if a queue did not store it,
        :class:`.MessageReturned` if there was no queue for it, and :class:`.ChannelClosedByServer`
        if RabbitMQ refused it or what it is published to. Whether a message arrived that was not
        confirmed is not known.
        """
        self._run(lambda link: link.publish(exchange, routing_key, event, timeout), timeout)

    def check(self, *, timeout: float) -> None:
        """Raise what :meth:`publish` raises unless RabbitMQ answers, or just did."""
        link = self._running.link
        if link is None or not link.is_fresh():
            self._run(lambda link: link.check(timeout), timeout)

    def close(self) -> None:
        """Close the connection. The next call makes another."""
        with self._lock:
            self._running.stop(EXIT_TIMEOUT)

    def exit(self, timeout: float = 0.0) -> None:
        """Close the connection as the interpreter exits; a lock may be held for ever by then."""
        self._running.stop(timeout)

    def forked(self) -> None:
        """Start anew in a forked child, and touch nothing of the parent's."""
        self._lock = threading.Lock()
        self._running.disown()

    def _run(
        self, operation: Callable[[_Link], Coroutine[object, object, None]], timeout: float
    ) -> None:
        thread, link = self._start()
        call = operation(link)
        try:
            future = asyncio.run_coroutine_threadsafe(call, thread.loop)
        except RuntimeError:  # closed meanwhile, by another thread
            call.close()
            raise ConnectionClosed("the connection is closed") from None
        try:
            future.result(timeout + _THREAD_MARGIN)
        except concurrent.futures.CancelledError:
            raise ConnectionClosed("the connection is closed") from None
        except TimeoutError:
            raise NotConnected("the thread of the connection does not answer", sent=True) from None
        finally:
            future.cancel()

    def _start(self) -> tuple[LoopThread, _Link]:
        with self._lock:
            running = self._running
            if running.thread is None or running.link is None or running.thread.loop.is_closed():
                thread = LoopThread("channels_rabbitmq outbox")
                running.link = thread.run(
                    lambda: _Link(thread.loop, self._endpoints, self._prepare, self._name)
                )
                running.thread = thread
            return running.thread, running.link


class _Running:
    """What a publisher has while it is in use; apart from it, so that it can be collected."""

    def __init__(self) -> None:
        self.thread: LoopThread | None = None
        self.link: _Link | None = None

    def stop(self, timeout: float = 0.0) -> None:
        """Leave RabbitMQ, and wait for that at most ``timeout`` seconds. May be called again."""
        thread = self.thread
        if thread is not None:
            thread.stop(timeout)
        if timeout:
            self.thread = self.link = None

    def disown(self) -> None:
        """In a forked child: leave all of it to the parent."""
        _inherited.append((self.thread, self.link))
        if self.link is not None:
            self.link.disown()
        self.thread = self.link = None


class _Call:
    """One publish or check, as far as its time-out is about the connection."""

    __slots__ = ("asked", "is_check", "sent")

    def __init__(self, *, is_check: bool = False) -> None:
        self.is_check = is_check
        #: The connection on which it waits for an answer; not one that another call still makes.
        self.asked: Connection | None = None
        #: Whether its message was given to RabbitMQ.
        self.sent = False


class _Link:
    """The connection, on the thread's loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoints: Sequence[Endpoint],
        prepare: Callable[[Connection], Awaitable[None]],
        name: object,
    ) -> None:
        self._loop = loop
        self._endpoints = endpoints
        self._prepare = prepare
        self._name = name
        #: Held while a connection is made or prepared.
        self._opening = asyncio.Lock()
        #: The connection that is made or used, or was last.
        self._connection: Connection | None = None
        #: The connection on which all is declared; None if that is to be done again.
        self._prepared: Connection | None = None
        #: How many publishes are under way.
        self._publishes = 0
        #: When RabbitMQ last answered, by the loop's clock.
        self._answered = -_FRESH
        #: Until when calls, and until when checks, fail at once, and with what.
        self._held_off = 0.0
        self._checks_held_off = 0.0
        self._failure = ""
        # Its cancellation, as the thread stops, closes the connection.
        task = loop.create_task(self._close_in_the_end())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    async def publish(
        self, exchange: str, routing_key: str, event: EncodedEvent, timeout: float
    ) -> None:
        call = _Call()
        self._publishes += 1
        try:
            async with self._limited(call, timeout):
                await self._publish(call, exchange, routing_key, event)
        finally:
            self._publishes -= 1

    async def check(self, timeout: float) -> None:
        call = _Call(is_check=True)
        async with self._limited(call, timeout):
            connection = await self._open(call)
            if not self.is_fresh():
                # Every virtual host has this exchange, and asking for it needs no permission.
                await connection.exchange_declare("amq.direct", passive=True)
                self._answered = self._loop.time()

    @contextlib.asynccontextmanager
    async def _limited(self, call: _Call, timeout: float) -> AsyncIterator[None]:
        """Limit a call's time; a connection that has answered it nothing for as long is given up.

        A check, whose time may be shorter, leaves the connection to publishes that still wait.
        """
        try:
            async with asyncio.timeout(timeout):
                yield
        except TimeoutError:
            if call.asked is not None and not (call.is_check and self._publishes):
                call.asked.protocol.abort()
            raise NotConnected(
                f"RabbitMQ did not answer within {timeout:g} s", sent=call.sent
            ) from None

    async def _publish(
        self, call: _Call, exchange: str, routing_key: str, event: EncodedEvent
    ) -> None:
        connection = await self._open(call)
        call.sent = True
        confirm = connection.publish(
            event.body,
            exchange_name=exchange,
            routing_key=routing_key,
            mandatory=True,
            **event.properties,
        )
        try:
            while not (await asyncio.wait({confirm}, timeout=_LOOK_INTERVAL))[0]:
                # RabbitMQ tells of an alarm in answer to the first message.
                _require_unblocked(connection, sent=True)
            confirm.result()
        except ServerSentNack:
            self._answered = self._loop.time()
            raise
        except ChannelClosedByServer:
            self._prepared = None  # somebody may have deleted it
            raise
        finally:
            confirm.cancel()
        self._answered = self._loop.time()

    def is_fresh(self) -> bool:
        """Whether RabbitMQ answered just now, and takes messages. On any thread."""
        connection = self._connection
        return (
            connection is not None
            and connection is self._prepared
            and connection.protocol.open
            and connection.protocol.blocked is None
            and self._loop.time() - self._answered < _FRESH
        )

    def disown(self) -> None:
        if self._connection is not None:
            self._connection.protocol.disown()

    async def _open(self, call: _Call) -> Connection:
        async with self._opening:
            connection = self._connection
            if connection is None or not connection.protocol.open:
                connection = await self._connect(call)
            call.asked = connection
            if connection is not self._prepared:
                await self._prepare(connection)
                self._prepared = connection
                self._answered = self._loop.time()
        _require_unblocked(connection, sent=False)
        return connection

    async def _connect(self, call: _Call) -> Connection:
        held_off = self._checks_held_off if call.is_check else self._held_off
        if self._loop.time() < held_off:
            raise NotConnected(self._failure)
        failures: list[str] = []
        try:
            for endpoint in random.sample(self._endpoints, len(self._endpoints)):
                connection = await self._connect_to(endpoint, failures)
                if connection is not None:
                    return connection
        except asyncio.CancelledError:  # out of time
            self._hold_off([*failures, "no answer in time"], checks_only=call.is_check)
            raise
        self._hold_off(failures)
        raise NotConnected(self._failure)

    async def _connect_to(self, endpoint: Endpoint, failures: list[str]) -> Connection | None:
        """Try each address of an endpoint; None if none will do."""
        try:
            async with asyncio.timeout(endpoint.connect_timeout):
                addresses = await resolve(endpoint.host, endpoint.port)
        except OSError as err:
            failures.append(f"{endpoint}: {describe(err)}")
            return None
        for address in random.sample(addresses, len(addresses)):
            protocol = Protocol(endpoint, self._loop, name=str(self._name))
            self._connection = connection = Connection(protocol, None)
            try:
                await connect(protocol, address)
            except (OSError, AmqpError) as err:
                failures.append(f"{endpoint}: {describe(err)}")
            else:
                return connection
        return None

    def _hold_off(self, failures: list[str], *, checks_only: bool = False) -> None:
        """Have calls fail at once; what a check had too little time for, a publish may do."""
        self._failure = f"Cannot connect to RabbitMQ. {'; '.join(failures)}"
        self._checks_held_off = self._loop.time() + _HOLD_OFF
        if not checks_only:
            self._held_off = self._checks_held_off

    async def _close_in_the_end(self) -> None:
        try:
            await self._loop.create_future()
        finally:
            if self._connection is not None:
                protocol = self._connection.protocol
                protocol.close()
                await asyncio.wait({protocol.closed}, timeout=_CLOSE_TIMEOUT)
                protocol.abort()


def _require_unblocked(connection: Connection, *, sent: bool) -> None:
    blocked = connection.protocol.blocked
    if blocked is not None:
        raise NotConnected(f"RabbitMQ takes no messages: {blocked}", sent=sent)
