"""What tests of users get: a layer that is theirs alone, and joins that have happened."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import StopConsumer
from channels.layers import channel_layers, get_channel_layer
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from pamqp.commands import Queue

from channels_rabbitmq.core import RabbitmqChannelLayer, get_layer
from channels_rabbitmq.testing import IsolatedLayer, wait_for_group
from tests.broker.fake_rabbit import FakeRabbit, running
from tests.helpers.processes import require_import
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer

BACKEND = "channels_rabbitmq.core.RabbitmqChannelLayer"
MESSAGE = {"type": "chat.line"}


class OwnLayer(RabbitmqChannelLayer):
    """A subclass, as a site may have one."""


@pytest.fixture
def url(amqp_url: str) -> Iterator[str]:
    """RabbitMQ's address, which is that of no layer in CHANNEL_LAYERS."""
    layers = {
        "default": {"BACKEND": BACKEND},
        "other": {"BACKEND": BACKEND},
        "own": {"BACKEND": f"{__name__}.OwnLayer", "CONFIG": {"local_capacity": 7}},
        "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        "missing": {"BACKEND": "no.such.Layer"},
    }
    with override_settings(CHANNEL_LAYERS=layers):
        yield amqp_url


async def test_no_other_hears(url: str, make_layer: MakeLayer) -> None:
    """Groups of one name, on one RabbitMQ, are different groups for each."""
    plain = make_layer()
    async with IsolatedLayer(host=url) as first, IsolatedLayer("other", host=url) as second:
        layers = (plain, first, second)
        channels = [await layer.new_channel() for layer in layers]
        for layer, channel in zip(layers, channels, strict=True):
            await layer.group_add("room", channel)
        for number, layer in enumerate(layers):
            await layer.group_send("room", MESSAGE | {"number": number})
        for number, layer in enumerate(layers):
            assert (await layer.receive(channels[number]))["number"] == number
            assert await layer.receive_many([channels[number]]) == (None, None)


async def test_in_the_place_of_the_other(url: str) -> None:
    """Within it get_channel_layer() gives the layer; after it, whatever there was before."""
    async with IsolatedLayer(host=url) as outer:
        assert get_channel_layer() is outer
        async with IsolatedLayer(host=url) as inner:
            assert get_channel_layer() is inner
            assert inner.options.prefix != outer.options.prefix
        assert get_channel_layer() is outer
        with pytest.raises(StopConsumer):
            await inner.new_channel()
    assert channel_layers.backends == {}


async def test_replaced_within(url: str) -> None:
    """A test that puts another layer there, as by other settings, keeps that."""
    async with IsolatedLayer(host=url) as layer:
        channel_layers.backends = {}
    assert channel_layers.backends == {}
    with pytest.raises(StopConsumer):
        await layer.new_channel()


async def test_emptied(url: str) -> None:
    """What is left in a normal channel is gone when the next one has the same prefix."""
    async with IsolatedLayer(host=url, prefix="same") as layer:
        await layer.send("work", MESSAGE)
    async with IsolatedLayer(host=url, prefix="same") as layer:
        assert await layer.receive_many(["work"]) == (None, None)


def test_class_of_the_settings(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is of the class that the settings name, with the options there."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[OwnLayer.__module__])
    with IsolatedLayer("own", host=url) as layer:
        assert type(layer).__name__ == "OwnLayer"
        assert layer.options.local_capacity == 7


@pytest.mark.parametrize(
    ("alias", "says"),
    [
        ("othr", "CHANNEL_LAYERS has no 'othr'; there are: 'default', 'other', "),
        ("memory", r"'channels.layers.InMemoryChannelLayer', which is no channel layer of "),
        ("missing", r"CHANNEL_LAYERS\['missing'\] is 'no.such.Layer', which cannot be imported: "),
    ],
)
def test_wrong_alias(url: str, alias: str, says: str) -> None:
    """What is no layer of ours is an error, and not replaced by one."""
    with pytest.raises(ImproperlyConfigured, match=says):
        IsolatedLayer(alias, host=url).__enter__()
    assert channel_layers.backends == {}


async def test_unused(url: str, proxy: Proxy) -> None:
    """A test that does not use it costs no connection."""
    async with IsolatedLayer(host=proxy.url):
        pass
    assert proxy.accepted == 0


def test_plain_code(url: str) -> None:
    """It is a plain context manager, too, with the same in it."""
    isolated = IsolatedLayer(host=url)
    with isolated as layer:
        channel = async_to_sync(layer.new_channel)()
        async_to_sync(layer.group_add)("room", channel)
        assert async_to_sync(wait_for_group)("room") == [channel]
        async_to_sync(layer.group_send)("room", MESSAGE)
        assert async_to_sync(layer.receive)(channel) == MESSAGE
        with pytest.raises(RuntimeError, match="cannot be entered twice"):
            isolated.__enter__()
    assert channel_layers.backends == {}
    with isolated as again:
        assert again is not layer


async def test_plain_context_on_a_loop(url: str) -> None:
    """The plain context cannot close the layer on a running loop, but what was there is back."""
    with pytest.raises(RuntimeError, match="AsyncToSync in the same thread"):
        use_plainly(url)
    assert channel_layers.backends == {}


def use_plainly(url: str) -> None:
    """Enter and leave."""
    with IsolatedLayer(host=url):
        pass


async def test_errors_pass(url: str) -> None:
    """What a test raises comes through, and the layer is closed."""
    with pytest.raises(LookupError):
        async with IsolatedLayer(host=url) as layer:
            raise LookupError
    with pytest.raises(StopConsumer):
        await layer.new_channel()


async def test_joined(url: str) -> None:
    """Whoever is named gets what is sent right after, in this process and in another."""
    async with IsolatedLayer(host=url) as layer:
        other = RabbitmqChannelLayer(host=url, prefix=layer.options.prefix)
        try:
            await other.current_connection
            for number in range(20):
                group = f"room-{number}"
                receivers = [(there, await there.new_channel()) for there in (layer, other)]
                joining = [
                    asyncio.ensure_future(there.group_add(group, channel))
                    for there, channel in receivers
                ]
                joined = await wait_for_group(group, 2)
                await layer.group_send(group, MESSAGE)
                assert joined == sorted(channel for _, channel in receivers)
                for there, channel in receivers:
                    assert await asyncio.wait_for(there.receive(channel), 5) == MESSAGE
                await asyncio.gather(*joining)
        finally:
            await other.close()


async def test_not_joined(url: str) -> None:
    """Time is up: the error says how many there were."""
    async with IsolatedLayer(host=url) as layer:
        await layer.group_add("room", await layer.new_channel())
        await wait_for_group("room")
        with pytest.raises(TimeoutError, match=r"group 'room' reached 1 of 2 members after 1 s"):
            await wait_for_group("room", 2, timeout=1)


async def test_not_bound() -> None:
    """Whoever joined and has no binding yet is not counted."""
    rabbit = FakeRabbit()
    async with running(rabbit) as port:
        config = {"host": f"amqp://guest:guest@127.0.0.1:{port}?heartbeat=0", "send_timeout": 0.1}
        layers = {"default": {"BACKEND": BACKEND, "CONFIG": config}}
        with override_settings(CHANNEL_LAYERS=layers):
            layer = get_layer()
            try:
                await layer.current_connection
                rabbit.silent = (Queue.Bind,)
                await layer.group_add("room", await layer.new_channel())
                with pytest.raises(TimeoutError, match=r"reached 0 of 1 members after 0\.5 s"):
                    await wait_for_group("room", timeout=0.5)
            finally:
                await layer.close()


async def test_brings_nobody_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who leaves while the answers are on their way stays outside."""
    async with IsolatedLayer(host=url) as layer:
        other = RabbitmqChannelLayer(host=url, prefix=layer.options.prefix)
        try:
            names = [await other.new_channel(), "jobs"]
            for name in names:
                await other.group_add("room", name)
            run = layer._owner.run

            async def run_and_leave(*args: Any, **options: Any) -> object:
                result = await run(*args, **options)
                for name in names:
                    await other.group_discard("room", name)
                return result

            with monkeypatch.context() as patch:
                patch.setattr(layer._owner, "run", run_and_leave)
                assert await wait_for_group("room", 2) == sorted(names)
            assert await layer.group_members("room") == []
        finally:
            await other.close()


def test_without_pytest() -> None:
    """The module can be imported where pytest is not installed."""
    require_import("from channels_rabbitmq.testing import *", without="pytest")
