"""Bursts of bindings over many AMQP channels, with a server that answers when a test says so."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pamqp.commands import Channel, Queue

from channels_rabbitmq.amqp.connect import connect
from channels_rabbitmq.amqp.protocol import Protocol
from channels_rabbitmq.broker import bindings as module
from channels_rabbitmq.broker.topology import Topology
from channels_rabbitmq.config.options import Options
from channels_rabbitmq.errors import AccessRefused
from channels_rabbitmq.local import contention
from channels_rabbitmq.local.pace import Pace, batch_size
from channels_rabbitmq.local.queue_names import QueueNames
from tests.helpers.scripted import endpoint
from tests.helpers.waiting import until

from .fake_rabbit import FakeRabbit, Link, running


class SlowRabbit(FakeRabbit):
    """A server that keeps bindings, and does them when it is told to: channels in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = False
        #: What was asked for and is not done, by channel.
        self.kept: dict[int, deque[tuple[Link, Any]]] = defaultdict(deque)
        #: The channels that are open.
        self.open: set[int] = set()
        #: The most of them at a time, of those for bindings.
        self.most_busy = 0
        #: The order in which bindings were made.
        self.order: list[str] = []
        #: The channel of what is under way, by routing key.
        self.under_way: dict[str, int] = {}
        #: Bindings and unbindings of the same key that were under way on two channels.
        self.crossed: list[str] = []

    @property
    def asked(self) -> int:
        """How many are not done."""
        return sum(map(len, self.kept.values()))

    def do(self, channel: int, count: int = 1) -> None:
        """Do what was asked for first on a channel."""
        for _ in range(min(count, len(self.kept[channel]))):
            link, method = self.kept[channel].popleft()
            binds = isinstance(method, Queue.Bind)
            self.under_way.pop(method.routing_key, None)
            if binds:
                self.order.append(method.routing_key)
            (super()._on_queue_bind if binds else super()._on_queue_unbind)(
                link, channel, method, b""
            )

    def do_all(self) -> None:
        """Do all that was asked for, channel by channel."""
        for channel in list(self.kept):
            self.do(channel, len(self.kept[channel]))

    def _keep(self, link: Link, channel: int, method: Any) -> None:
        key = method.routing_key
        if self.under_way.setdefault(key, channel) != channel:
            self.crossed.append(key)
        self.kept[channel].append((link, method))
        self.most_busy = max(self.most_busy, sum(map(bool, self.kept.values())))
        if not self.holds or key.startswith("!"):
            self.do(channel, len(self.kept[channel]))

    def _on_channel_open(self, link: Link, channel: int, method: Channel.Open, body: bytes) -> None:
        self.open.add(channel)
        super()._on_channel_open(link, channel, method, body)

    def _on_channel_close(self, link: Link, channel: int, method: object, body: bytes) -> None:
        self.open.discard(channel)
        assert not self.kept[channel], "closed over what is under way"
        super()._on_channel_close(link, channel, method, body)

    def _on_queue_bind(self, link: Link, channel: int, method: Queue.Bind, body: bytes) -> None:
        self._keep(link, channel, method)

    def _on_queue_unbind(self, link: Link, channel: int, method: Queue.Unbind, body: bytes) -> None:
        self._keep(link, channel, method)


@pytest.fixture
def rabbit() -> SlowRabbit:
    """The server."""
    return SlowRabbit()


@pytest.fixture
async def port(rabbit: SlowRabbit) -> AsyncIterator[int]:
    """The port of the running server."""
    async with running(rabbit) as number:
        yield number


class FixedPace(Pace):
    """As many channels as a test says."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def answered(self, count: int, now: float, most: int = 0) -> None:
        """Measure nothing."""


async def start(port: int, channels: int) -> Topology:
    """A topology without groups, whose bursts have so many channels."""
    protocol = Protocol(endpoint(port), asyncio.get_running_loop())
    await connect(protocol)
    topology = Topology(
        protocol,
        Options.from_config({}),
        QueueNames(newest="channels_test"),
        lambda *delivery: None,
        lambda *oversized: None,
        pace=FixedPace(channels),
    )
    await topology.open([])
    await topology.start()
    return topology


def keys(count: int) -> list[str]:
    """So many routing keys."""
    return [f"room{number}" for number in range(count)]


@pytest.mark.parametrize("channels", [1, 8, 64])
@pytest.mark.parametrize("server", ["slow", "fast", "out of step"])
async def test_burst(rabbit: SlowRabbit, port: int, channels: int, server: str) -> None:
    """All are bound, over no more channels than the pace allows, few under way on each.

    A channel of a burst is closed after it, whatever the order that the server works in.
    """
    drawn = random.Random(channels)
    topology = await start(port, channels)
    standing = set(rabbit.open)
    rabbit.holds = server != "fast"
    joined = [topology.bindings.join(key) for key in keys(1000)]
    in_flight = 2 * channels * batch_size(channels)
    done = asyncio.gather(*joined)
    if rabbit.holds:
        expected = min(1000, in_flight)
        await until(lambda: rabbit.asked == expected)
        assert topology.bindings.unconfirmed == 1000
        assert rabbit.most_busy == channels == topology.bindings.channels
    most = 0
    while not done.done():
        busy = [channel for channel, kept in rabbit.kept.items() if kept]
        most = max(most, rabbit.asked, *(len(kept) for kept in rabbit.kept.values()))
        if server == "slow" and busy:
            rabbit.do(min(busy), 4)
        elif server == "out of step" and busy:
            rabbit.do(drawn.choice(busy), drawn.randrange(1, 9))
        await asyncio.sleep(0)
    assert most <= in_flight
    assert rabbit.most_busy <= channels
    assert not rabbit.crossed
    assert set(rabbit.bound()) == set(keys(1000))
    assert topology.bindings.unconfirmed == 0
    await until(lambda: rabbit.open == standing)
    assert topology.bindings.channels == 1


async def test_no_more_channels_than_needed(rabbit: SlowRabbit, port: int) -> None:
    """Few bindings have few channels, however many the server rewards; a lone one has none."""
    topology = await start(port, 128)
    standing = len(rabbit.open)
    await topology.bindings.join("lone")
    assert len(rabbit.open) == standing
    rabbit.holds = True
    for key in keys(40):
        topology.bindings.bind(key)
    await until(lambda: rabbit.asked == 40)
    assert topology.bindings.channels == 40 // 8
    rabbit.do_all()
    await until(lambda: topology.bindings.unconfirmed == 0)


async def test_channel_max(rabbit: SlowRabbit, port: int) -> None:
    """A burst takes a quarter of what RabbitMQ allows at most, and what users leave of it."""
    rabbit.channel_max = 32
    topology = await start(port, 128)
    taken = [topology.protocol.open_channel() for _ in range(32 - 3 - 2)]
    rabbit.holds = True
    for key in keys(500):
        topology.bindings.bind(key)
    await until(lambda: rabbit.asked)
    assert topology.bindings.channels <= 4
    for channel in taken:
        channel.close()
    rabbit.holds = False
    rabbit.do_all()
    await until(lambda: topology.bindings.unconfirmed == 0)
    assert rabbit.most_busy <= 8
    assert not topology.ended.done()


async def test_first_come_first_served(rabbit: SlowRabbit, port: int) -> None:
    """Whoever joined first is bound first, up to what is under way at a time."""
    topology = await start(port, 4)
    rabbit.holds = True
    for key in keys(400):
        topology.bindings.bind(key)
    while topology.bindings.unconfirmed:
        for channel in list(rabbit.kept):
            rabbit.do(channel, batch_size(4))
        await asyncio.sleep(0.001)
    places = {key: place for place, key in enumerate(rabbit.order)}
    in_flight = 2 * 4 * batch_size(4)
    assert all(abs(places[key] - number) < in_flight for number, key in enumerate(keys(400)))


async def test_joins_and_leaves_do_not_overtake(
    rabbit: SlowRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked for, in whatever order channels are served, the last word counts."""
    drawn = random.Random(0)
    topology = await start(port, 8)
    rabbit.holds = True
    wanted = set()
    for _ in range(3000):
        key = f"room{drawn.randrange(60)}"
        if drawn.random() < 0.5:
            topology.bindings.bind(key)
            wanted.add(key)
        else:
            topology.bindings.leave(key)
            wanted.discard(key)
        busy = [channel for channel, kept in rabbit.kept.items() if kept]
        if busy and drawn.random() < 0.7:
            rabbit.do(drawn.choice(busy), drawn.randrange(1, 6))
        if drawn.random() < 0.5:
            await asyncio.sleep(0)
    rabbit.holds = False
    rabbit.do_all()
    await until(lambda: topology.bindings.idle)
    assert not rabbit.crossed
    assert set(rabbit.bound()) == wanted
    assert max(Counter(rabbit.order).values()) > 1


async def test_error_on_one_channel(rabbit: SlowRabbit, port: int) -> None:
    """It ends the topology: what waits fails with the reason, to be done on the next one."""
    topology = await start(port, 16)
    rabbit.refuse = lambda method: (
        (403, "ACCESS_REFUSED")
        if isinstance(method, Queue.Bind) and method.routing_key == "room70"
        else None
    )
    joined = [topology.bindings.join(key) for key in keys(100)]
    results = await asyncio.gather(*joined, return_exceptions=True)
    assert isinstance(topology.ended.result(), AccessRefused)
    assert {type(result) for result in results} <= {type(None), AccessRefused}
    with pytest.raises(AccessRefused):
        await topology.bindings.join("late")


async def test_joins_go_before_leaves(
    rabbit: SlowRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unbinding waits until nobody waits for a binding."""
    monkeypatch.setattr(module, "LINGER", 0.0)
    topology = await start(port, 2)
    await asyncio.gather(*map(topology.bindings.join, keys(200)))
    rabbit.methods.clear()
    rabbit.holds = True
    for key in keys(200):
        topology.bindings.leave(key)
        topology.bindings.bind(f"other-{key}")
    while len(rabbit.bound()) < 400:
        rabbit.do_all()
        await asyncio.sleep(0)
    assert not rabbit.seen(Queue.Unbind)
    rabbit.holds = False
    await until(lambda: topology.bindings.idle)
    assert len(rabbit.bound()) == 200


async def test_lingering(rabbit: SlowRabbit, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is left and joined again within seconds costs RabbitMQ nothing."""
    monkeypatch.setattr(module, "LINGER", 0.2)
    topology = await start(port, 1)
    await topology.bindings.join("room")
    for _ in range(10):
        topology.bindings.leave("room")
        assert topology.bindings.lingering == 1
        await topology.bindings.join("room")
    assert topology.bindings.lingering == 0
    assert len(rabbit.seen(Queue.Bind)) == 1
    topology.bindings.leave("room")
    await until(lambda: not rabbit.bound())
    assert len(rabbit.seen(Queue.Unbind)) == 1
    assert topology.bindings.lingering == 0


async def test_want_only(rabbit: SlowRabbit, port: int) -> None:
    """Keys are bound once for all who ask; those that are not wanted are unbound."""
    topology = await start(port, 1)
    await asyncio.gather(topology.bindings.join("a"), topology.bindings.join("a"))
    assert [bind.routing_key for bind in rabbit.seen(Queue.Bind)] == ["a"]
    topology.bindings.leave("never there")
    topology.bindings.want_only(["b", "c"])
    await topology.bindings.wait_settled(10)
    await until(lambda: topology.bindings.idle)
    assert rabbit.bound() == {"b": ["channels_test"], "c": ["channels_test"]}
    assert [unbind.routing_key for unbind in rabbit.seen(Queue.Unbind)] == ["a"]
    assert repr(topology.bindings).startswith("<Bindings over 1 channels: <BindingTable: 2")


async def test_rests_while_the_server_is_slow(
    rabbit: SlowRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an overdue answer nothing is asked for, then one binding, then four, then all."""
    monkeypatch.setattr(contention, "LEAST_PATIENCE", 0.1)
    topology = await start(port, 1)
    rabbit.holds = True
    joins = [topology.bindings.join(f"new{number}") for number in range(100)]
    under_way = 2 * batch_size(1)
    await until(lambda: rabbit.asked == under_way)
    await until(lambda: topology.bindings.rests)
    monkeypatch.setattr(contention, "LEAST_PATIENCE", 600.0)
    rabbit.do(next(channel for channel, kept in rabbit.kept.items() if kept), under_way - 1)
    await until(lambda: sum(map(asyncio.Future.done, joins)) >= under_way // 2)
    assert (topology.bindings.rests, rabbit.asked) == (True, 1), "it asks while it rests"
    for expected in (1, 4, 16):
        rabbit.do_all()
        await until(lambda expected=expected: rabbit.asked >= expected)  # type: ignore[misc]
        assert rabbit.asked == expected
    rabbit.holds = False
    rabbit.do_all()
    await asyncio.wait_for(asyncio.gather(*joins), 10)


async def test_unbinds_after_a_rest(
    rabbit: SlowRabbit, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody needs goes after a rest, too, though few bindings were made since.

    Unbinding once waited for some twenty new groups then: for ever, in a process without any.
    """
    monkeypatch.setattr(contention, "LEAST_PATIENCE", 0.1)
    monkeypatch.setattr(module, "LINGER", 0.1)
    topology = await start(port, 1)
    rabbit.holds = True
    names = keys(2 * batch_size(1) + 1)
    joins = [topology.bindings.join(name) for name in names]
    await until(lambda: topology.bindings.rests)
    rabbit.holds = False
    rabbit.do_all()
    await asyncio.wait_for(asyncio.gather(*joins), 10)
    for name in names:
        topology.bindings.leave(name)
    await until(lambda: topology.bindings.idle)
    assert not rabbit.bound()
