"""``health_check()``: true exactly while RabbitMQ serves this process; it never raises."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from asgiref.sync import async_to_sync

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import ChannelClosed
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.connections import loop_in_thread
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"symmetric_encryption_keys": ["secret"]},
        {"serializer_format": "json", "prefix": "project"},
        {"local_capacity": 1, "remote_capacity": 1},
    ],
    ids=["default", "encrypted", "json", "small"],
)
async def test_healthy(make_layer: MakeLayer, options: dict[str, object]) -> None:
    """It is true with RabbitMQ there, the first time already, and many times at once."""
    layer = make_layer(**options)
    assert await layer.health_check(30) is True
    assert all(await asyncio.gather(*(layer.health_check(30) for _ in range(50))))


async def test_few_channels(make_layer: MakeLayer, amqp_url: str) -> None:
    """It needs no AMQP channel of its own where users have taken them all."""
    layer = make_layer(host=f"{amqp_url}?channel_max=20")
    protocol = (await layer.current_connection).protocol
    assert protocol is not None
    with contextlib.suppress(ChannelClosed):
        while True:
            protocol.open_channel()
    with pytest.raises(ChannelClosed, match="all 20 channels are in use"):
        protocol.open_channel()
    assert await layer.health_check(30) is True


async def test_it_leaves_no_trace(make_layer: MakeLayer, broker: Broker, vhost: str) -> None:
    """It is nobody's message: nothing is counted, held or left, and an AMQP channel serves all."""
    layer = make_layer()
    await layer.health_check(30)
    before = layer.statistics()
    for _ in range(20):
        assert await layer.health_check(30)
    after = layer.statistics()
    assert (after.published, after.received, after.copies) == (0, 0, 0)
    assert (after.waiting, after.channels, after.groups) == (0, 0, 0)
    # Cheap enough for every second.
    assert (after.bytes_out - before.bytes_out) / 20 < 300
    assert (after.bytes_in - before.bytes_in) / 20 < 300
    assert await rabbit.counts(broker, vhost, layer.queue_name) == (0, 0)


async def test_from_elsewhere(make_layer: MakeLayer) -> None:
    """It answers on another loop, in plain code on a thread, and to several of them."""
    layer = make_layer()
    await layer.current_connection
    with loop_in_thread() as other:
        checks = [
            asyncio.wrap_future(asyncio.run_coroutine_threadsafe(layer.health_check(30), other)),
            asyncio.to_thread(async_to_sync(layer.health_check), 30),
            layer.health_check(30),
        ]
        assert await asyncio.gather(*checks) == [True, True, True]


def test_in_plain_code(amqp_url: str) -> None:
    """Plain code that asks before anything else was done gets an answer; after close(), no."""
    layer = RabbitmqChannelLayer(amqp_url)
    assert async_to_sync(layer.health_check)(30) is True
    assert asyncio.run(layer.health_check(30)) is True
    async_to_sync(layer.close)()
    assert async_to_sync(layer.health_check)() is False


async def test_closed(make_layer: MakeLayer) -> None:
    """A closed layer is not healthy, used or not.

    What is under way as it is closed ends then; it took all of its time.
    """
    used, unused = make_layer(), make_layer()
    assert await used.health_check(30)
    checks = [asyncio.ensure_future(used.health_check(30)) for _ in range(5)]
    await asyncio.gather(used.close(), unused.close())
    async with asyncio.timeout(15):
        assert set(await asyncio.gather(*checks)) <= {True, False}
    assert await used.health_check(30) is False
    assert await unused.health_check(30) is False


async def test_away(make_layer: MakeLayer) -> None:
    """Where RabbitMQ is away it is false in time, and at once when that is known."""
    layer = make_layer(host="amqp://guest:guest@127.0.0.1:1", send_timeout=1)
    started = time.monotonic()
    assert await layer.health_check(0.2) is False
    assert time.monotonic() - started < 1
    await until(lambda: layer.statistics().calls_waiting == 0)
    assert await layer.health_check(30) is False
    assert await layer.health_check(30) is False
    assert time.monotonic() - started < 10


async def test_frozen(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A broker that answers nothing is not healthy within the time; it is, once it answers."""
    layer = make_layer(host=proxy.url)
    assert await layer.health_check(30)
    proxy.freeze()
    with loop_in_thread() as other:
        elsewhere = asyncio.run_coroutine_threadsafe(layer.health_check(0.3), other)
        assert await layer.health_check(0.3) is False
        assert await asyncio.wrap_future(elsewhere) is False
    proxy.thaw()
    assert await layer.health_check(20) is True


async def test_lost_connection(make_layer: MakeLayer, proxy: Proxy) -> None:
    """It is false while RabbitMQ cannot be reached, and true again without further ado."""
    layer = make_layer(host=proxy.url, send_timeout=0.3, max_reconnect_delay=0.1)
    assert await layer.health_check(30)
    await proxy.refuse()
    proxy.cut()
    await until(lambda: not layer.statistics().connected)
    assert await layer.health_check(0.5) is False
    await proxy.accept()
    await until(layer.health_check)


@pytest.mark.slow
async def test_blocked(make_layer: MakeLayer, broker: Broker) -> None:
    """While RabbitMQ takes no publishes it is false, soon and at once."""
    layer = make_layer()
    assert await layer.health_check(30)
    async with rabbit.memory_alarm(broker):
        # RabbitMQ tells who publishes.
        assert await layer.health_check(1) is False
        await until(lambda: layer.statistics().blocked)
        started = time.monotonic()
        assert await layer.health_check(30) is False
        assert time.monotonic() - started < 10
    await until(layer.health_check)


async def test_full(make_layer: MakeLayer) -> None:
    """A process whose queue is full has RabbitMQ, and is healthy: nobody is to restart it."""
    layer, sender = make_layer(local_capacity=2, remote_capacity=3), make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    while not sender.statistics().refused:
        await sender.group_send("room", {})
    assert await layer.health_check(30) is True


async def test_behind(make_layer: MakeLayer) -> None:
    """A process that has yet to read what it received is healthy, though the probe has to wait."""
    layer, sender = make_layer(local_capacity=2, remote_capacity=100), make_layer()
    channel = await layer.new_channel()
    await layer.current_connection
    for number in range(5):
        await sender.send(channel, {"n": number})
    await until(lambda: layer.statistics().waiting == 2)
    assert await layer.health_check(2) is True
    for number in range(5):
        assert await layer.receive(channel) == {"n": number}
    assert await layer.health_check(30) is True


async def test_lost_queue(make_layer: MakeLayer, broker: Broker, vhost: str) -> None:
    """A process without its queue is not healthy until it has one again."""
    layer = make_layer()
    assert await layer.health_check(30)
    checks: list[bool] = []

    async def check() -> None:
        while True:
            checks.append(await layer.health_check(0.5))

    checking = asyncio.create_task(check())
    await rabbit.close_connections(broker, vhost)
    await until(lambda: False in checks)
    await until(lambda: checks[-1])
    checking.cancel()


async def test_a_loop_that_stands_still(make_layer: MakeLayer) -> None:
    """Where the loop that has the connection is busy, another loop hears so in time."""
    with loop_in_thread() as other:
        layer = make_layer()
        started = asyncio.run_coroutine_threadsafe(layer.health_check(30), other)
        assert await asyncio.wrap_future(started) is True
        other.call_soon_threadsafe(time.sleep, 1.5)
        assert await layer.health_check(0.3) is False
        await until(layer.health_check)
        closing = asyncio.run_coroutine_threadsafe(layer.close(), other)
        await asyncio.wrap_future(closing)


async def test_cancelled(make_layer: MakeLayer, proxy: Proxy) -> None:
    """It can be cancelled, and leaves nothing behind."""
    layer = make_layer(host=proxy.url)
    assert await layer.health_check(30)
    loop_layer = layer._owner.here()
    assert loop_layer is not None
    proxy.freeze()
    checking = asyncio.create_task(layer.health_check(30))
    await until(lambda: bool(loop_layer._health._under_way))
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert not loop_layer._health._under_way
    proxy.thaw()
    assert await layer.health_check(20)


async def test_strangers_messages(make_layer: MakeLayer) -> None:
    """What somebody else writes like such a message changes nothing."""
    layer = make_layer()
    connection = await layer.current_connection
    for key in ("\xa3abc", "\xa20", "\x91\xa1a", "\xc0"):
        body = b"\x82\xb0__asgi_channel__\xa1x\xa2id" + key.encode("latin-1")
        await connection.publish(body, routing_key=layer.queue_name)
        body = b"\x82\xae__asgi_group__\xa6!probe\xa2id" + key.encode("latin-1")
        await connection.publish(body, routing_key=layer.queue_name)
    assert await layer.health_check(30)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", None, True])
async def test_bad_timeout(make_layer: MakeLayer, timeout: object) -> None:
    """A timeout that is no number of seconds is a mistake in the program, and said so."""
    layer = make_layer()
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        await layer.health_check(timeout)  # type: ignore[arg-type]


async def test_no_time(make_layer: MakeLayer) -> None:
    """Within no time nothing comes back."""
    assert await make_layer().health_check(0) is False
