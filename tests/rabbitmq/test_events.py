"""``on_event`` on a real connection: an application learns of all that its log would say."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest
from channels.exceptions import ChannelFull
from django.core.exceptions import ImproperlyConfigured

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotConnected
from channels_rabbitmq.events import Event, EventKind
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.connections import loop_in_thread
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

SECRET = "a payload that nobody else may see"

#: What the dotted path below leads to.
heard: list[Event] = []


def hear(event: Event) -> None:
    """The hook of the dotted path."""
    heard.append(event)


class Told(list[Event]):
    """Events, in order."""

    @property
    def kinds(self) -> list[str]:
        return [event.kind.value for event in self]

    def of(self, kind: EventKind) -> list[Event]:
        return [event for event in self if event.kind is kind]


async def fill(layer: RabbitmqChannelLayer, channel: str) -> None:
    """Send to a channel until it takes no more."""
    message = {"text": SECRET}
    while True:
        try:
            await layer.send(channel, message)
        except ChannelFull:
            return


@pytest.fixture
def told() -> Told:
    """What ``on_event=told.append`` is told of."""
    return Told()


async def test_connections(make_layer: MakeLayer, proxy: Proxy, told: Told, vhost: str) -> None:
    """Connections made, lost and refused are told of, the made ones before anybody has them."""
    layer = make_layer(host=proxy.url, on_event=told.append, max_reconnect_delay=0.1)
    assert told == []
    await layer.current_connection
    assert told.kinds == ["connected"]
    assert told[0].detail.endswith(vhost)
    assert told[0].connection_name == layer.connection_name
    await proxy.refuse()
    proxy.cut()
    await until(lambda: "connect_failed" in told.kinds)
    assert told.kinds[:2] == ["connected", "disconnected"]
    assert told[1].detail
    await proxy.accept()
    await layer.current_connection
    assert told.kinds[-1] == "connected"
    before = len(told)
    await layer.close()
    assert len(told) == before


async def test_sending(make_layer: MakeLayer, proxy: Proxy, told: Told) -> None:
    """Each message that RabbitMQ did not take is told of, with its channel or group."""
    layer = make_layer(host=proxy.url, on_event=told.append, send_timeout=0.3)
    full = make_layer(local_capacity=1, remote_capacity=1, capacity=1)
    channel = await full.new_channel()
    await full.group_add("room", channel)
    message = {"text": SECRET}
    await fill(layer, channel)
    await layer.group_send("room", message)
    refused = told.of(EventKind.REFUSED)
    assert [event.name for event in refused] == [channel, "room"]

    proxy.freeze()
    with pytest.raises(NotConnected):
        await layer.send(channel, message)
    await layer.group_send("room", message)
    assert [event.name for event in told.of(EventKind.UNCONFIRMED)] == [channel, "room"]
    await proxy.refuse()
    proxy.cut()
    proxy.thaw()
    for _ in range(2):
        with pytest.raises(NotConnected):
            await layer.send("jobs", message)
        await layer.group_send("room", message)
    unsent = told.of(EventKind.UNSENT)
    assert [event.name for event in unsent] == ["jobs", "room"] * 2
    assert len(unsent) == layer.statistics().unsent
    assert all(event.detail for event in unsent)
    assert SECRET not in repr(told)


async def test_a_full_normal_channel(make_layer: MakeLayer, told: Told) -> None:
    """A normal channel that stores no more is told of by its name."""
    layer = make_layer(on_event=told.append, capacity=1)
    await fill(layer, "jobs")
    assert [event.name for event in told.of(EventKind.REFUSED)] == ["jobs"]


async def test_receiving(make_layer: MakeLayer, told: Told) -> None:
    """Every copy that is dropped or expires is told of; the numbers are those of statistics()."""
    layer = make_layer(
        on_event=told.append,
        local_expiry=0.3,
        max_message_size=1000,
        channel_capacity={"*!small*": 1},
    )
    sender = make_layer()
    connection = await layer.current_connection
    await connection.publish(SECRET.encode(), routing_key=layer.queue_name)
    small, other = f"{layer.queue_name}!small", await layer.new_channel()
    for _ in range(3):
        await sender.send(small, {"text": SECRET})
    await sender.send(other, {"data": bytes(2000)})
    await sender.send(other, {"text": SECRET})
    await until(lambda: layer.statistics().expired == 2)
    await layer.send(other, {})
    await until(lambda: layer.statistics().unread == 1)
    await layer.close()

    numbers = layer.statistics()
    by_cause: Counter[str] = Counter()
    for event in told.of(EventKind.DROPPED):
        by_cause[event.cause] += event.count
    assert by_cause == Counter(numbers.dropped)
    assert by_cause == {"bad_message": 1, "channel_capacity": 2, "too_large": 1, "close": 1}
    expired = told.of(EventKind.EXPIRED)
    assert sorted(event.name for event in expired) == sorted([small, other])
    assert sum(event.count for event in expired) == numbers.expired
    assert SECRET not in repr(told)


@pytest.mark.slow
async def test_alarms(make_layer: MakeLayer, broker: Broker, told: Told) -> None:
    """The beginning and the end of an alarm are told of, once each."""
    layer = make_layer(on_event=told.append)
    channel = await layer.new_channel()
    await layer.send(channel, {})
    async with rabbit.memory_alarm(broker):
        with contextlib.suppress(NotConnected):  # RabbitMQ tells who publishes
            await layer.send(channel, {})
        await until(lambda: "blocked" in told.kinds)
        assert told.of(EventKind.BLOCKED)[0].detail == "low on memory"
        with pytest.raises(NotConnected):
            await layer.send(channel, {})
    await until(lambda: "unblocked" in told.kinds)
    assert len(told.of(EventKind.BLOCKED)) == len(told.of(EventKind.UNBLOCKED)) == 1


async def test_a_hook_that_fails(
    make_layer: MakeLayer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises, wherever, the layer goes on."""
    calls = 0

    def fail(event: Event) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("a bug of the user's")

    layer = make_layer(host=proxy.url, on_event=fail, local_expiry=0.1)
    connection = await layer.current_connection
    channel = await layer.new_channel()
    await connection.publish(b"no message", routing_key=layer.queue_name)
    await layer.send(channel, {})
    await until(lambda: layer.statistics().expired == 1)
    proxy.cut()
    await until(lambda: layer.statistics().reconnections == 1)
    await layer.send(channel, {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
    assert calls >= 5
    assert caplog.messages.count(f"[{layer.connection_name}] on_event raised an exception") == 1


async def test_the_hook_may_ask(make_layer: MakeLayer) -> None:
    """It may look at the numbers, which have the event in them already."""
    seen = []

    def look(event: Event) -> None:
        numbers = layer.statistics()
        seen.append((event.kind, numbers.reconnections, numbers.dropped["bad_message"]))

    layer = make_layer(on_event=look)
    connection = await layer.current_connection
    await connection.publish(b"no message", routing_key=layer.queue_name)
    await until(lambda: len(seen) == 2)
    assert seen == [(EventKind.CONNECTED, 0, 0), (EventKind.DROPPED, 0, 1)]


async def test_dotted_path(make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be named by its path, which is followed at the first use."""
    heard.clear()
    layer = make_layer(on_event=f"{__name__}.hear")
    await layer.current_connection
    assert [event.kind for event in heard] == [EventKind.CONNECTED]
    wrong = make_layer(on_event=f"{__name__}.nothing")
    with pytest.raises(ImproperlyConfigured, match="'on_event' must be"):
        await wrong.current_connection
    wrong = make_layer(on_event=f"{__name__}.test_dotted_path")
    with pytest.raises(ImproperlyConfigured, match="'on_event' must be a plain function"):
        await wrong.current_connection


async def test_from_another_loop(make_layer: MakeLayer, told: Told) -> None:
    """What is sent from another loop is told of there."""
    layer = make_layer(on_event=told.append)
    full = make_layer(local_capacity=1, remote_capacity=1)
    channel = await full.new_channel()
    await full.group_add("room", channel)
    await layer.current_connection
    with loop_in_thread() as other:
        filling = asyncio.run_coroutine_threadsafe(fill(layer, channel), other)
        await asyncio.wrap_future(filling)
    assert [event.name for event in told.of(EventKind.REFUSED)] == [channel]
