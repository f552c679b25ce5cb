"""Sending to, receiving from, and grouping normal channels, with a server that refuses things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from pamqp.commands import Basic, Queue

from channels_rabbitmq.broker import normal_channels as module
from channels_rabbitmq.broker.topology import LEAST_CHANNELS, Topology
from channels_rabbitmq.connection import Connection
from channels_rabbitmq.errors import AccessRefused, ChannelClosed, LoopEnded, NotConnected
from channels_rabbitmq.wire.messages import Message
from tests.helpers.waiting import until

from .fake_rabbit import FakeRabbit
from .process import Process, process

QUEUE = "asgi.channel::jobs"


@pytest.fixture
async def here(port: int) -> AsyncIterator[Process]:
    """A process that is connected."""
    async with process(port, "q") as made:
        yield made


def messages(rabbit: FakeRabbit, name: str = QUEUE) -> int:
    """How many messages wait in a queue."""
    return len(rabbit.queues[name].messages)


async def send(here: Process, n: int, name: str = "jobs") -> None:
    """Send {"n": n} to a normal channel."""
    await here.normal.send(name, here.encode(name, {"n": n}))


async def receive(here: Process, name: str = "jobs") -> Message:
    """Wait for a message of a normal channel, as the layer does."""
    loop = asyncio.get_running_loop()
    box = here.state.normal.box(name)
    while not here.normal.ready(name):
        waiter: asyncio.Future[None] = loop.create_future()
        box.waiters.append(waiter)
        here.normal.update(name)
        try:
            await waiter
        except asyncio.CancelledError:
            box.give_up(waiter)
            raise
        finally:
            here.normal.update(name)
    return here.normal.take(name)


async def idle(rabbit: FakeRabbit) -> None:
    """Wait until nobody consumes the queue."""
    await until(lambda: rabbit.queues[QUEUE].consumer is None)


class TestSending:
    """To a queue that is declared before the first message."""

    async def test_stored(self, here: Process, rabbit: FakeRabbit) -> None:
        """What is sent waits in the channel's queue."""
        await send(here, 1)
        await send(here, 2)
        assert messages(rabbit) == 2

    async def test_full(self, here: Process, rabbit: FakeRabbit) -> None:
        """A full queue is told with the channel's name and its capacity."""
        await send(here, 1)
        rabbit.full.add(QUEUE)
        with pytest.raises(ChannelFull, match=r"Channel jobs is full \(capacity 100\)") as raised:
            await send(here, 2)
        assert not isinstance(raised.value, NotConnected)

    async def test_queue_that_vanished(self, here: Process, rabbit: FakeRabbit) -> None:
        """The message that came back is sent once more, to a new queue."""
        await send(here, 1)
        rabbit.delete_queue(QUEUE)
        await send(here, 2)
        assert messages(rabbit) == 1

    async def test_queue_that_vanishes_again(self, here: Process, rabbit: FakeRabbit) -> None:
        """A message that comes back twice is given up."""
        await send(here, 1)

        def delete_before_publish(method: Any) -> None:
            if isinstance(method, Basic.Publish) and method.routing_key == QUEUE:
                rabbit.queues.pop(QUEUE, None)

        rabbit.refuse = delete_before_publish
        with pytest.raises(NotConnected, match="the queue of channel jobs is deleted again"):
            await send(here, 2)

    async def test_away(self, rabbit: FakeRabbit, port: int) -> None:
        """It ends within send_timeout."""
        rabbit.silent = (Basic.Consume,)
        here = Process(port, send_timeout=0.05)
        with pytest.raises(NotConnected, match=r"did not answer within send_timeout \(0.05 s\)"):
            await send(here, 1)
        await here.close()

    async def test_blocked(self, here: Process, rabbit: FakeRabbit) -> None:
        """It ends at once while RabbitMQ has an alarm."""
        topology = await here.recovery.wait_topology()
        topology.protocol.blocked = "low on memory"
        with pytest.raises(NotConnected, match="RabbitMQ takes no messages: low on memory"):
            await send(here, 1)
        topology.protocol.blocked = None

    async def test_no_free_channel(self, here: Process) -> None:
        """Where the connection has no AMQP channel left, the error says that."""
        protocol = (await here.recovery.wait_topology()).protocol
        while True:
            try:
                protocol.open_channel()
            except ChannelClosed:
                break
        with pytest.raises(NotConnected, match="no free AMQP channel") as raised:
            await send(here, 1)
        assert not raised.value.sent

    async def test_lost_before_it_was_published(self, here: Process, rabbit: FakeRabbit) -> None:
        """A message that was not published yet goes out on the next connection, once."""
        rabbit.silent = (Queue.Declare,)
        sending = asyncio.create_task(send(here, 1))
        await until(lambda: rabbit.seen(Queue.Declare)[-1].queue == QUEUE)
        rabbit.silent = ()
        rabbit.cut()
        await sending
        assert messages(rabbit) == 1

    async def test_lost_before_it_was_confirmed(self, here: Process, rabbit: FakeRabbit) -> None:
        """A message that was published is not published again."""
        await send(here, 1)
        rabbit.confirms = False
        sending = asyncio.create_task(send(here, 2))
        await until(lambda: messages(rabbit) == 2)
        rabbit.cut()
        with pytest.raises(NotConnected, match="the connection to RabbitMQ ended meanwhile"):
            await sending
        await here.recovery.wait_topology()
        assert messages(rabbit) == 2

    async def test_refused(self, here: Process, rabbit: FakeRabbit) -> None:
        """RabbitMQ's refusal to make the queue is raised; nothing else is disturbed."""
        rabbit.refuse = lambda method: (
            (403, "ACCESS_REFUSED") if isinstance(method, Queue.Declare) else None
        )
        with pytest.raises(AccessRefused):
            await send(here, 1)
        assert here.events == ["started"]


class TestNodeThatIsDown:
    """The node of a cluster that has the channel's classic queue is down."""

    @pytest.fixture
    def down(self, rabbit: FakeRabbit) -> set[str]:
        """The queues whose node is down: RabbitMQ knows them, and says "not found" all the same."""
        queues: set[str] = set()
        rabbit.refuse = lambda method: (
            (404, f"NOT_FOUND - home node 'rabbit@a' of durable queue '{method.queue}' is down")
            if getattr(method, "queue", "") in queues
            else None
        )
        return queues

    async def test_sending(self, here: Process, rabbit: FakeRabbit, down: set[str]) -> None:
        """Sending says so, at once; and goes on when the node is back."""
        down.add(QUEUE)
        with pytest.raises(NotConnected, match="the queue of channel jobs is down"):
            await send(here, 1)
        down.clear()
        await send(here, 2)
        assert await receive(here) == {"n": 2}

    async def test_message_that_is_refused(
        self, here: Process, rabbit: FakeRabbit, down: set[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A nack is no proof of a full queue: the node may have gone since it was declared."""
        monkeypatch.setattr(module, "_LOOK_AFTER_NACK", 0.0)
        await send(here, 1)
        rabbit.full.add(QUEUE)
        with pytest.raises(ChannelFull, match="capacity 100"):
            await send(here, 2)
        down.add(QUEUE)
        with pytest.raises(NotConnected, match="the queue of channel jobs is down"):
            await send(here, 2)

    async def test_message_that_is_not_confirmed(
        self, rabbit: FakeRabbit, port: int, down: set[str]
    ) -> None:
        """After one that RabbitMQ said nothing to, the next fails at once if the node is down."""
        async with process(port, send_timeout=0.3) as here:
            await send(here, 1)
            down.add(QUEUE)
            rabbit.confirms = False
            with pytest.raises(NotConnected, match="did not answer"):
                await send(here, 2)
            with pytest.raises(NotConnected, match="is down"):
                await send(here, 3)

    async def test_receiving(
        self,
        here: Process,
        rabbit: FakeRabbit,
        down: set[str],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Receiving waits: also when the node goes down meanwhile, with its consumers."""
        monkeypatch.setattr(module, "_GONE_RETRY", 0.01)
        monkeypatch.setattr(module, "_REFUSED_RETRY", 0.01)
        receiving = asyncio.create_task(receive(here))
        await until(lambda: QUEUE in rabbit.queues and rabbit.queues[QUEUE].consumer is not None)
        down.add(QUEUE)
        rabbit.delete_queue(QUEUE)
        asked = len(rabbit.seen(Queue.Declare))
        await until(lambda: len(rabbit.seen(Queue.Declare)) > asked + 2)
        assert not receiving.done()
        assert "Cannot receive from jobs: the node of RabbitMQ" in caplog.text
        down.clear()
        await send(here, 1)
        assert await receiving == {"n": 1}

    async def test_groups(
        self,
        rabbit: FakeRabbit,
        port: int,
        down: set[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A membership stays, and is bound when the node is back."""
        down.add(QUEUE)
        async with process(port, expiry=0.5) as here:
            await here.normal.group_add("room", "jobs")
            assert "Cannot bind jobs for group room: the node of RabbitMQ" in caplog.text
            down.clear()
            await until(lambda: rabbit.bound() == {"room": [QUEUE]})


class TestReceiving:
    """From a queue that is consumed while somebody waits."""

    async def test_one_at_a_time(self, here: Process, rabbit: FakeRabbit) -> None:
        """Nothing is consumed in advance, and nothing while nobody waits."""
        for n in range(3):
            await send(here, n)
        assert await receive(here) == {"n": 0}
        await idle(rabbit)
        assert messages(rabbit) == 2
        assert await receive(here) == {"n": 1}
        assert rabbit.links[0].unacknowledged  # channels, none of which holds a delivery
        await until(lambda: not any(rabbit.links[0].unacknowledged.values()))

    async def test_who_waits_longest(self, here: Process) -> None:
        """Those who wait get the messages in order."""
        waiting = [asyncio.create_task(receive(here)) for _ in range(3)]
        for n in range(3):
            await asyncio.sleep(0)
            await send(here, n)
        assert [message["n"] for message in await asyncio.gather(*waiting)] == [0, 1, 2]

    async def test_cancelled(self, here: Process, rabbit: FakeRabbit) -> None:
        """A message that came for one who was cancelled is there for the next."""
        waiting = asyncio.create_task(receive(here))
        await until(lambda: QUEUE in rabbit.queues and rabbit.queues[QUEUE].consumer)
        rabbit.publish("", QUEUE, here.encode("jobs", {"n": 1}))
        await until(lambda: here.state.normal.box("jobs").queue, step=0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert here.normal.ready("jobs")
        assert here.normal.take("jobs") == {"n": 1}
        await idle(rabbit)

    async def test_taken_back(self, here: Process) -> None:
        """A message whose reader, on another loop, was cancelled comes before all others."""
        await send(here, 1)
        await send(here, 2)
        message = await receive(here)
        here.normal.take_back("jobs", message, here.encode("jobs", message))
        assert await receive(here) == {"n": 1}
        assert await receive(here) == {"n": 2}

    async def test_through_an_outage(self, here: Process, rabbit: FakeRabbit) -> None:
        """Who waits gets what comes after the next connection was made."""
        waiting = asyncio.create_task(receive(here))
        await until(lambda: QUEUE in rabbit.queues and rabbit.queues[QUEUE].consumer)
        rabbit.cut()
        await until(lambda: here.events == ["started", "ended", "started"])
        await send(here, 1)
        assert await waiting == {"n": 1}

    async def test_queue_that_is_deleted(
        self, here: Process, rabbit: FakeRabbit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A queue that is deleted under its consumer is declared and consumed again."""
        monkeypatch.setattr(module, "_GONE_RETRY", 0.01)
        waiting = asyncio.create_task(receive(here))
        await until(lambda: QUEUE in rabbit.queues and rabbit.queues[QUEUE].consumer)
        rabbit.delete_queue(QUEUE)
        await send(here, 1)
        assert await waiting == {"n": 1}

    async def test_consuming_is_refused(
        self,
        here: Process,
        rabbit: FakeRabbit,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """It is warned of, and tried again."""
        monkeypatch.setattr(module, "_REFUSED_RETRY", 0.01)
        refusals = iter([(403, "ACCESS_REFUSED - no read"), (403, "ACCESS_REFUSED - no read")])
        rabbit.refuse = lambda method: (
            next(refusals, None) if isinstance(method, Basic.Consume) else None
        )
        await send(here, 1)
        assert await receive(here) == {"n": 1}
        assert "Cannot receive from jobs: RabbitMQ closed the channel: 403" in caplog.text

    async def test_declaring_is_refused(self, here: Process, rabbit: FakeRabbit) -> None:
        """Those who wait are told that RabbitMQ refuses to make the queue."""
        rabbit.refuse = lambda method: (
            (403, "ACCESS_REFUSED") if isinstance(method, Queue.Declare) else None
        )
        with pytest.raises(AccessRefused):
            await asyncio.wait_for(receive(here), 5)

    async def test_no_free_channel(
        self, here: Process, rabbit: FakeRabbit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the connection has no AMQP channel left, it is tried again."""
        monkeypatch.setattr(module, "_REFUSED_RETRY", 0.01)
        topology = await here.recovery.wait_topology()
        usual, topology.protocol.channel_max = topology.protocol.channel_max, 4
        waiting = asyncio.create_task(receive(here))
        await until(lambda: QUEUE in rabbit.queues)
        await asyncio.sleep(0.03)
        topology.protocol.channel_max = usual
        await send(here, 1)
        assert await waiting == {"n": 1}

    async def test_many_channels(
        self, here: Process, rabbit: FakeRabbit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Consumers that are idle make room, so that AMQP channels do not run out."""
        monkeypatch.setattr(module, "_MANY_CONSUMERS", 2)
        for n in range(6):
            name = f"jobs.{n}"
            await send(here, n, name)
            assert await receive(here, name) == {"n": n}
            queue = rabbit.queues[f"asgi.channel::{name}"]
            await until(lambda queue=queue: queue.consumer is None)  # type: ignore[misc]
        assert len(here.normal._consumers) <= 2
        assert await receive_soon(here, "jobs.0") is None

    async def test_bad_bytes(self, here: Process, rabbit: FakeRabbit) -> None:
        """What is no message, or one for another channel, is dropped and acknowledged."""
        await send(here, 1)
        for body in (b"\xc1", here.encode("other", {"n": 2})):
            rabbit.publish("", QUEUE, body)
        await send(here, 3)
        assert await receive(here) == {"n": 1}
        assert await receive(here) == {"n": 3}
        assert [str(error) for error in here.bad][1] == "it is for another channel"

    async def test_at_most_once(self, here: Process) -> None:
        """What was delivered before is acknowledged and dropped."""
        acked: list[int] = []

        class AmqpChannel:
            def ack(self, tag: int) -> None:
                acked.append(tag)

        waiting = asyncio.create_task(receive(here))
        await until(lambda: "jobs" in here.normal._consumers)
        body = here.encode("jobs", {"n": 1})
        here.normal._deliver("jobs", AmqpChannel(), 1, True, body)  # type: ignore[arg-type]
        assert acked == [1]
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()


async def receive_soon(here: Process, name: str) -> Message | None:
    """A message of a channel, if there is one."""
    try:
        async with asyncio.timeout(0.05):
            return await receive(here, name)
    except TimeoutError:
        return None


class TestGroups:
    """Normal channels in groups: their queues are bound to the exchange."""

    async def test_member(self, here: Process, rabbit: FakeRabbit) -> None:
        """Its queue is bound, and unbound by whichever process discards it."""
        await here.normal.group_add("room", "jobs")
        assert rabbit.bound() == {"room": [QUEUE]}
        assert here.state.normal_memberships.pairs == [("room", "jobs")]
        await here.normal.group_discard("room", "jobs")
        assert rabbit.bound() == {}
        await here.normal.group_discard("room", "jobs")

    async def test_queue_that_vanished(self, here: Process, rabbit: FakeRabbit) -> None:
        """A queue that went since it was declared is declared again."""
        await send(here, 1)
        rabbit.delete_queue(QUEUE)
        await here.normal.group_add("room", "jobs")
        assert rabbit.bound() == {"room": [QUEUE]}

    async def test_cancelled(self, here: Process, rabbit: FakeRabbit) -> None:
        """One of two calls that is cancelled leaves the other one's membership."""
        rabbit.silent = (Queue.Bind,)
        adding = [asyncio.create_task(here.normal.group_add("room", "jobs")) for _ in range(2)]
        await until(lambda: QUEUE in rabbit.queues)
        adding[0].cancel()
        await asyncio.wait({adding[0]})
        assert here.state.normal_memberships.pairs == [("room", "jobs")]
        adding[1].cancel()
        await asyncio.wait({adding[1]})
        assert here.state.normal_memberships.pairs == []
        await until(lambda: rabbit.seen(Queue.Unbind))

    async def test_claims_whose_results_cross(self, here: Process, rabbit: FakeRabbit) -> None:
        """Two calls of other loops, both done here and both cancelled there, leave nothing."""
        first, second = object(), object()
        await here.normal.group_add("room", "jobs", first)
        await here.normal.group_add("room", "jobs", second)
        here.normal.undo_add("room", "jobs", first)
        assert rabbit.bound() == {"room": [QUEUE]}
        here.normal.undo_add("room", "jobs", second)
        assert here.state.normal_memberships.pairs == []
        await until(lambda: rabbit.bound() == {})

    async def test_confirmed_claim(self, here: Process) -> None:
        """Once its result has arrived, a claim cannot be undone."""
        first, second = object(), object()
        await here.normal.group_add("room", "jobs", first)
        await here.normal.group_add("room", "jobs", second)
        here.normal.confirm_add("room", "jobs")
        here.normal.undo_add("room", "jobs", second)
        assert here.state.normal_memberships.pairs == [("room", "jobs")]

    async def test_refused(self, here: Process, rabbit: FakeRabbit) -> None:
        """A binding that RabbitMQ refuses is raised, and not kept."""
        rabbit.refuse = lambda method: (
            (403, "ACCESS_REFUSED") if isinstance(method, Queue.Bind) else None
        )
        with pytest.raises(AccessRefused):
            await here.normal.group_add("room", "jobs")
        assert here.state.normal_memberships.pairs == []

    async def test_away(
        self, rabbit: FakeRabbit, port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """While RabbitMQ does not answer, calls end in time with a warning; the rest follows."""
        async with process(port, send_timeout=0.3) as here:
            rabbit.silent = (Queue.Bind, Queue.Unbind)
            await here.normal.group_add("room", "jobs")
            assert "Group room is not bound yet: RabbitMQ is slow" in caplog.text
            await here.normal.group_discard("other", "jobs")
            assert "jobs may still be in group other: RabbitMQ did not answer" in caplog.text
            rabbit.silent = ()
            rabbit.cut()
            await until(lambda: rabbit.bound() == {"room": [QUEUE]})

    async def test_lost_meanwhile(self, here: Process, rabbit: FakeRabbit) -> None:
        """A call under way goes on with the next connection; what was left is not bound again."""
        rabbit.silent = (Queue.Bind,)
        adding = [asyncio.create_task(here.normal.group_add(group, "jobs")) for group in ("a", "b")]
        await until(lambda: QUEUE in rabbit.queues)
        await here.normal.group_discard("b", "jobs")
        rabbit.silent = ()
        rabbit.cut()
        await asyncio.gather(*adding)
        assert rabbit.bound() == {"a": [QUEUE]}

    async def test_bound_meanwhile(self, here: Process, monkeypatch: pytest.MonkeyPatch) -> None:
        """A call whose binding was made before it heard that another loop took over asks again."""
        bind = here.normal._bind_member

        async def bind_and_stop(group: str, name: str, topology: Topology) -> None:
            await bind(group, name, topology)
            here.normal.stop()

        monkeypatch.setattr(here.normal, "_bind_member", bind_and_stop)
        with pytest.raises(LoopEnded):
            await here.normal.group_add("room", "jobs")
        assert here.state.normal_memberships.pairs == []

    async def test_renewed(
        self,
        rabbit: FakeRabbit,
        port: int,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """While it is in a group, a queue that expired is made and bound again."""
        monkeypatch.setattr(module, "renewal_interval", lambda options: 0.02)
        async with process(port, expiry=0.001) as here:
            await here.normal.group_add("room", "jobs")
            rabbit.delete_queue(QUEUE)
            await until(lambda: rabbit.bound() == {"room": [QUEUE]})
            rabbit.refuse = lambda method: (
                (403, "ACCESS_REFUSED") if isinstance(method, Queue.Bind) else None
            )
            await until(lambda: "Cannot bind jobs for group room: RabbitMQ closed" in caplog.text)


class TestFlushAndEnd:
    """Emptying all channels, and what is given back as the layer is closed."""

    async def test_flush(self, here: Process, rabbit: FakeRabbit) -> None:
        """All channels that were used are purged and out of their groups; gone ones are empty."""
        await send(here, 1)
        await send(here, 1, "gone")
        await here.normal.group_add("room", "jobs")
        here.normal.take_back("jobs", {"n": 0}, b"")
        rabbit.delete_queue("asgi.channel::gone")
        await here.normal.flush(await here.recovery.wait_topology())
        assert messages(rabbit) == 0
        assert rabbit.bound() == {}
        assert not here.normal.ready("jobs")
        assert here.state.normal_memberships.pairs == []

    async def test_give_back(self, rabbit: FakeRabbit, port: int) -> None:
        """A message that is held for nobody is published again, and nothing is consumed."""
        async with process(port) as here:
            await send(here, 1)
            message = await receive(here)
            here.normal.take_back("jobs", message, here.encode("jobs", message))
            waiting = asyncio.create_task(receive(here, "other"))
            await until(lambda: "other" in here.normal._consumers)
            waiting.cancel()
            await here.normal.close()
            assert messages(rabbit) == 1
            here.normal.update("jobs")
            assert rabbit.queues[QUEUE].consumer is None

    async def test_give_back_to_a_full_channel(self, rabbit: FakeRabbit, port: int) -> None:
        """A message that its queue does not take keeps no other from going back."""
        async with process(port) as here:
            for name in ("full", "jobs"):
                here.normal.take_back(name, {"n": 1}, here.encode(name, {"n": 1}))
            rabbit.full.add(QUEUE.replace("jobs", "full"))
            await here.normal.close()
            assert messages(rabbit) == 1

    async def test_give_back_while_blocked(self, rabbit: FakeRabbit, port: int) -> None:
        """It does not wait for RabbitMQ then."""
        async with process(port) as here:
            topology = await here.recovery.wait_topology()
            here.normal.take_back("jobs", {"n": 1}, here.encode("jobs", {"n": 1}))
            topology.protocol.blocked = "low on memory"
            await here.normal.close()
            assert QUEUE not in rabbit.queues

    async def test_retired(self, here: Process, rabbit: FakeRabbit) -> None:
        """After another loop took over, deliveries are left to it."""
        waiting = asyncio.create_task(receive(here))
        await until(lambda: QUEUE in rabbit.queues and rabbit.queues[QUEUE].consumer)
        here.normal.stop()
        rabbit.publish("", QUEUE, here.encode("jobs", {"n": 1}))
        await until(lambda: any(rabbit.links[0].unacknowledged.values()))
        assert not here.state.normal.box("jobs").queue
        waiting.cancel()


async def test_few_amqp_channels(rabbit: FakeRabbit, port: int) -> None:
    """With the least channel_max all kinds of operations work, several normal channels in turn."""
    rabbit.channel_max = LEAST_CHANNELS
    async with process(port) as one:
        topology = await one.recovery.wait_topology()
        await one.groups.add("room", f"{one.queue_name}!a")
        for name in ("one", "two", "three"):
            await one.normal.group_add("room", name)
            await one.normal.send(name, one.encode(name, {"n": name}))
            assert await receive(one, name) == {"n": name}
        assert await one.peers.group_members("room", 1.0)
        await Connection(topology.protocol, None).publish(b"x", routing_key="q")
        assert one.recovery.topology is topology
