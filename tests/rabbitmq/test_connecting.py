"""Connecting never hangs: each address has its turn, in random order, within a time-out."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotConnected
from devtools.broker import Broker
from devtools.process import free_port
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


async def test_first_that_answers(
    make_layer: MakeLayer, amqp_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a list of URLs, dead ones are passed over, in the same round."""
    dead = [f"amqp://guest:guest@127.0.0.1:{free_port()}" for _ in range(3)]
    layer = make_layer(host=[*dead, amqp_url])
    await layer.current_connection
    assert "Cannot connect" not in caplog.text


async def test_all_are_dead(make_layer: MakeLayer, caplog: pytest.LogCaptureFixture) -> None:
    """When none answers, one line tells why of each."""
    ports = [free_port() for _ in range(2)]
    layer = make_layer(
        host=[
            *(f"amqp://u:hush@127.0.0.1:{port}" for port in ports),
            "amqp://u:hush@no-such-host.invalid",
        ]
    )
    channel = await layer.new_channel()
    receiving = asyncio.create_task(layer.receive(channel))
    await until(lambda: "Cannot connect" in caplog.text)
    (record,) = [r for r in caplog.records if "Cannot connect" in r.message]
    for port in ports:
        assert f"127.0.0.1:{port}" in record.message
    assert "no-such-host.invalid:5672" in record.message
    assert "hush" not in record.message
    receiving.cancel()


async def test_next_one_after_an_outage(make_layer: MakeLayer, amqp_url: str) -> None:
    """When the node in use goes away, the layer goes on with another one."""
    async with Proxy(amqp_url) as one, Proxy(amqp_url) as two:
        layer = make_layer(host=[one.url, two.url])
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        used, other = (one, two) if one.connections else (two, one)
        await used.refuse()
        used.cut()
        await until(lambda: other.connections == 1)
        await layer.group_send("room", {"n": 1})
        assert await layer.receive(channel) == {"n": 1}
        await layer.close()


async def test_random_order(amqp_url: str) -> None:
    """Many processes spread over the nodes."""
    async with Proxy(amqp_url) as one, Proxy(amqp_url) as two:
        layers = [RabbitmqChannelLayer([one.url, two.url]) for _ in range(20)]
        for layer in layers:
            await layer.current_connection
        assert one.accepted + two.accepted == 20
        assert min(one.accepted, two.accepted) >= 1  # but for one time in 500,000
        await asyncio.gather(*(layer.close() for layer in layers))


async def test_host_name_with_several_addresses(
    make_layer: MakeLayer, broker: Broker, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All addresses of a host name are tried; the first one need not answer."""
    port = broker.plain_port
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def getaddrinfo(host: str, *args: object, **kwargs: object) -> object:
        if host != "rabbitmq.cluster.example":
            return await resolve(host, *args, **kwargs)  # type: ignore[arg-type]
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        # Nothing listens on this port of the second and third address.
        return [(*kind, (f"127.0.0.{n}", port)) for n in (1, 2, 3)]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    for _ in range(5):
        layer = make_layer(host=f"amqp://guest:guest@rabbitmq.cluster.example:{port}/{vhost}")
        await layer.current_connection


async def test_addresses_of_localhost(make_layer: MakeLayer, broker: Broker, vhost: str) -> None:
    """A host name and an IPv6 address lead to the broker."""
    hosts = ["localhost"]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as candidate:
        candidate.bind(("::1", 0))
        hosts.append("[::1]")
    for host in hosts:
        layer = make_layer(host=f"amqp://guest:guest@{host}:{broker.plain_port}/{vhost}")
        channel = await layer.new_channel()
        await layer.send(channel, {"n": 1})
        assert await layer.receive(channel) == {"n": 1}


async def test_handshake_is_bounded(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A server that takes the TCP connection and says nothing is given up, and tried again."""
    proxy.freeze()
    layer = make_layer(host=f"{proxy.url}?connection_timeout=200")
    channel = await layer.new_channel()
    receiving = asyncio.create_task(layer.receive(channel))
    await until(lambda: proxy.accepted >= 2)
    proxy.thaw()
    await layer.current_connection
    await layer.send(channel, {"n": 1})
    assert await receiving == {"n": 1}


async def test_refused_connections(make_layer: MakeLayer, proxy: Proxy) -> None:
    """While nothing listens, the layer tries again and again, until something does."""
    await proxy.refuse()
    layer = make_layer(host=proxy.url)
    channel = await layer.new_channel()
    receiving = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.05)
    await proxy.accept()
    await layer.current_connection
    await layer.send(channel, {"n": 1})
    assert await receiving == {"n": 1}


async def test_wrong_password(
    make_layer: MakeLayer, broker: Broker, vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A password that is refused is logged in a line that does not tell it, and tried again."""
    layer = make_layer(
        host=f"amqp://guest:hush%40hush@127.0.0.1:{broker.plain_port}/{vhost}", send_timeout=0.1
    )
    channel = await layer.new_channel()
    with pytest.raises(NotConnected):
        await layer.send(channel, {})
    await until(lambda: "Cannot connect to RabbitMQ; will try again" in caplog.text)
    assert "ACCESS_REFUSED" in caplog.text
    assert "hush" not in caplog.text
