"""``statistics()`` on a real connection: every number is true, and they add up."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotConnected
from channels_rabbitmq.statistics import Statistics
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.connections import loop_in_thread
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.readers import cancelled_as_it_comes
from tests.helpers.waiting import until


def checked(layer: RabbitmqChannelLayer) -> Statistics:
    """The layer's numbers, which add up."""
    numbers = layer.statistics()
    assert numbers.published == (
        numbers.confirmed + numbers.refused + numbers.unconfirmed + numbers.under_way
    )
    assert numbers.copies == (
        numbers.delivered
        + numbers.expired
        + sum(numbers.dropped.values())
        + numbers.given_back
        + numbers.unread
    )
    assert min(value for value in numbers.dropped.values()) >= 0
    return numbers


async def test_messages(make_layer: MakeLayer) -> None:
    """What is sent, received and waiting is counted, in messages and in copies."""
    layer = make_layer()
    first, second = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", first)
    await layer.group_add("room", second)
    await layer.send(first, {"n": 0})
    for number in range(3):
        await layer.group_send("room", {"n": number})
    await until(lambda: checked(layer).received == 4)
    numbers = checked(layer)
    assert (numbers.published, numbers.confirmed, numbers.under_way) == (4, 4, 0)
    assert (numbers.refused, numbers.unconfirmed, numbers.unsent) == (0, 0, 0)
    assert (numbers.copies, numbers.delivered, numbers.unread, numbers.waiting) == (7, 0, 7, 4)
    assert (numbers.channels, numbers.groups, numbers.bindings) == (2, 1, 1)
    assert (numbers.bindings_pending, numbers.local_capacity) == (0, 100)
    assert numbers.oldest_waiting >= 0
    for _ in range(4):
        await layer.receive(first)
    numbers = checked(layer)
    assert (numbers.delivered, numbers.unread, numbers.waiting) == (4, 3, 3)
    for _ in range(3):
        await layer.receive(second)
    await layer.group_discard("room", first)
    await layer.group_discard("room", second)
    numbers = checked(layer)
    assert (numbers.delivered, numbers.unread, numbers.waiting) == (7, 0, 0)
    assert (numbers.channels, numbers.groups, numbers.oldest_waiting) == (0, 0, 0.0)
    assert (numbers.bindings, numbers.bindings_lingering) == (1, 1)
    assert not any(numbers.dropped.values())


async def test_normal_channels(make_layer: MakeLayer) -> None:
    """Normal channels' messages are counted by who sends and by who receives."""
    layer, other = make_layer(), make_layer()
    for number in range(3):
        await layer.send("jobs", {"n": number})
    assert (checked(layer).published, checked(layer).confirmed) == (3, 3)
    assert checked(layer).received == 0
    for _ in range(3):
        await other.receive("jobs")
    numbers = checked(other)
    assert (numbers.received, numbers.copies, numbers.delivered) == (3, 3, 3)
    assert (numbers.published, numbers.waiting) == (0, 0)


async def test_state(make_layer: MakeLayer, proxy: Proxy, broker: Broker, vhost: str) -> None:
    """What it says of the connection is so before the first, on it, after it, and when closed."""
    layer = make_layer(host=proxy.url, send_timeout=0.5)
    numbers = checked(layer)
    assert (numbers.connected, numbers.connected_since, numbers.disconnected_since) == (
        False,
        None,
        None,
    )
    assert (numbers.address, numbers.bytes_in, numbers.bytes_out) == (None, 0, 0)
    assert numbers.queue_name == layer.queue_name
    assert numbers.connection_name == layer.connection_name
    before = time.time()
    await layer.current_connection
    numbers = checked(layer)
    assert numbers.connected
    assert numbers.receiving
    assert numbers.connected_since is not None
    assert before - 1 <= numbers.connected_since <= time.time() + 1
    assert (numbers.disconnected_since, numbers.reconnections) == (None, 0)
    assert numbers.address is not None
    assert numbers.address.endswith(vhost)
    assert "guest" not in repr(numbers)
    assert numbers.bytes_in > 0
    await until(lambda: checked(layer).bytes_out == proxy.bytes_up > 0)

    await proxy.refuse()
    proxy.cut()
    await until(lambda: not checked(layer).connected)
    numbers = checked(layer)
    assert numbers.connected_since is None
    assert not numbers.receiving
    assert numbers.disconnected_since is not None
    assert (numbers.reconnections, numbers.address, numbers.bindings) == (0, None, 0)
    assert not numbers.blocked
    waiting = asyncio.ensure_future(layer.current_connection)
    await until(lambda: checked(layer).calls_waiting == 1)
    await until(lambda: checked(layer).failed_connections > 0)
    assert checked(layer).disconnected_since == numbers.disconnected_since
    await proxy.accept()
    await waiting
    assert (checked(layer).reconnections, checked(layer).calls_waiting) == (1, 0)

    await layer.close()
    numbers = checked(layer)
    assert (numbers.closed, numbers.connected, numbers.disconnected_since) == (True, False, None)
    assert numbers.reconnections == 1
    assert numbers.queue_name == layer.queue_name


async def test_reconnections_are_counted_first(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A connection is counted before anybody gets it."""
    layer = make_layer(host=proxy.url)
    await layer.current_connection
    for count in range(1, 4):
        proxy.cut()
        await until(lambda: not layer.statistics().connected)
        await layer.current_connection
        assert layer.statistics().reconnections == count


async def test_refused(make_layer: MakeLayer) -> None:
    """Messages that a full process does not take are refused ones, by either way of sending."""
    layer, full = make_layer(), make_layer(local_capacity=1, remote_capacity=1)
    channel = await full.new_channel()
    await full.group_add("room", channel)
    refused = 0
    while refused < 3:
        try:
            await layer.send(channel, {})
        except ChannelFull:
            refused += 1
    assert checked(layer).refused == 3
    await layer.group_send("room", {})
    numbers = checked(layer)
    assert (numbers.refused, numbers.unconfirmed, numbers.unsent) == (4, 0, 0)
    assert numbers.confirmed == numbers.published - 4


async def test_outage(make_layer: MakeLayer, proxy: Proxy) -> None:
    """What was on its way as the connection ended is not confirmed; what came later is not sent."""
    layer = make_layer(host=proxy.url, send_timeout=0.5)
    channel = await layer.new_channel()
    await layer.send(channel, {})
    proxy.freeze()
    sends = [asyncio.ensure_future(layer.send(channel, {})) for _ in range(5)]
    await until(lambda: checked(layer).under_way == 5)
    await proxy.refuse()
    proxy.cut()
    for result in await asyncio.gather(*sends, return_exceptions=True):
        assert isinstance(result, NotConnected)
        assert result.sent
    numbers = checked(layer)
    assert (numbers.published, numbers.confirmed, numbers.unconfirmed) == (6, 1, 5)
    with pytest.raises(NotConnected):
        await layer.send(channel, {})
    await layer.group_send("room", {})
    with pytest.raises(NotConnected):
        await layer.send("jobs", {})
    numbers = checked(layer)
    assert (numbers.published, numbers.unsent) == (6, 3)


async def test_late_confirms(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A message whose confirm comes after send_timeout stays one that was not confirmed."""
    layer = make_layer(host=proxy.url, send_timeout=0.4)
    channel = await layer.new_channel()
    await layer.current_connection
    proxy.freeze()
    with pytest.raises(NotConnected):
        await layer.send(channel, {"n": 1})
    assert (checked(layer).unconfirmed, checked(layer).under_way) == (1, 0)
    proxy.thaw()
    assert await layer.receive(channel) == {"n": 1}
    await layer.send(channel, {"n": 2})
    numbers = checked(layer)
    assert (numbers.published, numbers.confirmed, numbers.unconfirmed) == (2, 1, 1)


async def test_cancelled_sends(make_layer: MakeLayer) -> None:
    """A send whose caller leaves is confirmed all the same."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.current_connection
    sending = asyncio.create_task(layer.send(channel, {}))
    await until(lambda: checked(layer).published == 1, step=0)
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    await until(lambda: checked(layer).confirmed == 1)


async def test_a_deleted_queue_of_a_normal_channel(
    make_layer: MakeLayer, broker: Broker, vhost: str
) -> None:
    """A message that comes back, as its queue was deleted, counts as refused, and is sent anew."""
    layer = make_layer()
    await layer.send("jobs", {})
    (name,) = [name for name in await rabbit.queue_names(broker, vhost) if "jobs" in name]
    await rabbit.api(broker, "DELETE", f"queues/{vhost}/{name}")
    await layer.send("jobs", {})
    numbers = checked(layer)
    assert (numbers.published, numbers.confirmed, numbers.refused) == (3, 2, 1)


@pytest.mark.slow
async def test_blocked(make_layer: MakeLayer, broker: Broker) -> None:
    """An alarm is to be seen, with RabbitMQ's reason; what is sent meanwhile is not."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {})
    async with rabbit.memory_alarm(broker):
        with contextlib.suppress(NotConnected):  # RabbitMQ tells who publishes
            await layer.send(channel, {})
        await until(lambda: checked(layer).blocked)
        numbers = checked(layer)
        assert numbers.blocked_reason == "low on memory"
        assert numbers.connected
        with pytest.raises(NotConnected):
            await layer.send(channel, {})
        assert checked(layer).unsent == numbers.unsent + 1
    await until(lambda: not checked(layer).blocked)
    assert checked(layer).blocked_reason is None


async def test_drops(make_layer: MakeLayer) -> None:
    """Each drop is counted under its cause."""
    layer = make_layer(local_capacity=5, local_expiry=0.3, channel_capacity={"*!small*": 1})
    connection = await layer.current_connection
    channel = await layer.new_channel()
    await connection.publish(b"no message", routing_key=layer.queue_name)
    await until(lambda: checked(layer).dropped["bad_message"] == 1)
    assert (checked(layer).received, checked(layer).copies) == (1, 1)

    small = f"{layer.queue_name}!small"
    await layer.send(small, {"n": 1})
    await layer.send(small, {"n": 2})
    await until(lambda: checked(layer).dropped["channel_capacity"] == 1)
    assert await layer.receive(small) == {"n": 2}

    await layer.send(channel, {})
    await until(lambda: checked(layer).expired == 1)
    assert checked(layer).unread == 0

    await layer.send(channel, {})
    await until(lambda: checked(layer).unread == 1)
    await layer.flush()
    assert checked(layer).dropped["flush"] == 1

    await layer.send(channel, {})
    await until(lambda: checked(layer).unread == 1)
    await layer.close()
    numbers = checked(layer)
    assert numbers.dropped["close"] == 1
    assert (numbers.waiting, numbers.unread, numbers.groups, numbers.channels) == (0, 0, 0, 0)
    assert numbers.received == 6


async def test_lagging(make_layer: MakeLayer) -> None:
    """What a channel that lags loses to the others is counted under local_capacity."""
    layer, sender = make_layer(local_capacity=4), make_layer()
    await layer.current_connection
    slow, quick = await layer.new_channel(), await layer.new_channel()
    reading = asyncio.create_task(layer.receive(quick))
    for _ in range(8):
        await sender.send(slow, {})
    await sender.send(quick, {})
    await reading
    assert checked(layer).dropped["local_capacity"] >= 1
    await until(lambda: checked(layer).received == 9)


async def test_too_large(make_layer: MakeLayer) -> None:
    """A message larger than max_message_size is counted where it is dropped."""
    layer, sender = make_layer(max_message_size=1000), make_layer()
    await sender.send(await layer.new_channel(), {"data": bytes(2000)})
    await layer.current_connection
    channel = await layer.new_channel()
    await sender.send(channel, {"data": bytes(2000)})
    await until(lambda: checked(layer).dropped["too_large"] >= 1)


async def test_returned_copies(make_layer: MakeLayer) -> None:
    """A message whose reader on another loop was cancelled as it got it is counted anew."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.current_connection
    with loop_in_thread() as other:
        for number in range(50):
            message = {"n": number}
            assert await cancelled_as_it_comes(layer, channel, message, other) == message
    numbers = checked(layer)
    assert numbers.received == 50
    assert numbers.copies == numbers.delivered >= 50


async def test_on_many_threads(make_layer: MakeLayer) -> None:
    """Threads that ask while messages pass get numbers that only grow, and never an error."""
    layer = make_layer(local_capacity=1000, remote_capacity=1000)
    await layer.current_connection
    stop = threading.Event()

    def ask() -> int:
        asked, last = 0, layer.statistics()
        while not stop.is_set():
            numbers = layer.statistics()
            asked += 1
            assert numbers.received >= last.received
            assert numbers.delivered >= last.delivered
            assert numbers.published >= last.published
            last = numbers
        return asked

    async def pass_on(channel: str) -> None:
        await layer.group_add(f"group.{channel.partition('!')[2]}", channel)
        for number in range(20):
            await layer.send(channel, {"n": number})
            await layer.receive(channel)

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        try:
            await asyncio.gather(*[pass_on(await layer.new_channel()) for _ in range(50)])
        finally:
            stop.set()
        assert all(each.result() > 0 for each in asking)
    numbers = checked(layer)
    assert (numbers.published, numbers.received, numbers.delivered) == (1000, 1000, 1000)
    assert numbers.groups == numbers.bindings == 50


def test_across_loops(amqp_url: str) -> None:
    """The counts go along as the layer moves from loop to loop, which is a reconnection."""
    layer = RabbitmqChannelLayer(amqp_url)

    async def pass_one() -> Statistics:
        channel = await layer.new_channel()
        await layer.send(channel, {})
        await layer.receive(channel)
        return checked(layer)

    for number in range(1, 4):
        numbers = asyncio.run(pass_one())
        assert (numbers.published, numbers.confirmed, numbers.received) == (number,) * 3
        assert numbers.reconnections == number - 1
        assert not checked(layer).connected
    async_to_sync(layer.close)()
    assert checked(layer).published == 3


async def test_it_is_plain_data(make_layer: MakeLayer) -> None:
    """It cannot be changed, does not change by itself, and can be written as JSON."""
    layer = make_layer()
    channel = await layer.new_channel()
    numbers = layer.statistics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        numbers.published = 5  # type: ignore[misc]
    await layer.send(channel, {})
    assert numbers.published == 0
    assert layer.statistics().published == 1
    assert json.loads(json.dumps(dataclasses.asdict(numbers)))["queue_name"] == layer.queue_name
    assert isinstance(numbers.dropped, dict)
    numbers.dropped["flush"] += 1
    assert layer.statistics().dropped["flush"] == 0
