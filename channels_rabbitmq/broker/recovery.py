"""Keeps one session with RabbitMQ alive, for ever: connect, declare, bind, consume, again.

An error on any AMQP object of the layer's own ends the connection, and another is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from channels.exceptions import StopConsumer

from ..amqp.channel import OnDelivery
from ..amqp.connect import connect, resolve
from ..amqp.endpoint import Endpoint
from ..amqp.futures import in_time
from ..amqp.protocol import Protocol
from ..amqp.state import StateMachine
from ..config.options import Options
from ..connection import Connection
from ..errors import CONNECTION_ERRORS, AmqpError, ConnectionClosed, LoopEnded, describe
from ..log import RateLimitedWarning
from .topology import Topology

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

#: Seconds before connecting again: about the first, doubled each time, up to about the second.
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
#: A session that lasted for so many seconds was a success: delays begin anew after it.
_SUCCESS = 10.0
#: Seconds for RabbitMQ to answer when the link ends along with its event loop.
_LEAVE_TIMEOUT = 1.0


def delays(uniform: Callable[[float, float], float] = random.uniform) -> Iterator[float]:
    """Seconds to wait before each new attempt: growing, with jitter, never ending.

    The jitter keeps the processes of a site from coming back all at once.
    """
    delay = FIRST_DELAY
    while True:
        yield delay * uniform(0.5, 1.0)
        delay = min(2 * delay, LONGEST_DELAY)


class State(enum.Enum):
    """Where recovery stands."""

    CONNECTING = "connecting"
    READY = "ready"
    CLOSING = "closing"
    CLOSED = "closed"


#: From each state of recovery, the states that may follow.
MOVES = {
    State.CONNECTING: {State.READY, State.CLOSING, State.CLOSED},
    State.READY: {State.CONNECTING, State.CLOSING, State.CLOSED},
    State.CLOSING: {State.CLOSED},
    State.CLOSED: set(),
}


class Recovery:
    """One process's tie to RabbitMQ, on the event loop that made it.

    ``keys()`` gives the routing keys to bind after each connect. :attr:`session` is the live
    session, or None while there is none; :meth:`wait_session` waits for one.
    """

    def __init__(
        self,
        options: Options,
        queue_name: str,
        *,
        on_delivery: OnDelivery,
        keys: Callable[[], Iterable[str]],
        on_end: Callable[[], None],
        on_ready: Callable[[Topology], None] = lambda topology: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._options = options
        self._queue_name = queue_name
        self._on_delivery = on_delivery
        self._keys = keys
        #: Called when the link ends by itself: its task was cancelled along with its loop's.
        self._on_end = on_end
        #: Called when a session may be used, and when it is lost; not when the link ends.
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._lifecycle = StateMachine("recovery", MOVES, State.CONNECTING)
        #: The live session; None unless READY.
        self.topology: Topology | None = None
        #: Done when a session is there, or fails once none will be; made anew when one ends.
        self._topology_made: asyncio.Future[Topology] = self._loop.create_future()
        #: The connection being set up or used.
        self._connection: Connection | None = None
        self._cut = False
        self._warn_failed = RateLimitedWarning(logger)
        self._warn_lost = RateLimitedWarning(logger)
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._end_by_itself)

    def __repr__(self) -> str:
        return f"<Link {self._queue_name} {self._lifecycle.state.value}>"

    @property
    def state(self) -> State:
        """Where the link stands."""
        return self._lifecycle.state

    async def wait_topology(self) -> Topology:
        """Wait for a live session.

        Raises :class:`channels.exceptions.StopConsumer` once closed, and
        :class:`~channels_rabbitmq.errors.LoopEnded` once the link ended by itself.
        """
        while self.topology is None:
            await asyncio.shield(self._topology_made)
        return self.topology

    async def run(self, operation: Callable[[Topology], Awaitable[_T]]) -> _T:
        """Do something on a live topology; again on the next one, if that ended meanwhile.

        What must not happen twice, such as a publish, is no such operation. Raises what
        :meth:`wait_topology` raises, and what the operation raises while its topology lives.
        """
        while True:
            topology = await self.wait_topology()
            try:
                return await operation(topology)
            except AmqpError as err:
                if not (topology.ended.done() or isinstance(err, ConnectionClosed)):
                    raise
            await asyncio.shield(topology.ended)
            await asyncio.sleep(0)  # until _use() has noticed

    async def close(self) -> None:
        """Close the connection and end the link. May be called again, also at the same time."""
        if self._lifecycle.state in (State.CONNECTING, State.READY):
            self._lifecycle.move(State.CLOSING)
            if self.topology is not None:
                self.topology.connection.protocol.close()
                self.topology = None
            else:
                self._task.cancel()
            self._stop_waiters(StopConsumer("the channel layer is closed"))
        await asyncio.wait({self._task})

    def cancel(self) -> None:
        """Start ending, from the link's own loop; nothing happens if it has started before."""
        if self._lifecycle.state in (State.CONNECTING, State.READY):
            self._task.cancel()

    def cut(self) -> None:
        """Cut the socket of a link whose loop runs no more, from any thread.

        A closed loop cannot close its transports, and RabbitMQ must see the connection end.
        Should the loop run again, the link ends there.
        """
        self._cut = True
        if self._connection is not None:
            self._connection.protocol.cut()

    def disown(self) -> None:
        """In a forked child: leave the connection to the parent."""
        if self._connection is not None:
            self._connection.protocol.disown()

    def _stop_waiters(self, error: Exception) -> None:
        if self._topology_made.done():  # with a session that is not to be used any more
            self._topology_made = self._loop.create_future()
        self._topology_made.set_exception(error)
        self._topology_made.exception()  # nobody needs to have waited

    async def _run(self) -> None:
        try:
            await self._keep_connected()
        except GeneratorExit:
            raise  # the loop was closed over this task: nothing can be done on it any more
        except BaseException:
            await self._finish()
            raise
        await self._finish()

    async def _keep_connected(self) -> None:
        retries = delays()
        while True:
            started = self._loop.time()
            try:
                await self._connect_and_use()
            except Exception:
                logger.exception("A bug in channels_rabbitmq; connecting again")
            if self._cut or self._lifecycle.state is State.CLOSING:
                return
            if self._loop.time() - started >= _SUCCESS:
                retries = delays()
            await asyncio.sleep(next(retries))

    async def _finish(self) -> None:
        self.topology = None
        self._end_by_itself()
        await self._close_connection()
        self._lifecycle.move(State.CLOSED)

    def _end_by_itself(self, task: object = None) -> None:
        """Unless it was closed, tell those who count on it; also if the task never began."""
        if self._lifecycle.state in (State.CONNECTING, State.READY):
            self._lifecycle.move(State.CLOSING)
            self._on_end()
            self._stop_waiters(LoopEnded(started=False))

    async def _close_connection(self) -> None:
        """Take leave of RabbitMQ, so that the queue's name is free at once; within a second."""
        connection = self._connection
        if connection is not None and not connection.protocol.closed.done():
            connection.protocol.close()
            await self._wait_closed(connection, _LEAVE_TIMEOUT)
            connection.protocol.abort()
            await self._wait_closed(connection, _LEAVE_TIMEOUT)

    async def _wait_closed(self, connection: Connection, timeout: float) -> None:
        """Wait, also when cancelled again: what ends already must not leave its socket behind."""
        closed = connection.protocol.closed
        due = self._loop.time() + timeout
        while not closed.done() and self._loop.time() < due:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({closed}, timeout=due - self._loop.time())

    async def _connect_and_use(self) -> None:
        """Try every address once, in random order; use the first session that starts."""
        candidates, failures = await self._addresses()
        for endpoint, address in candidates:
            connection = self._connection = Connection(Protocol(endpoint, self._loop), None)
            try:
                await connect(connection.protocol, address)
                topology = Topology(connection, self._options, self._queue_name, self._on_delivery)
                await topology.start(self._keys)
            except CONNECTION_ERRORS as err:
                connection.protocol.abort()
                failures.append(f"{endpoint}: {describe(err)}")
            else:
                await self._use(topology)
                return
        self._warn_failed("Cannot connect to RabbitMQ; will try again. %s", "; ".join(failures))

    async def _use(self, topology: Topology) -> None:
        """Offer the session until it ends, then tear its connection down."""
        if not topology.ended.done():
            self._lifecycle.move(State.READY)
            topology.bind_only(self._keys())  # some came or went while it started
            self.topology = topology
            self._topology_made.set_result(topology)
            logger.info("Connected to RabbitMQ at %s", topology.connection.protocol.endpoint)
            self._on_ready(topology)
        reason = await topology.ended
        self.topology = None
        if self._lifecycle.state is State.READY:
            self._lifecycle.move(State.CONNECTING)
            self._topology_made = self._loop.create_future()
            self._on_lost()
        if self._lifecycle.state is State.CONNECTING and not self._cut:
            if reason is None:
                logger.info("The connection to RabbitMQ was closed; connecting again")
            else:
                self._warn_lost("Lost RabbitMQ; connecting again. %s", describe(reason))
        protocol = topology.connection.protocol
        protocol.close()
        with contextlib.suppress(*CONNECTION_ERRORS):
            await asyncio.shield(protocol.closed)

    async def _addresses(self) -> tuple[list[tuple[Endpoint, str]], list[str]]:
        """Every address of every endpoint, in random order, and what could not be resolved."""
        found = []
        failures = []
        for endpoint in self._options.endpoints:
            try:
                addresses = await in_time(
                    resolve(endpoint.host, endpoint.port), endpoint.connect_timeout
                )
            except (TimeoutError, OSError) as err:
                failures.append(f"{endpoint}: {describe(err)}")
            else:
                found += [(endpoint, address) for address in addresses]
        random.shuffle(found)
        return found, failures
