"""What a process has on one connection, with a server that refuses and loses things."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pamqp.commands import Basic, Connection, Exchange, Queue

from channels_rabbitmq.amqp.connect import connect
from channels_rabbitmq.amqp.protocol import Protocol
from channels_rabbitmq.broker import probe as probe_module
from channels_rabbitmq.broker import topology as module
from channels_rabbitmq.broker.probe import Probe
from channels_rabbitmq.broker.topology import Topology
from channels_rabbitmq.config.options import Options
from channels_rabbitmq.errors import (
    AccessRefused,
    ConnectionClosed,
    MessageReturned,
    NotConnected,
    PreconditionFailed,
    ServerSentNack,
)
from channels_rabbitmq.local.queue_names import QueueNames
from tests.helpers.scripted import endpoint
from tests.helpers.waiting import until

from .fake_rabbit import FakeRabbit

QUEUE = "channels_test"


async def make(
    port: int,
    probe: Probe | None = None,
    deliver: list[tuple[Any, ...]] | None = None,
    **config: object,
) -> Topology:
    """A topology on a connection of its own, not started yet."""
    taken = [] if deliver is None else deliver
    protocol = Protocol(endpoint(port), asyncio.get_running_loop())
    await connect(protocol)
    options = Options.from_config(dict(config))
    names = QueueNames(newest=QUEUE)
    return Topology(
        protocol,
        options,
        names,
        lambda *delivery: taken.append(delivery),
        lambda *oversized: None,
        probe,
    )


async def start(port: int, probe: Probe | None = None, **config: object) -> Topology:
    """A topology that has started, with one binding."""
    topology = await make(port, probe, **config)
    await topology.open(["room"])
    await topology.start()
    return topology


async def test_what_is_declared(rabbit: FakeRabbit, port: int) -> None:
    """The exchange, the exclusive queue, the consumer, and then the bindings."""
    topology = await start(port, expiry=30, local_capacity=5, remote_capacity=7)
    assert rabbit.exchanges == {"groups": "direct"}
    assert rabbit.queues[QUEUE].arguments == {
        "x-max-length": 7,
        "x-overflow": "reject-publish",
        "x-message-ttl": 30000,
    }
    assert rabbit.queues[QUEUE].owner is rabbit.links[0]
    assert rabbit.bound() == {"room": [QUEUE]}
    (qos,) = rabbit.seen(Basic.Qos)
    assert qos.prefetch_count == 5
    (consume,) = rabbit.seen(Basic.Consume)
    assert consume.exclusive
    kinds = [type(method) for method in rabbit.methods]
    assert kinds.index(Basic.Consume) < kinds.index(Queue.Bind)
    assert topology.bindings.is_bound("room")
    assert repr(topology) == f"<Topology {QUEUE} live, 1 bindings>"


async def test_exchange_that_is_there(rabbit: FakeRabbit, port: int) -> None:
    """An exchange that is there is used as it is."""
    rabbit.exchanges["groups"] = "topic"
    await start(port)
    assert [declare.passive for declare in rabbit.seen(Exchange.Declare)] == [True]


async def test_exchange_that_another_process_just_declared(rabbit: FakeRabbit, port: int) -> None:
    """An exchange declared with other properties, after we looked for it, is used as it is."""

    def refuse(method: Any) -> tuple[int, str] | None:
        declares = isinstance(method, Exchange.Declare) and not method.passive
        return (406, "PRECONDITION_FAILED - inequivalent arg") if declares else None

    rabbit.refuse = refuse
    topology = await start(port)
    assert not topology.ended.done()


async def test_exchange_that_is_refused(rabbit: FakeRabbit, port: int) -> None:
    """Where the user may not declare it, starting fails with that."""
    rabbit.refuse = lambda method: (
        (403, "ACCESS_REFUSED") if isinstance(method, Exchange.Declare) else None
    )
    with pytest.raises(AccessRefused):
        await start(port)


async def test_queue_of_a_connection_that_died(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While RabbitMQ keeps the queue of the last connection, the new one waits for it."""
    monkeypatch.setattr(module, "_LOCKED_RETRY", (0.01, 0.02))
    await start(port)
    starting = asyncio.create_task(start(port))
    await until(lambda: len(rabbit.seen(Queue.Declare)) >= 6)
    assert not starting.done()
    rabbit.links[0].peer.writer.transport.abort()
    topology = await starting
    assert not topology.ended.done()


async def test_server_that_does_not_answer(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting gives a silent server up."""
    monkeypatch.setattr(module, "_START_TIMEOUT", 0.05)
    rabbit.silent = (Basic.Qos,)
    with pytest.raises(TimeoutError):
        await start(port)


async def test_bindings_that_take_long(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receiving and sending begin without them, and as long as they go on nothing is cut off."""
    monkeypatch.setattr(module, "_BINDING_PATIENCE", 0.01)
    monkeypatch.setattr(module, "_LOOK_TIMEOUT", 0.6)
    topology = await make(port)

    def hold(method: object) -> None:
        if isinstance(method, Queue.Bind) and method.routing_key.startswith("room"):
            rabbit.silent = (Queue.Bind, Queue.Declare)  # what comes after it waits for it

    rabbit.refuse = hold
    await topology.open([f"room{n}" for n in range(200)])
    await asyncio.wait_for(topology.start(), 5)
    assert topology.bindings.unconfirmed == 200
    await topology.publish("", QUEUE, b"1")
    assert not rabbit.queues[QUEUE].messages  # it is delivered
    (link,) = rabbit.links
    for _ in range(4):
        await asyncio.sleep(0.2)  # each answer begins the time anew, and all take longer
        left = topology.bindings.unconfirmed
        link.peer.send(topology._binder.number, Queue.BindOk())
        await until(lambda left=left: topology.bindings.unconfirmed < left)  # type: ignore[misc]
        assert topology.bindings.is_bound("room0")
        assert not topology.ended.done()
    reason = await asyncio.wait_for(asyncio.shield(topology.ended), 5)
    assert "RabbitMQ did not answer" in str(reason)


async def test_error_on_a_channel_ends_it_once(rabbit: FakeRabbit, port: int) -> None:
    """A binding that is refused is the end of the topology; the reason is RabbitMQ's."""
    topology = await start(port)
    rabbit.refuse = lambda method: (
        (403, "ACCESS_REFUSED") if isinstance(method, Queue.Bind) else None
    )
    with pytest.raises(AccessRefused):
        await topology.bindings.join("other")
    assert isinstance(topology.ended.result(), AccessRefused)
    with pytest.raises(ConnectionClosed):
        topology.require_live()
    rabbit.cut()  # is no second end
    await until(topology.protocol.closed.done)
    assert isinstance(topology.ended.result(), AccessRefused)


async def test_end_of_the_connection(rabbit: FakeRabbit, port: int) -> None:
    """The reason is why the connection ended; all that waits fails."""
    topology = await start(port)
    rabbit.silent = (Queue.Bind,)
    bound = topology.bindings.join("other")
    rabbit.cut()
    with pytest.raises(ConnectionClosed):
        await bound
    assert isinstance(topology.ended.result(), OSError)
    assert repr(topology).endswith("ended, 2 bindings>")


async def test_closed_by_the_user(rabbit: FakeRabbit, port: int) -> None:
    """There is no reason then."""
    topology = await start(port)
    topology.protocol.close()
    assert await asyncio.wait_for(asyncio.shield(topology.ended), 5) is None


@pytest.mark.parametrize("lost", ["queue", "consumer"])
async def test_queue_or_consumer_that_vanished(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """A look after the queue finds out that it, or its consumer, was lost without a word."""
    monkeypatch.setattr(module, "_VERIFY", (0.01, 0.02))
    topology = await start(port)
    looks = len(rabbit.seen(Queue.Declare))
    await until(lambda: len(rabbit.seen(Queue.Declare)) > looks + 2)
    assert not topology.ended.done()
    rabbit.queues[QUEUE].consumer = None
    if lost == "queue":
        del rabbit.queues[QUEUE]
    reason = await asyncio.wait_for(asyncio.shield(topology.ended), 5)
    assert str(reason) == (
        "RabbitMQ lost the consumer"
        if lost == "consumer"
        else "RabbitMQ closed the channel: 404 NOT_FOUND - no queue"
    )


async def test_exchange_that_vanished(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message to oneself finds out that the groups exchange was deleted, and made again."""
    monkeypatch.setattr(module, "_VERIFY", (0.01, 0.02))
    monkeypatch.setattr(module, "_PROBE_LOOK", 0.01)
    probe = Probe(QUEUE, 200, 60)
    topology = await start(port, probe=probe)
    for _ in range(3):
        await until(lambda: probe.under_way)
        probe.end()  # as it arrives
    assert not topology.ended.done()
    rabbit.bindings.clear()
    reason = await asyncio.wait_for(asyncio.shield(topology.ended), 5)
    assert "no group's messages arrive: RabbitMQ returned the message" in str(reason)


async def test_probe_that_does_not_arrive(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full window or queue is no deafness; an open window in which nothing arrives is."""
    monkeypatch.setattr(module, "_VERIFY", (0.01, 0.02))
    monkeypatch.setattr(module, "_PROBE_LOOK", 0.01)
    monkeypatch.setattr(probe_module, "PATIENCE", 0.05)
    taken: list[tuple[Any, ...]] = []
    probe = Probe(QUEUE, 200, 60)
    topology = await make(port, local_capacity=1, probe=probe, deliver=taken)
    await topology.open(["room"])
    await topology.start()
    rabbit.full.add(QUEUE)
    looks = len(rabbit.seen(Queue.Declare))
    await until(lambda: len(rabbit.seen(Queue.Declare)) >= looks + 5)  # each with a nack
    assert not topology.ended.done()
    rabbit.full.clear()
    # What was delivered is not acknowledged, and the probe waits behind it.
    await until(lambda: taken)
    await asyncio.sleep(0.1)
    assert not topology.ended.done()
    channel, tag, *_ = taken[0]
    channel.ack(tag)
    rabbit.queues[QUEUE].messages.clear()
    reason = await asyncio.wait_for(asyncio.shield(topology.ended), 5)
    assert "a message to oneself was lost" in str(reason)


@pytest.mark.parametrize("code", [403, 404])
async def test_probe_that_is_refused(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A user who may not publish to groups has no probes; a missing exchange ends the topology."""
    monkeypatch.setattr(module, "_VERIFY", (0.01, 0.02))
    rabbit.refuse = lambda method: (code, "REFUSED") if isinstance(method, Basic.Publish) else None
    topology = await start(port, probe=Probe(QUEUE, 200, 60))
    if code == 404:
        reason = await asyncio.wait_for(asyncio.shield(topology.ended), 5)
        assert "no group's messages arrive" in str(reason)
        return
    looks = len(rabbit.seen(Queue.Declare))
    await until(lambda: len(rabbit.seen(Queue.Declare)) >= looks + 5)
    assert not topology.ended.done()
    assert topology._probe is None


async def test_confirms(rabbit: FakeRabbit, port: int) -> None:
    """A publish is confirmed, refused by a full queue, or comes back."""
    topology = await start(port)
    await topology.publish("", QUEUE, b"1")
    await topology.publish("", "nowhere", b"2")
    with pytest.raises(MessageReturned):
        await topology.publish_mandatory("", "nowhere", b"3")
    await topology.publish_mandatory("", QUEUE, b"4")
    rabbit.full.add(QUEUE)
    with pytest.raises(ServerSentNack):
        await topology.publish("", QUEUE, b"5")


async def test_confirm_that_does_not_come(rabbit: FakeRabbit, port: int) -> None:
    """A publish fails within send_timeout, and the next one is watched as well."""
    topology = await start(port, send_timeout=0.2)
    await topology.publish("", QUEUE, b"1")
    rabbit.confirms = False
    for _ in range(2):
        start_time = asyncio.get_running_loop().time()
        with pytest.raises(
            NotConnected, match=r"did not confirm the message within send_timeout \(0.2 s\)"
        ):
            await asyncio.wait_for(topology.publish("", QUEUE, b"2"), 5)
        assert asyncio.get_running_loop().time() - start_time >= 0.1


async def test_purge(rabbit: FakeRabbit, port: int) -> None:
    """What waits in the queue is gone."""
    topology = await start(port, local_capacity=1)
    for _ in range(3):
        await topology.publish("", QUEUE, b"x")
    assert len(rabbit.queues[QUEUE].messages) == 2
    await topology.purge()
    assert not rabbit.queues[QUEUE].messages


async def test_calls_stay_apart(rabbit: FakeRabbit, port: int) -> None:
    """An error about another queue is that call's alone."""
    rabbit.exchanges["x"] = "direct"
    topology = await start(port)
    first = Queue.Declare(queue="other", arguments={"x-max-length": 1})
    await topology.calls.run(first)
    with pytest.raises(PreconditionFailed):
        await topology.calls.run(Queue.Declare(queue="other"))
    assert not topology.ended.done()


# A broker that hangs, and still sends heartbeats


async def test_look_that_is_not_answered(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a look after the queue goes unanswered the topology ends."""
    monkeypatch.setattr(module, "_VERIFY", (0.01, 0.01))
    monkeypatch.setattr(module, "_LOOK_TIMEOUT", 0.1)
    topology = await start(port)
    rabbit.silent = (Queue.Declare,)
    reason = await asyncio.wait_for(topology.ended, 10)
    assert str(reason) == "RabbitMQ did not answer for 0.1 s"


async def test_look_behind_what_is_answered_slowly(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that answers slowly, or reads nothing because of an alarm, is not left for it."""
    topology = await start(port)
    (link,) = rabbit.links
    rabbit.silent = (Queue.Bind, Queue.Declare)
    binding = topology.bindings.join("slow")
    await until(lambda: rabbit.seen(Queue.Bind)[-1].routing_key == "slow")
    timers: list[Callable[[], None]] = []
    monkeypatch.setattr(topology._timers, "call_later", lambda _, callback: timers.append(callback))
    topology._verify(1.0)
    link.peer.send(topology._binder.number, Queue.BindOk())  # the look comes after it
    await until(binding.done)
    timers.pop()()
    assert not topology.ended.done()

    link.peer.send(0, Connection.Blocked("an alarm"))
    await until(lambda: topology.blocked)
    timers.pop()()
    assert not topology.ended.done()

    link.peer.send(0, Connection.Unblocked())
    await until(lambda: topology.blocked is None)
    timers.pop()()
    assert topology.ended.done()
    assert not timers


@pytest.mark.parametrize("sends", [True, False])
async def test_node_that_stands_still(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch, sends: bool
) -> None:
    """It is left, before its heartbeats are missed, by who sends and by who only receives."""
    monkeypatch.setattr(module, "_LEAST_SILENCE", 0.3)
    monkeypatch.setattr(module, "_SILENT_TIMEOUTS", 1000)
    if not sends:
        monkeypatch.setattr(module, "_VERIFY", (0.01, 0.01))
    topology = await start(port, send_timeout=0.1)
    rabbit.silent = (object,)
    if sends:
        with pytest.raises(NotConnected):
            await topology.publish("", "q", b"x")
    reason = await asyncio.wait_for(topology.ended, 10)
    assert str(reason) == "RabbitMQ sent nothing for 0.3 s"
    # Nobody waits for it to agree to the end.
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(topology.protocol.closed, 1)


async def test_silence_while_the_socket_is_full(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large message on a slow network, or an alarm, is no reason to leave a node."""
    topology = await start(port)
    (link,) = rabbit.links
    rabbit.silent = (object,)
    timers: list[Callable[[], None]] = []
    monkeypatch.setattr(topology._timers, "call_later", lambda _, callback: timers.append(callback))

    def ping_in_vain() -> bool:
        topology._ping()
        timers.pop()()
        return topology.ended.done()

    topology.protocol.pause_writing()
    assert not ping_in_vain()
    topology.protocol.resume_writing()
    link.peer.send(0, Connection.Blocked("an alarm"))
    await until(lambda: topology.blocked)
    assert not ping_in_vain()
    link.peer.send(0, Connection.Unblocked())
    await until(lambda: topology.blocked is None)
    assert ping_in_vain()


async def test_node_that_waits_for_another(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that binds and confirms nothing, because of a node that is lost, is not left so soon."""
    monkeypatch.setattr(module, "_LEAST_SILENCE", 0.05)
    monkeypatch.setattr(module, "_SILENT_TIMEOUTS", 1000)
    topology = await start(port, send_timeout=0.1)
    rabbit.silent = (Queue.Bind,)
    rabbit.confirms = False
    topology.bindings.bind("slow")
    with pytest.raises(NotConnected):
        await topology.publish("", "q", b"x")
    asked = len(rabbit.seen(Basic.Qos))
    await until(lambda: len(rabbit.seen(Basic.Qos)) > asked + 3)
    assert not topology.ended.done()


async def test_nothing_is_confirmed(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no publish at all is confirmed for a few send_timeouts the topology ends."""
    monkeypatch.setattr(module, "_LEAST_SILENCE", 0.0)
    topology = await start(port, send_timeout=0.1)
    rabbit.confirms = False
    with pytest.raises(NotConnected):
        await topology.publish("", "q", b"x")
    assert not topology._publisher.confirms
    reason = await asyncio.wait_for(topology.ended, 10)
    assert str(reason) == "RabbitMQ confirmed nothing for 0.3 s"


async def test_one_confirm_is_enough(
    rabbit: FakeRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that confirms late, or is short of memory, is not left for it."""
    monkeypatch.setattr(module, "_LEAST_SILENCE", 1000.0)
    topology = await start(port, send_timeout=0.1)
    (link,) = rabbit.links
    rabbit.confirms = False
    with pytest.raises(NotConnected):
        await topology.publish("", "q", b"x")
    link.peer.send(topology._publisher.number, Basic.Ack(1))
    await until(lambda: topology._publisher.confirms.unanswered_since is None)
    with pytest.raises(NotConnected):
        await topology.publish("", "q", b"x")
    link.peer.send(0, Connection.Blocked("an alarm"))
    await until(lambda: topology.blocked)
    await until(lambda: not topology._watches_confirms)
    assert not topology.ended.done()


# A message that is too large for RabbitMQ

SIZE_REFUSED = "PRECONDITION_FAILED - message size 9 is larger than configured max size 5"


async def test_size_refused(rabbit: FakeRabbit, port: int) -> None:
    """It costs the channel for publishing; the limit is kept in mind, the lowest one."""
    topology = await start(port)
    publisher = topology._publisher
    rabbit.refuse = lambda method: (
        (406, SIZE_REFUSED) if isinstance(method, Basic.Publish) else None
    )
    for _ in range(2):
        with pytest.raises(PreconditionFailed) as caught:
            await topology.publish("", "q", bytes(9))
        assert caught.value.max_message_size == 5
    assert topology._publisher is not publisher
    with pytest.raises(PreconditionFailed):
        await topology.publish_mandatory("", QUEUE, bytes(5))
    assert len(rabbit.seen(Basic.Publish)) == 2
    rabbit.refuse = lambda method: None
    await topology.publish("", "q", bytes(5))
    await topology.publish_mandatory("", QUEUE, bytes(5))
    assert not topology.ended.done()


async def test_size_refused_where_nothing_is_published(rabbit: FakeRabbit, port: int) -> None:
    """The same words on another channel, or other words, are an error like any."""
    for method, text in ((Queue.Bind, SIZE_REFUSED), (Basic.Publish, "message size 9 is odd")):
        topology = await start(port)
        rabbit.refuse = lambda made, method=method, text=text: (  # type: ignore[misc]
            (406, text) if isinstance(made, method) else None
        )
        topology.publish("", "q", b"x").add_done_callback(lambda done: done.exception())
        topology.bindings.bind("other")
        assert isinstance(await asyncio.wait_for(topology.ended, 10), PreconditionFailed)
        rabbit.refuse = lambda made: None
        topology.protocol.abort()
        await until(lambda: not rabbit.queues)
