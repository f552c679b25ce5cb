"""Making a layer: it needs no event loop and no RabbitMQ, and says what is wrong at once."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading

import pytest
from asgiref.sync import async_to_sync
from channels.layers import channel_layers, get_channel_layer
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from channels_rabbitmq.core import RabbitmqChannelLayer


def test_no_running_loop(amqp_url: str) -> None:
    """A layer is made where no loop runs, and used later in one."""
    layer = RabbitmqChannelLayer(amqp_url)

    async def use() -> object:
        channel = await layer.new_channel()
        await layer.send(channel, {"n": 1})
        message = await layer.receive(channel)
        await layer.close()
        return message

    assert asyncio.run(use()) == {"n": 1}


def test_from_settings(amqp_url: str) -> None:
    """Channels makes the layer from CHANNEL_LAYERS."""
    config = {
        "default": {
            "BACKEND": "channels_rabbitmq.core.RabbitmqChannelLayer",
            "CONFIG": {"host": amqp_url, "local_capacity": 5},
        }
    }
    with override_settings(CHANNEL_LAYERS=config):
        layer = get_channel_layer()
        assert isinstance(layer, RabbitmqChannelLayer)
        assert layer.options.local_capacity == 5
        assert "groups" in layer.extensions
    channel_layers.backends.clear()


def test_making_does_no_io() -> None:
    """Neither making a layer nor new_channel() connects anywhere or starts a thread."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        layer = RabbitmqChannelLayer(f"amqp://guest:guest@127.0.0.1:{port}")
        name = async_to_sync(layer.new_channel)()
        assert name.startswith(f"{layer.queue_name}!")
        with pytest.raises(TimeoutError):
            server.accept()
    assert "channels_rabbitmq" not in {thread.name for thread in threading.enumerate()}


def test_unused_layer_leaves_nothing() -> None:
    """A layer that was made and never used goes without a word."""
    for _ in range(10):
        RabbitmqChannelLayer()
    gc.collect()


@pytest.mark.parametrize(
    ("config", "option"),
    [
        ({"no_such_option": 1}, "no_such_option"),
        ({"local_capacity": 0}, "local_capacity"),
        ({"local_capacity": 65536}, "local_capacity"),
        ({"remote_capacity": 0}, "remote_capacity"),
        ({"remote_capacity": "100"}, "remote_capacity"),
        ({"expiry": -1}, "expiry"),
        ({"send_timeout": 0}, "send_timeout"),
        ({"host": "http://guest:hush@localhost"}, "host"),
        ({"host": "amqp://guest:hush@localhost:port"}, "host"),
        ({"host": []}, "host"),
        ({"host": 5}, "host"),
        ({"host": "amqps://guest:hush@localhost?cacertfile=/not/there.pem"}, "cacertfile"),
        ({"ssl_context": "yes"}, "ssl_context"),
        ({"groups_exchange": ""}, "groups_exchange"),
    ],
    ids=str,
)
def test_wrong_configuration(config: dict[str, object], option: str) -> None:
    """A wrong option raises ImproperlyConfigured, which names it and tells no password."""
    with pytest.raises(ImproperlyConfigured, match=option) as caught:
        RabbitmqChannelLayer(**config)  # type: ignore[arg-type]
    assert "hush" not in str(caught.value)
