"""One loop's layer, without RabbitMQ: what it does with topologies that a test makes up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import pytest

from channels_rabbitmq.broker.topology import Topology
from channels_rabbitmq.config.options import Options
from channels_rabbitmq.errors import ConnectionClosed, LoopEnded, NotConnected
from channels_rabbitmq.layer.loop_layer import LoopLayer
from channels_rabbitmq.local.queue_names import QueueNames
from channels_rabbitmq.local.state import LocalState
from channels_rabbitmq.wire.messages import CHANNEL_KEY, GROUP_KEY
from channels_rabbitmq.wire.serializers import make_codec
from tests.helpers.waiting import until

QUEUE = "channels_me"
MINE = f"{QUEUE}!a"


class Scripted(Topology):
    """A topology without a connection, whose publishes end as a test wants."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Exception | None] = self.loop.create_future()
        self.full_socket: asyncio.Event | None = None
        self.alarm: str | None = None
        #: Exchange, routing key and body of each publish that went out.
        self.published: list[tuple[str, str, bytes]] = []
        self.confirms = True
        #: Not None once the connection is lost.
        self.lost: Exception | None = None
        #: Set once the process hears of the groups that it sends to.
        self.bound = asyncio.Event()

    @property
    def usable(self) -> bool:
        return self.full_socket is None and self.alarm is None

    @property
    def blocked(self) -> str | None:
        return self.alarm

    async def wait_writable(self) -> None:
        if self.full_socket is not None:
            await self.full_socket.wait()
            self.full_socket = None

    def publish(self, exchange: str, routing_key: str, body: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self.loop.create_future()
        if self.lost is not None:
            future.set_exception(self.lost)
        else:
            self.published.append((exchange, routing_key, body))
            if self.confirms:
                self.loop.call_soon(lambda: future.done() or future.set_result(None))
        return future

    async def wait_own(self, routing_key: str) -> None:
        await self.bound.wait()

    def lose(self) -> None:
        """Lose the connection. Recovery has yet to notice."""
        self.lost = ConnectionClosed("reset by peer")
        self.ended.set_result(self.lost)


class Source:
    """Where deliveries come from: notes what is acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def ack(self, delivery_tag: int) -> None:
        self.acknowledged.append(delivery_tag)


Make = Callable[..., LoopLayer]


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Makes layers of this loop whose RabbitMQ is away; all are closed afterwards."""
    monkeypatch.setattr(logging.getLogger("channels_rabbitmq.broker.recovery"), "disabled", True)
    made = []

    def make(
        late: list[bytes] | None = None, ends: list[LoopLayer] | None = None, **config: object
    ) -> LoopLayer:
        options = Options.from_config({"host": "amqp://127.0.0.1:1", "send_timeout": 0.2, **config})
        codec = make_codec(options)
        loop_layer = LoopLayer(
            options,
            codec,
            QueueNames(newest=QUEUE),
            LocalState(options, codec.decode),
            None,
            on_end=(ends if ends is not None else []).append,
            on_late=(late if late is not None else []).append,
        )
        made.append(loop_layer)
        return loop_layer

    yield make
    for loop_layer in made:
        # Recovery has not made them.
        loop_layer.recovery.topology = loop_layer.recovery.publishing = None
        await loop_layer.close()


def encode(loop_layer: LoopLayer, kind: str, name: str, **message: object) -> bytes:
    """The body of a message."""
    return loop_layer._codec.encode(kind, name, message, 1000)


# Sending


async def test_publish(make: Make) -> None:
    """A live topology has it at once, and what is awaited is its confirmation."""
    loop_layer = make()
    loop_layer.recovery.topology = loop_layer.recovery.publishing = topology = Scripted()
    await loop_layer.publish("groups", "room", b"body")
    assert topology.published == [("groups", "room", b"body")]


async def test_publish_without_a_connection(make: Make) -> None:
    """It waits for one, at most send_timeout."""
    with pytest.raises(TimeoutError):
        await make().publish("", "queue", b"")


async def test_publish_in_a_long_outage_yields(make: Make) -> None:
    """A plain loop of sends that end at once, as the outage is long, lets others run."""
    loop_layer = make(send_timeout=0.05)
    refused = 0

    async def send_for_ever() -> None:
        nonlocal refused
        while True:
            with contextlib.suppress(TimeoutError):
                await loop_layer.publish("", "queue", b"")
            refused += 1

    sending = asyncio.create_task(send_for_ever())
    await until(lambda: refused > 10)
    loop_layer.recovery.topology = loop_layer.recovery.publishing = topology = Scripted()
    await until(lambda: topology.published)
    topology.alarm = "low on memory"
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending

    async def send_in_an_alarm() -> None:
        while topology.alarm:
            with contextlib.suppress(NotConnected):
                await loop_layer.publish("", "queue", b"")

    sending = asyncio.create_task(send_in_an_alarm())
    await asyncio.sleep(0)
    topology.alarm = None
    await asyncio.wait_for(sending, 5)


async def test_publish_whose_confirm_is_late(make: Make) -> None:
    """What was waited for before counts: the time is for the call as a whole."""
    loop_layer = make(send_timeout=0.1)
    loop_layer.recovery.topology = loop_layer.recovery.publishing = topology = Scripted()
    topology.alarm = "low on memory"
    with pytest.raises(NotConnected) as caught:
        await loop_layer.publish("", "queue", b"")
    assert not caught.value.sent
    topology.alarm = None
    topology.full_socket = asyncio.Event()
    with pytest.raises(NotConnected, match="did not read from the socket"):
        await loop_layer.publish("", "queue", b"")
    sending = asyncio.ensure_future(loop_layer.publish("", "queue", b""))
    topology.confirms = False
    await asyncio.sleep(0)
    topology.full_socket.set()
    with pytest.raises(NotConnected, match="did not confirm") as caught:
        await sending
    assert caught.value.sent


async def test_publish_during_an_alarm(make: Make) -> None:
    """It ends at once while RabbitMQ takes no publishes."""
    loop_layer = make()
    loop_layer.recovery.topology = loop_layer.recovery.publishing = topology = Scripted()
    topology.alarm = "low on memory"
    with pytest.raises(NotConnected, match="low on memory"):
        await loop_layer.publish("", "queue", b"")
    assert not topology.published


async def test_publish_to_a_socket_that_is_full(make: Make) -> None:
    """It waits until the socket takes more."""
    loop_layer = make()
    loop_layer.recovery.topology = loop_layer.recovery.publishing = topology = Scripted()
    socket = topology.full_socket = asyncio.Event()
    sending = asyncio.ensure_future(loop_layer.publish("", "queue", b"body"))
    await asyncio.sleep(0)
    assert not topology.published
    socket.set()
    await sending
    assert topology.published == [("", "queue", b"body")]


async def test_publish_on_a_lost_connection_yields(make: Make) -> None:
    """A plain loop of sends on a lost connection lets others run, and goes on with the next."""
    loop_layer = make(send_timeout=5)
    loop_layer.recovery.topology = loop_layer.recovery.publishing = lost = Scripted()
    lost.lose()
    sent = 0

    async def send_for_ever() -> None:
        nonlocal sent
        while True:
            await loop_layer.publish("", "queue", b"body")
            sent += 1

    sending = asyncio.ensure_future(send_for_ever())
    for _ in range(10):
        await asyncio.sleep(0)  # would never come back if the sender did not yield
    assert sent == 0
    assert not lost.published
    loop_layer.recovery.topology = loop_layer.recovery.publishing = live = Scripted()
    await until(lambda: sent > 3)
    assert len(live.published) >= sent
    sending.cancel()


async def test_publish_that_waited_for_a_binding(make: Make) -> None:
    """Meanwhile the connection may be lost; it failed, "on its way" though nothing was written."""
    loop_layer = make(send_timeout=5)
    loop_layer.recovery.publishing = starting = Scripted()
    sending = asyncio.ensure_future(loop_layer.publish("groups", "room", b"body"))
    await asyncio.sleep(0)
    starting.lose()
    loop_layer.recovery.topology = loop_layer.recovery.publishing = live = Scripted()
    starting.bound.set()
    await sending
    assert not starting.published
    assert live.published == [("groups", "room", b"body")]


async def test_alarm_while_it_waits_for_a_binding(make: Make) -> None:
    """A publish that waited ends if RabbitMQ has an alarm by then; it went out into that."""
    loop_layer = make(send_timeout=5)
    loop_layer.recovery.publishing = starting = Scripted()
    sending = asyncio.ensure_future(loop_layer.publish("groups", "room", b"body"))
    await asyncio.sleep(0)
    starting.alarm = "low on memory"
    starting.bound.set()
    with pytest.raises(NotConnected, match="low on memory"):
        await sending
    assert not starting.published


# Deliveries


async def test_a_delivery_for_a_channel(make: Make) -> None:
    """It is in the channel's mailbox, and acknowledged when it is taken."""
    loop_layer, source = make(), Source()
    loop_layer.deliver(source, 1, False, encode(loop_layer, CHANNEL_KEY, MINE, n=1))
    assert source.acknowledged == []
    assert loop_layer.mailboxes.take(loop_layer.mailboxes.box(MINE)) == {"n": 1}
    assert source.acknowledged == [1]


@pytest.mark.parametrize(
    ("kind", "name"),
    [(CHANNEL_KEY, "channels_other!a"), (CHANNEL_KEY, "jobs"), (GROUP_KEY, "nobody"), ("x", "y")],
    ids=["another's", "normal", "group without members", "no message"],
)
async def test_a_delivery_for_nobody(
    make: Make, kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is acknowledged and dropped; with a warning, unless the last member has just left."""
    loop_layer, source = make(), Source()
    loop_layer.deliver(source, 1, False, encode(loop_layer, kind, name, n=1))
    assert source.acknowledged == [1]
    assert not len(loop_layer.mailboxes)
    assert len(caplog.records) == (kind != GROUP_KEY)


async def test_events_come_when_a_delivery_is_done(make: Make) -> None:
    """A hook that closes the layer, say, leaves nothing unacknowledged."""
    loop_layer, source = make(), Source()
    told: list[tuple[str, list[int]]] = []
    loop_layer._counts.events.hook = lambda event: told.append(
        (event.cause, source.acknowledged.copy())
    )
    good = encode(loop_layer, CHANNEL_KEY, MINE, n=1)
    loop_layer.deliver(source, 1, True, good)
    loop_layer.deliver(source, 2, False, b"bad")
    loop_layer.deliver(source, 3, False, encode(loop_layer, CHANNEL_KEY, "channels_other!a", n=1))
    loop_layer.drop_oversized(source, 4, 10**9)
    assert told == [
        ("redelivered", [1]),
        ("bad_message", [1, 2]),
        ("bad_message", [1, 2, 3]),
        ("too_large", [1, 2, 3, 4]),
    ]


async def test_what_was_delivered_before_is_dropped(make: Make) -> None:
    """At most once: RabbitMQ may have given it to somebody already."""
    loop_layer, source = make(), Source()
    loop_layer.deliver(source, 1, True, encode(loop_layer, CHANNEL_KEY, MINE, n=1))
    assert source.acknowledged == [1]
    assert not len(loop_layer.mailboxes)


async def test_a_delivery_after_the_end(make: Make) -> None:
    """It is handed on to the next owner, unacknowledged; what was redelivered is not."""
    late: list[bytes] = []
    loop_layer, source = make(late), Source()
    body = encode(loop_layer, CHANNEL_KEY, MINE, n=1)
    loop_layer.retire()
    loop_layer.deliver(source, 1, False, body)
    loop_layer.deliver(source, 2, True, body)
    assert late == [body]
    assert source.acknowledged == []
    following = make()
    following.deliver_late(body)
    assert following.mailboxes.take(following.mailboxes.box(MINE)) == {"n": 1}


# Groups


async def test_a_membership_from_another_loop_is_claimed(make: Make) -> None:
    """It stands once it is confirmed; given back before that, nothing is left."""
    loop_layer = make(send_timeout=0.01)
    other = asyncio.new_event_loop()
    other.close()
    members = loop_layer.local.memberships.members
    claim = await loop_layer.group_add("room", MINE, other)
    assert claim is not None
    loop_layer.undo_group_add("room", MINE, other, claim)
    assert not members("room")
    claim = await loop_layer.group_add("room", MINE, other)
    loop_layer.confirm_group_add("room", MINE)
    loop_layer.undo_group_add("room", MINE, other, claim)
    assert list(members("room")) == [MINE]


async def test_a_membership_from_its_own_loop_stands(make: Make) -> None:
    """There is no claim to confirm, and nothing to be undone."""
    loop_layer = make(send_timeout=0.01)
    assert await loop_layer.group_add("room", MINE, loop_layer.loop) is None
    loop_layer.undo_group_add("room", MINE, loop_layer.loop, None)
    assert list(loop_layer.local.memberships.members("room")) == [MINE]
    await loop_layer.group_discard("room", MINE)
    assert not loop_layer.local.memberships.members("room")


# The end


async def test_the_end_of_the_loop(make: Make) -> None:
    """As recovery ends with its loop's tasks, whoever waits is told to ask elsewhere, once."""
    ends: list[LoopLayer] = []
    loop_layer = make(ends=ends)
    waiting = asyncio.ensure_future(loop_layer.recovery.wait_topology())
    await asyncio.sleep(0)
    loop_layer.recovery.cancel()
    with pytest.raises(LoopEnded):
        await waiting
    assert ends == [loop_layer]
    assert loop_layer.ended
    loop_layer.retire()
    assert ends == [loop_layer]


async def test_close_twice_at_once(make: Make) -> None:
    """Everybody who closes it waits until that is done."""
    loop_layer = make()
    await asyncio.gather(loop_layer.close(), loop_layer.close())
    assert loop_layer.ended


async def test_repr(make: Make) -> None:
    """It tells how the connection is and what is held."""
    assert "connecting" in repr(make())
    assert "0 deliveries" in repr(make())
