"""The layer always comes back, with all that it had, however the connection was lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

import pamqp.commands
import pytest

from channels_rabbitmq.broker import topology
from channels_rabbitmq.connection import Connection
from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import ConnectionClosedByHeartbeatMonitor, NotConnected
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


async def works(layer: RabbitmqChannelLayer, *channels: str) -> None:
    """Check, with patience, that messages to the group "room" and to channels arrive."""
    for channel in channels:
        receiving = asyncio.create_task(layer.receive(channel))
        for _ in range(200):
            with contextlib.suppress(NotConnected):
                await layer.send(channel, {"works": True})
            done, _pending = await asyncio.wait({receiving}, timeout=0.1)
            if done:
                break
        assert (await asyncio.wait_for(receiving, 1)) == {"works": True}


async def test_receive_waits_through_an_outage(
    make_layer: MakeLayer, broker: Broker, vhost: str
) -> None:
    """A receive() that waits while the server closes the connection gets what follows."""
    layer = make_layer()
    channel = await layer.new_channel()
    receiving = asyncio.create_task(layer.receive(channel))
    first = await layer.current_connection
    await rabbit.close_connections(broker, vhost)
    await until(lambda: first.closed.done())
    second = await layer.current_connection
    assert second is not first
    await layer.send(channel, {"n": 1})
    assert await receiving == {"n": 1}


async def test_everything_is_restored(make_layer: MakeLayer, broker: Broker, vhost: str) -> None:
    """After a reconnection the queue has its name, and every group its binding."""
    layer = make_layer()
    channels = [await layer.new_channel() for _ in range(50)]
    await asyncio.gather(
        *(layer.group_add(f"room{n}", channel) for n, channel in enumerate(channels))
    )
    before = await rabbit.bindings(broker, vhost)
    assert len(before) == 50
    first = await layer.current_connection
    await rabbit.close_connections(broker, vhost)
    await until(lambda: first.closed.done())
    await layer.current_connection
    assert await rabbit.bindings(broker, vhost) == before
    for number, channel in enumerate(channels):
        await layer.group_send(f"room{number}", {"n": number})
        assert await layer.receive(channel) == {"n": number}


async def test_cut_connection_is_back_soon(make_layer: MakeLayer, proxy: Proxy) -> None:
    """When the socket is cut, groups receive again within about a second."""
    layer = make_layer(host=proxy.url)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    started = time.monotonic()
    proxy.cut()
    await until(lambda: proxy.accepted == 2)
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
    assert time.monotonic() - started < 3


async def test_many_cuts(make_layer: MakeLayer, proxy: Proxy) -> None:
    """The layer survives one cut after the other, also while it is connecting."""
    layer = make_layer(host=proxy.url)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for _ in range(3):
        accepted = proxy.accepted
        proxy.cut()
        await until(lambda accepted=accepted: proxy.accepted > accepted)  # type: ignore[misc]
    await works(layer, channel)


async def test_unread_messages_stay_readable(
    make_layer: MakeLayer, broker: Broker, vhost: str
) -> None:
    """Messages that were in memory when the connection ended can still be read."""
    layer = make_layer()
    channel = await layer.new_channel()
    for number in range(3):
        await layer.send(channel, {"n": number})
    assert await layer.receive(channel) == {"n": 0}
    first = await layer.current_connection
    await rabbit.close_connections(broker, vhost)
    await until(lambda: first.closed.done())
    await layer.current_connection
    await layer.send(channel, {"n": 3})
    assert [(await layer.receive(channel))["n"] for _ in range(3)] == [1, 2, 3]


async def test_operator_deletes_the_queue(
    make_layer: MakeLayer, broker: Broker, vhost: str
) -> None:
    """When an operator deletes the queue, the layer makes it again and receives."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    first = await layer.current_connection
    await rabbit.ctl(broker, "delete_queue", "--vhost", vhost, layer.queue_name)
    await until(lambda: first.closed.done())
    await layer.group_send("room", {"n": 1})
    await layer.send(channel, {"n": 2})
    assert [(await layer.receive(channel))["n"] for _ in range(2)] == [1, 2]


async def test_operator_deletes_the_exchange(
    make_layer: MakeLayer, broker: Broker, vhost: str
) -> None:
    """When an operator deletes the groups exchange, it is made again and groups go on."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    first = await layer.current_connection
    await rabbit.api(broker, "DELETE", f"exchanges/{vhost}/groups")
    await layer.group_send("room", {"n": "lost"})
    await until(lambda: first.closed.done())
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


async def test_a_deaf_process_finds_out(
    make_layer: MakeLayer,
    broker: Broker,
    vhost: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A process that only receives notices that its exchange was deleted, made again or not."""
    monkeypatch.setattr(topology, "_VERIFY", (0.2, 0.2))
    receiver = make_layer()
    channel = await receiver.new_channel()
    await receiver.group_add("room", channel)
    for made_again in (False, True):
        first = await receiver.current_connection
        await rabbit.api(broker, "DELETE", f"exchanges/{vhost}/groups")
        if made_again:
            same = {"type": "direct", "durable": False}
            await rabbit.api(broker, "PUT", f"exchanges/{vhost}/groups", same)
        await until(lambda first=first: first.closed.done())  # type: ignore[misc]
        assert "no group's messages arrive" in caplog.text
        await receiver.current_connection
        await make_layer().group_send("room", {"n": 1})
        assert await receiver.receive(channel) == {"n": 1}


@pytest.fixture
def short_consumer_timeout(broker: Broker) -> Iterator[None]:
    """RabbitMQ closes channels over deliveries that were not acknowledged for half a second."""
    settings = {"consumer_timeout": 500, "channel_tick_interval": 200}
    usual = broker.ctl("eval", "element(2, application:get_env(rabbit, consumer_timeout)).").strip()
    set_env(broker, settings)
    yield
    set_env(broker, {"consumer_timeout": int(usual), "channel_tick_interval": 60000})


def set_env(broker: Broker, settings: dict[str, int]) -> None:
    """Change settings of the running broker."""
    calls = (f"application:set_env(rabbit, {name}, {value})" for name, value in settings.items())
    broker.ctl("eval", f"{', '.join(calls)}.")


@pytest.mark.usefixtures("short_consumer_timeout")
async def test_consumer_timeout(
    broker: Broker, make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """When the server closes the consumer's channel over a slow acknowledgement, all goes on."""
    if broker.version >= (4, 3):
        pytest.skip("RabbitMQ 4.3 closes no channel over a slow acknowledgement")
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    first = await layer.current_connection
    await layer.send(channel, {"n": "not read"})
    await until(lambda: first.closed.done())
    assert "PRECONDITION_FAILED" in caplog.text
    assert await layer.receive(channel) == {"n": "not read"}
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


async def test_consumer_lost_without_a_word(
    make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue whose consumer the server forgot, without saying so, is noticed."""
    monkeypatch.setattr(topology, "_VERIFY", (0.1, 0.1))
    layer = make_layer()
    channel = await layer.new_channel()
    first = await layer.current_connection
    # What some versions of RabbitMQ do by mistake, our side can ask for.
    first.protocol._channels[3].call(pamqp.commands.Basic.Cancel(first.protocol.consumer_tag))
    await until(lambda: first.closed.done())
    await layer.send(channel, {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


async def test_crashed_broker(make_layer: MakeLayer, broker: Broker) -> None:
    """The layer comes back to a broker that crashed and was started again."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(broker.restart)
    connection = await asyncio.wait_for(_await(layer.current_connection), 40)
    assert not connection.closed.done()
    await layer.group_send("room", {"n": 1})
    assert await asyncio.wait_for(receiving, 10) == {"n": 1}


async def _await(awaitable: object) -> Connection:
    return await awaitable  # type: ignore[misc, no-any-return]


async def test_silent_server_is_given_up(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A server that falls silent is noticed by its missing heartbeats."""
    layer = make_layer(host=f"{proxy.url}?heartbeat=1")
    channel = await layer.new_channel()
    first = await layer.current_connection
    proxy.freeze()
    await until(lambda: first.closed.done())
    assert isinstance(first.closed.exception(), ConnectionClosedByHeartbeatMonitor)
    proxy.thaw()
    await works(layer, channel)


async def test_idle_connection_stays(make_layer: MakeLayer, proxy: Proxy) -> None:
    """Heartbeats keep a connection on which nothing happens."""
    layer = make_layer(host=f"{proxy.url}?heartbeat=1")
    first = await layer.current_connection
    before = proxy.bytes_up
    # Five heartbeats, of eight bytes: for longer than RabbitMQ puts up with silence.
    await until(lambda: proxy.bytes_up - before >= 5 * 8)
    assert not first.closed.done()
    assert proxy.accepted == 1


async def test_heartbeats_may_be_off(make_layer: MakeLayer, proxy: Proxy) -> None:
    """With heartbeat=0 none is sent, and nothing turns in circles."""
    layer = make_layer(host=f"{proxy.url}?heartbeat=0")
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.current_connection
    await layer.group_send("nobody", {})  # the last of what is sent at the start has gone by then
    before, cpu = proxy.bytes_up, time.process_time()
    await asyncio.sleep(0.5)
    assert proxy.bytes_up == before
    assert time.process_time() - cpu < 0.3
    await works(layer, channel)


async def test_queue_still_held_by_the_dying_connection(
    make_layer: MakeLayer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue's name is asked for until the server has noticed the old connection's end."""
    caplog.set_level(logging.INFO)
    layer = make_layer(host=proxy.url)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    proxy.cut(broker_notices=False)
    await until(lambda: f"Waiting for RabbitMQ to release queue {layer.queue_name}" in caplog.text)
    proxy.release()
    await layer.current_connection
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


@pytest.fixture
def limited_user(broker: Broker, vhost: str) -> Iterator[str]:
    """A user who may do all but what a test takes away."""
    broker.api("PUT", "users/limited", {"password": "sesame", "tags": ""})
    permit(broker, vhost, read=".*")
    yield f"amqp://limited:sesame@127.0.0.1:{broker.plain_port}/{vhost}"
    broker.api("DELETE", "users/limited")


def permit(broker: Broker, vhost: str, *, read: str) -> None:
    """Let the limited user read what the pattern names."""
    broker.api(
        "PUT",
        f"permissions/{vhost}/limited",
        {"configure": ".*", "write": ".*", "read": read},
    )


async def test_refused_binding(
    make_layer: MakeLayer,
    broker: Broker,
    vhost: str,
    limited_user: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A binding that is refused, at first and on reconnect, is logged and tried until allowed."""
    layer = make_layer(host=limited_user, send_timeout=1)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    permit(broker, vhost, read="^channels_.*")  # not from the exchange any more
    await rabbit.close_connections(broker, vhost)
    await until(lambda: "ACCESS_REFUSED" in caplog.text)
    other = await layer.new_channel()
    await layer.group_add("other", other)  # with the membership kept
    permit(broker, vhost, read=".*")
    await asyncio.wait_for(_await(layer.current_connection), 20)
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
    await layer.group_send("other", {"n": 2})
    assert await layer.receive(other) == {"n": 2}
    assert "sesame" not in caplog.text
