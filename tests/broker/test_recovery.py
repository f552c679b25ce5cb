"""Connecting again for ever, and what waits for that."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import struct
import threading
from collections.abc import Iterator

import pytest
from channels.exceptions import StopConsumer
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic, Connection, Queue

from channels_rabbitmq.broker import recovery as module
from channels_rabbitmq.broker.recovery import (
    RECOVERY_MOVES,
    RecoveryState,
    delays,
    preferred,
)
from channels_rabbitmq.broker.topology import Topology
from channels_rabbitmq.errors import (
    AccessRefused,
    ConnectionClosed,
    LoopEnded,
    NotFound,
    ServerSentNack,
)
from tests.helpers.scripted import endpoint
from tests.helpers.waiting import until

from .fake_rabbit import FakeRabbit, running
from .process import Process, process


class TestDelays:
    """The delays between attempts to connect."""

    @pytest.fixture(autouse=True)
    def usual_delays(self, short_delays: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin with what the package has."""
        monkeypatch.undo()

    def test_grow_to_the_longest(self) -> None:
        """Without jitter they double from half a second up to the longest, and stay there."""
        found = list(itertools.islice(delays(5, lambda low, high: high), 6))
        assert found == [0.5, 1, 2, 4, 5, 5]
        found = list(itertools.islice(delays(0.2, lambda low, high: high), 2))
        assert found == [0.2, 0.2]

    def test_jitter_spreads_processes(self) -> None:
        """Processes that lost RabbitMQ at the same moment do not come back at the same moment."""
        assert len({next(delays(5)) for _ in range(50)}) > 40


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.001, 100))
def test_delays_stay_in_bounds(parts: list[float], longest: float) -> None:
    """Whatever the jitter, no delay is under half of the first or over the longest."""
    drawn = iter(parts)
    found = list(
        itertools.islice(
            delays(longest, lambda low, high: low + next(drawn) * (high - low)), len(parts)
        )
    )
    least = min(module.FIRST_DELAY, longest) / 2
    assert all(least <= delay <= longest for delay in found)
    assert len(found) == len(parts)


def test_every_state_has_its_moves() -> None:
    """The table has every state, and only CLOSED is final."""
    assert set(RECOVERY_MOVES) == set(RecoveryState)
    assert [state for state, moves in RECOVERY_MOVES.items() if not moves] == [RecoveryState.CLOSED]


class TestPreferred:
    """Which address is tried first."""

    ONE, TWO, THREE = ((endpoint(port), "127.0.0.1") for port in (1, 2, 3))

    def test_failed_last(self) -> None:
        """Those that failed a short while ago come last, the latest of them at the end."""
        failed_at = {("127.0.0.1", 1): 99.0, ("127.0.0.1", 2): 98.0}
        found = preferred([self.ONE, self.TWO, self.THREE], failed_at, 100.0, list.reverse)
        assert found == [self.THREE, self.TWO, self.ONE]

    def test_long_ago(self) -> None:
        """What failed longer ago is as good as any."""
        found = preferred([self.ONE, self.TWO], {("127.0.0.1", 1): 10.0}, 100.0, lambda _: None)
        assert found == [self.ONE, self.TWO]

    def test_random(self) -> None:
        """Of the others each may come first, so that processes spread."""
        first = {preferred([self.ONE, self.TWO], {}, 100.0)[0] for _ in range(50)}
        assert first == {self.ONE, self.TWO}


class TestConnecting:
    """From nothing to a live topology, and back to one."""

    async def test_live(self, rabbit: FakeRabbit, port: int) -> None:
        """The listener hears of the topology, which has its routing keys bound."""
        async with process(port) as here:
            assert here.events == ["started"]
            assert here.recovery.state is RecoveryState.LIVE
            assert repr(here.recovery) == f"<Recovery {here.queue_name} live>"
            assert list(rabbit.queues) == [here.queue_name]
        assert here.events == ["started"]
        assert here.recovery.state is RecoveryState.CLOSED
        assert not rabbit.links

    async def test_again(
        self, rabbit: FakeRabbit, port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """After the connection was lost there is another, with the same queue and its groups."""
        caplog.set_level(logging.INFO)
        async with process(port) as here:
            first = here.recovery.topology
            await here.groups.add("room", f"{here.queue_name}!a")
            rabbit.cut()
            await until(lambda: here.recovery.topology not in (None, first))
            assert here.events == ["started", "ended", "started"]
            assert rabbit.bound() == {"room": [here.queue_name]}
        assert caplog.text.count("Connected to RabbitMQ at 127.0.0.1") == 2
        assert re.search(
            r"Lost RabbitMQ; connecting again in 0\.\d s\. .*(closed the socket|reset by peer)",
            caplog.text,
        )

    async def test_elsewhere(self, rabbit: FakeRabbit, port: int) -> None:
        """With two addresses, the one that was lost is not the next."""
        other = FakeRabbit()
        async with running(other) as second:
            hosts = [f"amqp://guest:guest@127.0.0.1:{n}?heartbeat=0" for n in (port, second)]
            async with process(port, host=hosts) as here:
                for times in range(1, 7):
                    lost, left = (rabbit, other) if rabbit.links else (other, rabbit)
                    lost.cut()
                    await until(lambda times=times: here.events.count("started") > times)  # type: ignore[misc]
                    assert left.links
                    assert not lost.links

    async def test_cuts_in_quick_succession(
        self, rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each time that it worked, the delays begin anew; only failures make them grow."""
        drawn: list[float] = []

        def record(longest: float) -> Iterator[float]:
            for delay in delays(longest, lambda low, high: high):
                drawn.append(delay)
                yield delay

        monkeypatch.setattr(module, "delays", record)
        async with process(port) as here:
            for cuts in range(1, 6):
                rabbit.cut()
                await until(lambda cuts=cuts: here.events.count("started") > cuts)  # type: ignore[misc]
            assert drawn == [0.01] * 5
            rabbit.silent = (Basic.Consume,)
            refusals = iter([(403, "ACCESS_REFUSED")] * 2)
            rabbit.refuse = lambda method: (
                next(refusals, None) if isinstance(method, Basic.Consume) else None
            )
            rabbit.cut()
            await until(lambda: len(drawn) == 8)
            assert drawn[5:] == [0.01, 0.02, 0.04]

    async def test_closed_by_the_user(self, port: int, caplog: pytest.LogCaptureFixture) -> None:
        """A user who closes the connection gets another; that is no warning."""
        caplog.set_level(logging.INFO)
        async with process(port) as here:
            first = here.recovery.topology
            assert first is not None
            first.protocol.close()
            await until(lambda: here.recovery.topology not in (None, first))
        assert "The connection to RabbitMQ was closed; connecting again" in caplog.text
        assert not [record for record in caplog.records if record.levelno > logging.INFO]

    async def test_what_joined_while_it_started(
        self, rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A group that was joined after the keys were asked for is bound all the same."""
        here = Process(port)
        start = Topology.start

        async def join_meanwhile(topology: Topology) -> None:
            await start(topology)
            here.state.memberships.establish("late", f"{here.queue_name}!a", 0.0)

        monkeypatch.setattr(Topology, "start", join_meanwhile)
        await here.recovery.run(lambda topology: topology.bindings.join("late"))
        assert rabbit.bound() == {"late": [here.queue_name]}
        await here.close()

    async def test_failures_are_named(
        self, rabbit: FakeRabbit, port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An attempt that fails says where and why, once; the next one may succeed."""
        rabbit.refuse = lambda method: (
            (403, "ACCESS_REFUSED - no") if isinstance(method, Basic.Consume) else None
        )
        here = Process(port)
        await until(lambda: len(rabbit.seen(Basic.Consume)) >= 2)
        rabbit.refuse = lambda method: None
        await here.recovery.wait_topology()
        await here.close()
        assert caplog.text.count("Cannot connect to RabbitMQ; will try again in 0.") == 1
        assert f"127.0.0.1:{port}//" not in caplog.text
        assert f"127.0.0.1:{port}/%2F: RabbitMQ closed the channel: 403" in caplog.text

    async def test_name_that_does_not_resolve(self, caplog: pytest.LogCaptureFixture) -> None:
        """It is named as well."""
        here = Process(1, host="amqp://guest:guest@host.invalid")
        await until(lambda: "Cannot connect" in caplog.text)
        await here.close()
        assert "host.invalid:5672/%2F: " in caplog.text

    async def test_bug_while_it_starts(
        self,
        rabbit: FakeRabbit,
        port: int,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Whatever goes wrong, the connection is closed, as it keeps the queue's name locked."""
        bugs = iter([struct_error(), None])

        def keys(self: Process) -> list[str]:
            error = next(bugs, None)
            if error is not None:
                raise error
            return []

        monkeypatch.setattr(Process, "routing_keys", keys)
        async with process(port) as here:
            assert here.events == ["started"]
            await until(lambda: len(rabbit.links) == 1)
        assert caplog.text.count("A bug in channels_rabbitmq; connecting again") == 1

    async def test_bug_in_the_listener(
        self, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It costs the connection, and not the recovery."""
        calls = itertools.count()

        def fail_once(self: Process, topology: Topology) -> None:
            self.events.append("started")
            if next(calls) == 0:
                raise ValueError

        monkeypatch.setattr(Process, "topology_started", fail_once)
        here = Process(port)
        await until(lambda: here.events == ["started", "ended", "started"])
        await here.close()
        assert caplog.text.count("A bug in channels_rabbitmq; connecting again") == 1


class TestStarting:
    """Publishes go out as soon as they can, whatever the queue and the bindings take."""

    async def test_publishes_go_first(self, rabbit: FakeRabbit, port: int) -> None:
        """They wait neither for the queue, nor for its consumer, nor for bindings."""
        rabbit.silent = (Queue.Declare,)
        here = Process(port)
        topology = await here.recovery.wait_publishing()
        assert here.recovery.state is RecoveryState.STARTING
        assert here.recovery.topology is None
        await topology.publish("groups", "room", b"1")
        assert rabbit.seen(Basic.Publish)
        assert not here.recovery._outage.is_given_up(float("inf"))
        waiting = asyncio.create_task(here.recovery.wait_topology())
        await asyncio.sleep(0)
        assert here.recovery.waiting == 1
        assert here.events == []
        rabbit.silent = ()
        rabbit.cut()
        assert await waiting is not topology
        await here.close()

    async def test_group_add(self, rabbit: FakeRabbit, port: int) -> None:
        """A join while it starts is bound with the others, and returns once it is live."""
        rabbit.silent = (Basic.Consume,)
        here = Process(port, send_timeout=30)
        topology = await here.recovery.wait_publishing()
        adding = asyncio.create_task(here.groups.add("room", f"{here.queue_name}!a"))
        await until(lambda: rabbit.bound() == {"room": [here.queue_name]})
        assert not adding.done()
        number = topology._consumer.number
        rabbit.links[0].peer.send(number, Basic.ConsumeOk(topology.protocol.consumer_tag))
        await asyncio.wait_for(adding, 5)
        assert here.recovery.state is RecoveryState.LIVE
        await here.close()

    async def test_own_groups(
        self, rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is sent to a group with local members waits for its binding, for a moment."""
        async with process(port) as here:
            await here.groups.add("room", f"{here.queue_name}!a")
            rabbit.silent = (Queue.Declare,)
            rabbit.cut()
            first = here.recovery.publishing
            await until(lambda: here.recovery.publishing not in (None, first))
            topology = here.recovery.publishing
            assert topology is not None
            await asyncio.wait_for(topology.wait_own("other"), 5)
            waiting = asyncio.create_task(topology.wait_own("room"))
            await asyncio.sleep(0)
            assert not waiting.done()
            await asyncio.wait_for(waiting, 10)
            began = asyncio.get_running_loop().time()
            await topology.wait_own("room")
            assert asyncio.get_running_loop().time() - began < 0.5
            rabbit.silent = ()
            rabbit.cut()
            await until(lambda: here.recovery.state is RecoveryState.LIVE)

    @pytest.mark.parametrize("ends", ["refused", "cut", "an error on the publisher"])
    async def test_that_ends(
        self, rabbit: FakeRabbit, port: int, ends: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A start that fails is given up at once, and the next one has what waits."""
        rabbit.silent = (Basic.Consume,)
        here = Process(port)
        first = await here.recovery.wait_publishing()
        await until(lambda: rabbit.seen(Basic.Consume))
        rabbit.silent = ()
        waiting = asyncio.create_task(here.recovery.wait_topology())
        if ends == "cut":
            rabbit.cut()
        elif ends == "refused":
            rabbit.links[0].send_close(first._consumer.number, 403, "ACCESS_REFUSED")
        else:
            rabbit.links[0].send_close(first._publisher.number, 404, "NOT_FOUND")
        await until(lambda: here.recovery.publishing is not first)
        assert await asyncio.wait_for(waiting, 5) is not first
        assert here.events == ["started"]
        assert "Cannot connect to RabbitMQ" in caplog.text
        await here.close()

    async def test_closed_meanwhile(self, rabbit: FakeRabbit, port: int) -> None:
        """The connection is closed as AMQP wants it."""
        rabbit.silent = (Basic.Consume,)
        here = Process(port)
        await here.recovery.wait_publishing()
        await here.close()
        assert here.recovery.publishing is None
        assert here.recovery.state is RecoveryState.CLOSED
        await until(lambda: not rabbit.links)
        with pytest.raises(StopConsumer):
            await here.recovery.wait_publishing()


def struct_error() -> Exception:
    """What packing a name that is too long raises."""
    return struct.error("short string too long")


class TestRun:
    """``run()``: on a live topology, and again where that ended."""

    async def test_waits(self, port: int) -> None:
        """Before there is a topology it waits for one, and gives what the operation gives."""
        here = Process(port)
        assert here.recovery.topology is None

        async def operation(topology: Topology) -> str:
            return f"done on {topology is here.recovery.topology}"

        assert await here.recovery.run(operation) == "done on True"
        await here.close()

    async def test_again_on_the_next(self, rabbit: FakeRabbit, port: int) -> None:
        """What fails because the topology ended is done again on the next one."""
        async with process(port) as here:
            seen: list[Topology] = []

            def operation(topology: Topology) -> asyncio.Future[None]:
                seen.append(topology)
                if len(seen) <= 2:
                    rabbit.silent = (Queue.Bind,)
                    asyncio.get_running_loop().call_later(0.02, restart)
                return topology.bindings.join("room")

            def restart() -> None:
                rabbit.silent = ()
                rabbit.cut()

            await here.recovery.run(operation)
            assert len(set(seen)) == len(seen) == 3
            assert seen[-1] is here.recovery.topology

    async def test_before_the_recovery_knows(self, rabbit: FakeRabbit, port: int) -> None:
        """An operation that fails at once, on a topology that just ended, makes no endless loop."""
        async with process(port) as here:
            topology = here.recovery.topology
            assert topology is not None
            tried: list[Topology] = []

            async def operation(topology: Topology) -> None:
                tried.append(topology)
                if len(tried) == 1:
                    rabbit.cut()
                    await topology.bindings.join("room")  # its answer may still come
                    await topology.bindings.join("other")
                topology.require_live()

            with contextlib.suppress(ConnectionClosed):
                await here.recovery.run(operation)
            assert len(tried) == 2

    async def test_while_the_connection_closes(self, port: int) -> None:
        """A call that is refused because the connection is closing waits for its end."""
        async with process(port) as here:
            first = here.recovery.topology
            assert first is not None
            first.protocol.close()
            await here.recovery.run(
                lambda topology: topology.calls.run(Queue.Declare(queue="other"))
            )
            assert here.recovery.topology is not first

    async def test_cancelled_meanwhile(self, port: int) -> None:
        """The end of the recovery cancels nobody who waits for the end of a topology."""
        here = Process(port)
        await here.recovery.wait_topology()

        async def operation(topology: Topology) -> None:
            raise ConnectionClosed("the connection is closing")

        waiting = asyncio.create_task(here.recovery.run(operation))
        await asyncio.sleep(0)
        here.recovery.cancel()
        with pytest.raises(LoopEnded):
            await waiting
        await here.close()

    @pytest.mark.parametrize(
        "error", [ServerSentNack("full"), NotFound(404, "no queue"), ValueError()]
    )
    async def test_errors_of_the_operation(self, port: int, error: Exception) -> None:
        """What the operation raises on a topology that lives is raised."""
        async with process(port) as here:

            async def operation(topology: Topology) -> None:
                raise error

            with pytest.raises(type(error)):
                await asyncio.wait_for(here.recovery.run(operation), 5)

    async def test_an_error_that_ended_the_topology(self, rabbit: FakeRabbit, port: int) -> None:
        """A binding that is refused ends the topology; the next one may allow it."""
        async with process(port) as here:
            refusals = iter([(403, "ACCESS_REFUSED")])
            rabbit.refuse = lambda method: (
                next(refusals, None) if isinstance(method, Queue.Bind) else None
            )
            await here.recovery.run(lambda topology: topology.bindings.join("room"))
            assert here.events == ["started", "ended", "started"]

    async def test_after_the_end(self, port: int) -> None:
        """Those who wait, and those who come later, are told that it is closed."""
        here = Process(port)

        async def operation(topology: Topology) -> None:
            raise AccessRefused(403, "never called")

        waiting = asyncio.create_task(here.recovery.run(operation))
        await asyncio.sleep(0)
        await here.recovery.close()
        for late in (waiting, here.recovery.run(operation)):
            with pytest.raises(StopConsumer):
                await late


class TestOutage:
    """While RabbitMQ is away, calls wait for it once; see test_outage.py for the times."""

    async def test_calls_wait_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Those under way end together; later ones end at once, in a turn of their own."""
        monkeypatch.setattr(module, "FIRST_DELAY", 1000.0)
        here = Process(1, send_timeout=0.1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = await asyncio.gather(
            *(here.recovery.wait_topology() for _ in range(100)), return_exceptions=True
        )
        assert {type(error) for error in first} == {TimeoutError}
        assert loop.time() - began >= 0.1
        turns = itertools.count()

        def turn() -> None:
            next(turns)
            loop.call_soon(turn)

        turn()
        monkeypatch.setattr(loop, "call_at", None)  # nothing is waited for any more
        for _ in range(10):
            with pytest.raises(TimeoutError):
                await here.recovery.wait_topology()
        assert next(turns) >= 10
        monkeypatch.undo()
        await here.close()

    async def test_its_end(self, rabbit: FakeRabbit, port: int) -> None:
        """Once RabbitMQ is back there is no time to give up any more, and a patient one has it."""
        rabbit.silent = (Basic.Consume,)
        here = Process(port, send_timeout=0.05)
        patient = asyncio.create_task(here.recovery.wait_topology(patient=True))
        with pytest.raises(TimeoutError):
            await here.recovery.wait_topology()
        assert not patient.done()
        rabbit.silent = ()
        rabbit.cut()
        topology = await asyncio.wait_for(patient, 5)
        assert await here.recovery.wait_topology() is topology
        await asyncio.sleep(0.06)
        assert here.recovery.topology is topology
        await here.close()

    async def test_the_next_one(self, rabbit: FakeRabbit, port: int) -> None:
        """It begins when the connection is lost, and calls wait for its end."""
        async with process(port, send_timeout=5) as here:
            for _ in range(3):
                first = here.recovery.topology
                rabbit.cut()
                await until(lambda first=first: here.recovery.topology is not first)  # type: ignore[misc]
                assert await here.recovery.wait_topology() is not first

    async def test_waiting_leaves_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Calls that were cancelled, or gave up, are not remembered."""
        monkeypatch.setattr(module, "FIRST_DELAY", 1000.0)
        here = Process(1, send_timeout=1)
        calls = [
            asyncio.ensure_future(here.recovery.wait_topology(patient=patient))
            for patient in [True, False] * 500
        ]
        await asyncio.sleep(0)
        assert len(here.recovery._waiters) == 500
        for call in calls[::4]:
            call.cancel()
        await asyncio.wait(calls[1::2])
        for call in calls[2::4]:
            call.cancel()
        await asyncio.wait(calls)
        await asyncio.sleep(0)
        assert not here.recovery._waiters
        assert not here.recovery._patient_waiters
        await here.close()


class TestEnd:
    """The ends of a recovery: closed, cancelled with its loop, cut, or never begun."""

    async def test_closed_while_connecting(self, rabbit: FakeRabbit, port: int) -> None:
        """Nothing is left of the attempt; closing again does nothing."""
        rabbit.silent = (Basic.Consume,)
        here = Process(port)
        await until(lambda: rabbit.seen(Basic.Consume))
        await asyncio.gather(here.recovery.close(), here.recovery.close())
        assert here.recovery.state is RecoveryState.CLOSED
        await until(lambda: not rabbit.links)
        assert here.events == []

    async def test_closed_while_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The wait for the next attempt is cut short."""
        monkeypatch.setattr(module, "FIRST_DELAY", 1000.0)
        here = Process(1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await here.recovery.wait_topology()
        await asyncio.wait_for(here.recovery.close(), 5)

    async def test_cancelled(self, rabbit: FakeRabbit, port: int) -> None:
        """Cancelled, as by the end of its loop, it takes leave and tells those who wait."""
        async with process(port) as here:
            here.recovery.cancel()
            await until(lambda: here.recovery.state is RecoveryState.CLOSED)
            assert here.events == ["started", "recovery ended"]
            with pytest.raises(LoopEnded):
                await here.recovery.wait_topology()
            assert not rabbit.links
            here.recovery.cancel()  # does nothing

    async def test_cancelled_before_it_began(self, port: int) -> None:
        """It never ran, and tells it all the same."""
        here = Process(port)
        here.recovery.cancel()
        with pytest.raises(LoopEnded):
            await here.recovery.wait_topology()
        assert here.events == ["recovery ended"]
        await here.close()
        assert here.recovery.state is RecoveryState.CLOSED

    async def test_server_that_does_not_let_go(
        self, rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Leaving does not wait for long, however often it is cancelled."""
        monkeypatch.setattr(module, "_LEAVE_TIMEOUT", 0.1)
        async with process(port) as here:
            rabbit.silent = (Connection.Close,)
            here.recovery.cancel()
            await asyncio.sleep(0.05)
            here.recovery._task.cancel()
            await until(lambda: here.recovery.state is RecoveryState.CLOSED)

    @pytest.mark.parametrize("live", [True, False])
    async def test_cut(
        self,
        rabbit: FakeRabbit,
        port: int,
        monkeypatch: pytest.MonkeyPatch,
        live: bool,
    ) -> None:
        """Cut from another thread, it connects no more, should its loop run again."""
        here = Process(port if live else 1)
        if live:
            await here.recovery.wait_topology()
        thread = threading.Thread(target=here.recovery.cut)
        thread.start()
        thread.join()
        here.recovery.cut()  # once more does nothing
        assert here.recovery.state is RecoveryState.CUT
        await until(lambda: here.recovery.state is RecoveryState.CLOSED)
        assert here.events == (["started"] if live else []) + ["recovery ended"]
        with pytest.raises(LoopEnded):
            await here.recovery.wait_topology()
        here.recovery.cut()
        await here.close()

    async def test_disowned(self, rabbit: FakeRabbit, port: int) -> None:
        """In a forked child the socket is closed without a word; here there is no child."""
        here = Process(port)
        here.recovery.disown()
        await here.recovery.wait_topology()
        await here.close()


@pytest.mark.parametrize("channel_max", range(1, 7))
async def test_channel_max_too_small(
    rabbit: FakeRabbit, port: int, caplog: pytest.LogCaptureFixture, channel_max: int
) -> None:
    """A channel_max that is too small is said, with what is needed, and tried again."""
    rabbit.channel_max = channel_max
    listener = Process(port)
    try:
        line = await until(lambda: [line for line in caplog.messages if "Cannot connect" in line])
        assert line[0].endswith(
            f"channel_max {channel_max} allows too few AMQP channels: a connection of the layer "
            "needs 7"
        )
        assert listener.recovery.topology is None
        rabbit.channel_max = 7
        await listener.recovery.wait_topology()
    finally:
        await listener.close()
