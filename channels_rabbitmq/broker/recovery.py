"""Connection recovery: connect, start a topology, and do it all again whenever it ends.

An error on any AMQP object of the layer's own ends the connection, and another is made. So there
is one way back to a sound state, whatever went wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar
from typing import Protocol as Interface

from channels.exceptions import StopConsumer

from ..amqp.channel import Channel
from ..amqp.connect import connect, resolve
from ..amqp.endpoint import Endpoint
from ..amqp.futures import Deadlines, retrieve
from ..amqp.log import NamedLogger
from ..amqp.protocol import Protocol
from ..amqp.state import StateMachine
from ..config.options import Options
from ..errors import AmqpError, ConnectionClosed, LoopEnded, describe, is_retryable
from ..events import EventKind
from ..local.counts import Counts
from ..local.pace import Pace
from ..local.queue_names import QueueNames
from ..log import RateLimitedWarning
from .outage import Outage
from .probe import Probe
from .topology import Topology

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

#: Seconds before connecting again: about this, then twice as long each time, up to
#: ``max_reconnect_delay``.
FIRST_DELAY = 0.5
#: Seconds for RabbitMQ to answer when the recovery ends along with its event loop.
_LEAVE_TIMEOUT = 1.0


#: Most seconds that the first publishes of a process wait for all the rest of its first topology,
#: so that what it sends reaches itself too. A reconnection has others waiting for messages.
_FIRST_PATIENCE = 0.5

#: Seconds for which an address that failed comes after the others. A node that hangs accepts TCP
#: connections all the same, and each attempt there takes ``connection_timeout``.
_AVOID = 30.0

#: How many of the calls that waited in vain end in one turn of the loop.
_GIVE_UP_AT_ONCE = 500


class RecoveryState(enum.Enum):
    """Where the recovery of a process's connection stands."""

    #: There is no connection; one is being made, or the next attempt is waited for.
    CONNECTING = "connecting"
    #: Publishes go out on a topology whose queue, consumer and bindings are being made.
    STARTING = "starting"
    #: It is live. A connection that ends leads back to CONNECTING.
    LIVE = "live"
    #: The loop runs no more, and the socket was shut down. Should the loop run again, it ends.
    CUT = "cut"
    #: It ends: it was closed, or its task was cancelled. Nothing connects any more.
    CLOSING = "closing"
    #: The task has ended, and the socket is closed.
    CLOSED = "closed"


#: From each state of a recovery, the states that may follow.
RECOVERY_MOVES: Mapping[RecoveryState, Collection[RecoveryState]] = {
    RecoveryState.CONNECTING: {RecoveryState.STARTING, RecoveryState.CUT, RecoveryState.CLOSING},
    RecoveryState.STARTING: {
        RecoveryState.LIVE,
        RecoveryState.CONNECTING,
        RecoveryState.CUT,
        RecoveryState.CLOSING,
    },
    RecoveryState.LIVE: {RecoveryState.CONNECTING, RecoveryState.CUT, RecoveryState.CLOSING},
    RecoveryState.CUT: {RecoveryState.CLOSING},
    RecoveryState.CLOSING: {RecoveryState.CLOSED},
    RecoveryState.CLOSED: set(),
}


class Listener(Interface):
    """What a recovery tells of the connection; the layer of one event loop implements it."""

    def deliver(self, source: Channel, tag: int, redelivered: bool, body: bytes, /) -> None:
        """Take a message from the process's queue, and acknowledge it on ``source`` in the end."""

    def drop_oversized(self, source: Channel, tag: int, size: int, /) -> None:
        """Acknowledge a message that is larger than ``max_message_size``; its body is gone."""

    def routing_keys(self) -> Iterable[str]:
        """Give the routing keys to bind on each new topology."""

    async def topology_starting(self, topology: Topology, /) -> None:
        """Do what is to be done before anybody gets the topology. An error ends it."""

    def topology_started(self, topology: Topology, /) -> None:
        """Go on with what needs RabbitMQ: there is a live topology."""

    def topology_ended(self) -> None:
        """Wait for the next one. It is not called as the recovery itself ends."""

    def recovery_ended(self) -> None:
        """Give up: the recovery was not closed, but cancelled along with all tasks of its loop."""


def delays(
    longest: float, uniform: Callable[[float, float], float] = random.uniform
) -> Iterator[float]:
    """Seconds to wait before each new attempt: growing, with jitter, never ending.

    The jitter keeps the processes of a site from coming back all at once.
    """
    delay = min(FIRST_DELAY, longest)
    while True:
        yield delay * uniform(0.5, 1.0)
        delay = min(2 * delay, longest)


def preferred(
    addresses: Iterable[tuple[Endpoint, str]],
    failed_at: Mapping[tuple[str, int], float],
    now: float,
    shuffle: Callable[[list[tuple[Endpoint, str]]], object] = random.shuffle,
) -> list[tuple[Endpoint, str]]:
    """Addresses in random order, those that failed a short while ago last, the latest at the end.

    ``failed_at`` says when, by address and port.
    """
    found = list(addresses)
    shuffle(found)

    def failed(candidate: tuple[Endpoint, str]) -> float:
        endpoint, address = candidate
        return max(failed_at.get((address, endpoint.port), 0.0), now - _AVOID)

    return sorted(found, key=failed)


def _finish(waiters: dict[asyncio.Future[None], None], error: Exception | None) -> None:
    """Let those go on who wait; with an error, that is raised there."""
    for waiter in waiters:
        if waiter.done():
            continue  # cancelled, and its callback is yet to come
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


class Recovery:
    """Keeps one topology alive, on the event loop that made it, from the start until closed.

    :attr:`topology` is the live one, or None while there is none; :attr:`publishing` has it as
    soon as publishes go out on it. :meth:`run` does something on one, whenever there is.
    """

    def __init__(
        self,
        options: Options,
        names: QueueNames,
        listener: Listener,
        counts: Counts | None = None,
    ) -> None:
        self._options = options
        self._counts = Counts() if counts is None else counts
        self._names = names
        self._listener = listener
        #: What tells whether the process still hears of its groups; whoever takes deliveries tells
        #: it which of them is the probe.
        self.probe = Probe(
            names.newest, options.remote_capacity + options.local_capacity, options.expiry
        )
        #: How many AMQP channels RabbitMQ rewards in a burst of bindings.
        self._pace = Pace()
        self._loop = asyncio.get_running_loop()
        self._log = NamedLogger(logger, options.connection_name)
        self._state = StateMachine(
            "recovery", RECOVERY_MOVES, RecoveryState.CONNECTING, options.connection_name
        )
        #: The live topology. None in all states but LIVE and, until the loop runs again, CUT.
        self.topology: Topology | None = None
        #: The one that publishes go out on: also one that is STARTING.
        self.publishing: Topology | None = None
        self._outage = Outage(options.send_timeout)
        #: Fails those who wait no longer than the outage's time.
        self._give_up_timer: asyncio.TimerHandle | None = None
        #: A future for each call that waits: to publish, for a live topology in time, and for one
        #: however long. Calls go on in the order in which they came, as messages are to be sent
        #: in it.
        self._publishers: dict[asyncio.Future[None], None] = {}
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._patient_waiters: dict[asyncio.Future[None], None] = {}
        #: For those of ``_waiters`` that a start lets wait which comes to nothing.
        self._deadlines = Deadlines(self._loop, options.send_timeout)
        #: Nothing has been connected yet: there is nothing to catch up on.
        self._first = True
        #: Why there will be no topology any more; None while there may be one.
        self._over: Exception | None = None
        #: The connection that is being made or used, or was last.
        self._protocol: Protocol | None = None
        self._delays = delays(options.max_reconnect_delay)
        #: Seconds from the end of the latest attempt, or connection, to the next attempt.
        self._delay = 0.0
        #: When a connection to an address and port could not be made, or was lost.
        self._failed_at: dict[tuple[str, int], float] = {}
        self._warn_failed = RateLimitedWarning(self._log)
        self._warn_lost = RateLimitedWarning(self._log)
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._task_done)

    def __repr__(self) -> str:
        return f"<Recovery {self._names.newest} {self.state.value}>"

    @property
    def state(self) -> RecoveryState:
        """Where it stands."""
        return self._state.state

    # Waiting for RabbitMQ

    @property
    def waiting(self) -> int:
        """How many calls wait for RabbitMQ."""
        return len(self._publishers) + len(self._waiters) + len(self._patient_waiters)

    async def wait_topology(self, *, patient: bool = False) -> Topology:
        """Wait for a live topology: until an outage has cost ``send_timeout``, or ``patient``-ly.

        Raises :class:`TimeoutError` after that time, and at once for the rest of the outage; also
        if one that is starting takes longer than ``send_timeout``;
        :class:`channels.exceptions.StopConsumer` once closed, and
        :class:`~channels_rabbitmq.errors.LoopEnded` once the recovery ended by itself.
        """
        while self.topology is None:
            if patient:
                await self._wait_in(self._patient_waiters)
            else:
                await self._wait_out_outage(self._waiters)
        return self.topology

    async def wait_publishing(self) -> Topology:
        """Wait for a topology that publishes go out on: as :meth:`wait_topology`, and no longer.

        Its queue, consumer and bindings may not be there yet.
        """
        while self.publishing is None:
            await self._wait_out_outage(self._publishers)
        return self.publishing

    async def _wait_out_outage(self, waiters: dict[asyncio.Future[None], None]) -> None:
        if self._over is None and self._has_given_up():
            # In a turn of its own, or a plain loop of calls would never let RabbitMQ be back.
            await asyncio.sleep(0)
            if self._has_given_up():
                raise TimeoutError
        else:
            await self._wait_in(waiters)

    async def _wait_in(self, waiters: dict[asyncio.Future[None], None]) -> None:
        if self._over is not None:
            raise self._over.with_traceback(None)
        # A future for each: thousands may wait, and each may be cancelled.
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiters[waiter] = None
        waiter.add_done_callback(waiters.pop)
        if waiters is self._waiters:
            self._deadlines.watch(waiter)
        await waiter

    async def run(self, operation: Callable[[Topology], Awaitable[_T]]) -> _T:
        """Do something on a live topology; again on the next one, if that ended meanwhile.

        An operation may so be done twice, and must be one that can be: a publish is not. Raises
        what :meth:`wait_topology` raises, and what the operation raises while its topology lives.
        """
        while True:
            topology = await self.wait_topology()
            try:
                return await operation(topology)
            except AmqpError as err:
                if not (topology.ended.done() or isinstance(err, ConnectionClosed)):
                    raise
            await asyncio.shield(topology.ended)
            while topology is self.publishing:
                await asyncio.sleep(0)  # the task waits for the same, and then withdraws it

    # The end

    async def close(self) -> None:
        """Close the connection, and end. May be called again, also at the same time."""
        if self._goes_on():
            self._state.move(RecoveryState.CLOSING)
            if self.topology is None:
                self._task.cancel()
            else:
                self.topology.protocol.close()
            self.topology = self.publishing = None
            self._fail_waiters(StopConsumer("the channel layer is closed"))
        await asyncio.wait({self._task})

    def cancel(self) -> None:
        """Start ending, on its own loop; nothing happens if it has started before."""
        if self._goes_on():
            self._task.cancel()

    def cut(self) -> None:
        """Shut the socket down, as its loop runs no more. On any thread.

        A loop that stands still closes no socket, and RabbitMQ must see the connection end.
        """
        if self._goes_on() and self.state is not RecoveryState.CUT:
            self._state.move(RecoveryState.CUT)
        if self._protocol is not None:
            self._protocol.cut()

    def disown(self) -> None:
        """In a forked child: leave the connection to the parent."""
        if self._protocol is not None:
            self._protocol.disown()

    def _goes_on(self) -> bool:
        return self.state not in (RecoveryState.CLOSING, RecoveryState.CLOSED)

    def _fail_waiters(self, error: Exception) -> None:
        self._over = error
        self._end_outage()
        self._deadlines.end(error)
        _finish(self._publishers, error)
        _finish(self._waiters, error)
        _finish(self._patient_waiters, error)

    # The outage

    def _has_given_up(self) -> bool:
        return self._outage.is_given_up(self._loop.time())

    def _begin_outage(self) -> None:
        self._counts.disconnect(time.time())
        self._outage.begin(self._loop.time())
        if self._give_up_timer is None and self._outage.due is not None:
            self._give_up_timer = self._loop.call_at(self._outage.due, self._give_up)

    def _give_up(self) -> None:
        """Fail the calls that wait: a part of them in each turn, so that all else goes on."""
        waiters = itertools.chain(self._publishers, self._waiters)
        _finish(dict.fromkeys(itertools.islice(waiters, _GIVE_UP_AT_ONCE)), TimeoutError())
        left = len(self._publishers) + len(self._waiters) - _GIVE_UP_AT_ONCE
        if left > 0 and self._has_given_up():
            # Those that were failed forget themselves before this is called.
            self._loop.call_soon(self._give_up)

    def _end_outage(self) -> None:
        self._outage.end()
        if self._give_up_timer is not None:
            self._give_up_timer.cancel()
            self._give_up_timer = None

    # The end of the task

    def _end_by_itself(self) -> None:
        """Tell the listener and those who wait, unless it was closed."""
        if self._goes_on():
            self._state.move(RecoveryState.CLOSING)
            self._listener.recovery_ended()
            self._fail_waiters(LoopEnded(started=False))

    async def _end(self) -> None:
        self.topology = self.publishing = None
        self._end_by_itself()
        await self._close_connection()

    async def _close_connection(self) -> None:
        """Close the connection as AMQP wants it: that frees the queue's name at once."""
        protocol = self._protocol
        if protocol is not None and not protocol.closed.done():
            protocol.close()
            await self._wait_closed(protocol, _LEAVE_TIMEOUT)
            protocol.abort()
            await self._wait_closed(protocol, _LEAVE_TIMEOUT)

    async def _wait_closed(self, protocol: Protocol, timeout: float) -> None:
        # This task may be cancelled again, as by asyncio.run(): it waits for RabbitMQ all the same.
        due = self._loop.time() + timeout
        while not protocol.closed.done() and self._loop.time() < due:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({protocol.closed}, timeout=due - self._loop.time())

    # The task

    async def _run(self) -> None:
        self._begin_outage()
        try:
            await self._keep_connected()
        except GeneratorExit:
            raise  # the loop was closed over this task: nothing can be done on it any more
        except BaseException:
            await self._end()
            raise
        await self._end()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._end_by_itself()  # also if the task was cancelled before it began
        self._state.move(RecoveryState.CLOSED)

    async def _keep_connected(self) -> None:
        while self.state is RecoveryState.CONNECTING:
            await self._connect_and_use()
            if self.state is RecoveryState.CONNECTING:
                await asyncio.sleep(self._delay)

    async def _connect_and_use(self) -> None:
        """Try every address once; use the first topology that starts."""
        candidates, failures = await self._resolve()
        for endpoint, address in candidates:
            protocol = self._protocol = Protocol(
                endpoint,
                self._loop,
                self._counts.bytes,
                name=str(self._options.connection_name),
            )
            protocol.on_blocked = self._counts.events.tell_blocked
            try:
                await connect(protocol, address)
                topology = Topology(
                    protocol,
                    self._options,
                    self._names,
                    self._listener.deliver,
                    self._listener.drop_oversized,
                    self.probe,
                    self._counts.publishes,
                    self._pace,
                )
                await topology.open(self._listener.routing_keys())
                await self._start(topology)
            except Exception as err:
                self._withdraw(err)
                # Whatever it was: a connection that is left behind keeps the queue's name locked.
                protocol.abort()
                failures.append(f"{endpoint}: {describe(err)}")
                self._failed_at[address, endpoint.port] = self._loop.time()
                if not is_retryable(err):
                    self._log.exception("A bug in channels_rabbitmq; connecting again")
            else:
                await self._use(topology)
                if topology.ended.result() is not None:
                    self._failed_at[address, endpoint.port] = self._loop.time()
                return
        self._delay = next(self._delays)
        self._counts.fail_to_connect("; ".join(failures))
        self._warn_failed(
            "Cannot connect to RabbitMQ; will try again in %.1f s. %s",
            self._delay,
            "; ".join(failures),
        )

    async def _resolve(self) -> tuple[list[tuple[Endpoint, str]], list[str]]:
        """Every address of every endpoint, as preferred, and what could not be resolved."""
        found = []
        failures = []
        for endpoint in self._options.endpoints:
            try:
                async with asyncio.timeout(endpoint.connect_timeout):
                    addresses = await resolve(endpoint.host, endpoint.port)
            except OSError as err:
                failures.append(f"{endpoint}: {describe(err)}")
            else:
                found += [(endpoint, address) for address in addresses]
        # Names may lead to other addresses each time.
        known = {(address, endpoint.port) for endpoint, address in found}
        self._failed_at = {key: at for key, at in self._failed_at.items() if key in known}
        return preferred(found, self._failed_at, self._loop.time()), failures

    async def _start(self, topology: Topology) -> None:
        """Have a topology start, and publish on it meanwhile; raise if it ends before."""
        starting = self._loop.create_task(self._start_all(topology))
        starting.add_done_callback(retrieve)
        either: set[asyncio.Future[Any]] = {starting, topology.ended}
        try:
            if self._first:
                await asyncio.wait(
                    either, timeout=_FIRST_PATIENCE, return_when=asyncio.FIRST_COMPLETED
                )
            if not (starting.done() or topology.ended.done()):
                self._publish_on(topology)
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if topology.ended.done():
                raise topology.ended.result() or ConnectionClosed("the connection was closed")
        finally:
            starting.cancel()
        starting.result()
        self._publish_on(topology)

    async def _start_all(self, topology: Topology) -> None:
        await topology.start()
        await self._listener.topology_starting(topology)

    def _publish_on(self, topology: Topology) -> None:
        """Let publishes go out; the outage is over. It may have been done before."""
        if self.state is not RecoveryState.CONNECTING:
            return
        self._state.move(RecoveryState.STARTING)
        self._first = False
        self.publishing = topology
        self._end_outage()
        _finish(self._publishers, None)
        self._counts.connect(time.time(), str(topology.protocol.endpoint))

    def _withdraw(self, reason: Exception) -> None:
        """Publish no more on a topology that did not start."""
        if self.state is RecoveryState.STARTING:
            self.publishing = None
            self._state.move(RecoveryState.CONNECTING)
            self._begin_outage()
            self._tell_disconnected(reason)

    def _tell_disconnected(self, reason: Exception | None) -> None:
        self._counts.events.tell(
            EventKind.DISCONNECTED,
            detail="closed by this process" if reason is None else describe(reason),
        )

    async def _use(self, topology: Topology) -> None:
        """Offer the topology until it ends, then close its connection."""
        if self.state is RecoveryState.STARTING and not topology.ended.done():
            # It works, however shortly: cuts in quick succession are no reason to stay away.
            self._delays = delays(self._options.max_reconnect_delay)
            self._offer(topology)
        reason = await asyncio.shield(topology.ended)  # others wait for it too
        self.topology = self.publishing = None
        self._delay = next(self._delays)
        was_live = self.state is RecoveryState.LIVE
        was_used = was_live or self.state is RecoveryState.STARTING
        if was_used:
            self._state.move(RecoveryState.CONNECTING)
            self._begin_outage()
        if was_live:
            self._tell(self._listener.topology_ended)
        if was_used:
            self._tell_disconnected(reason)
        if self.state is RecoveryState.CONNECTING:
            if reason is None:
                self._log.info("The connection to RabbitMQ was closed; connecting again")
            else:
                self._warn_lost(
                    "Lost RabbitMQ; connecting again in %.1f s. %s", self._delay, describe(reason)
                )
        topology.protocol.close()
        with contextlib.suppress(OSError, AmqpError):
            await asyncio.shield(topology.protocol.closed)

    def _offer(self, topology: Topology) -> None:
        self._state.move(RecoveryState.LIVE)
        self.topology = topology
        _finish(self._waiters, None)
        _finish(self._patient_waiters, None)
        self._log.info("Connected to RabbitMQ at %s", topology.protocol.endpoint)
        topology.bindings.want_only(self._listener.routing_keys())  # some came or went meanwhile
        self._tell(partial(self._listener.topology_started, topology))

    def _tell(self, news: Callable[[], None]) -> None:
        """Tell the listener. A bug there costs the connection, and not the recovery."""
        try:
            news()
        except Exception:
            self._log.exception("A bug in channels_rabbitmq; connecting again")
            if self._protocol is not None:
                self._protocol.abort()
