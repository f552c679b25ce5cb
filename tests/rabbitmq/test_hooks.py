"""``on_disconnect`` and ``on_reconnect`` on a real connection."""

from __future__ import annotations

import asyncio
import logging

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured

from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until


async def cut(layer: RabbitmqChannelLayer) -> None:
    """Cut the layer's connection."""
    connection = await layer.current_connection
    connection.protocol.abort()  # type: ignore[union-attr]


async def test_when_they_are_called(make_layer: MakeLayer) -> None:
    """They are told of a connection that is lost, and of the next; of no other."""
    calls = []
    loops = []

    async def back() -> None:
        loops.append(asyncio.get_running_loop())
        calls.append("back")

    layer = make_layer(on_disconnect=lambda: calls.append("lost"), on_reconnect=back)
    await layer.current_connection
    assert calls == []
    await cut(layer)
    await until(lambda: calls == ["lost", "back"])
    await cut(layer)
    await until(lambda: calls == ["lost", "back"] * 2)
    await layer.close()
    assert calls == ["lost", "back"] * 2
    assert set(loops) == {asyncio.get_running_loop()}


async def test_resynchronising(make_layer: MakeLayer) -> None:
    """on_reconnect may use the layer: the groups are there again."""

    async def resynchronise() -> None:
        await layer.group_send("g", {"type": "resynchronise"})

    layer = make_layer(on_reconnect=resynchronise)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await cut(layer)
    assert await asyncio.wait_for(layer.receive(channel), 10) == {"type": "resynchronise"}


async def test_an_exception(make_layer: MakeLayer, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the layer goes on."""

    def fail() -> None:
        raise RuntimeError("a bug of the user's")

    layer = make_layer(on_disconnect=fail, on_reconnect=fail)
    channel = await layer.new_channel()
    await layer.current_connection
    with caplog.at_level(logging.ERROR):
        await cut(layer)
        await until(lambda: caplog.text.count("a bug of the user's") >= 2)
    await layer.send(channel, {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


async def test_closing_in_a_hook(make_layer: MakeLayer) -> None:
    """A hook may end the layer."""
    closed = asyncio.Event()

    async def end() -> None:
        await layer.close()
        closed.set()

    layer = make_layer(on_disconnect=end)
    await cut(layer)
    await asyncio.wait_for(closed.wait(), 10)


async def test_a_path_that_leads_nowhere(make_layer: MakeLayer, proxy: Proxy) -> None:
    """The first use of the layer says so, on its own loop and from plain code; nothing connects."""
    layer = make_layer(host=proxy.url, on_reconnect="no.such.hook")
    with pytest.raises(ImproperlyConfigured, match="'on_reconnect' must be"):
        await asyncio.to_thread(async_to_sync(layer.group_send), "room", {"n": 1})
    with pytest.raises(ImproperlyConfigured, match="'on_reconnect' must be"):
        await layer.group_send("room", {"n": 1})
    assert proxy.accepted == 0
