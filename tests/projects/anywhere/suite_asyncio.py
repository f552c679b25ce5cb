"""A user's suite under pytest-asyncio: a loop for each test, and one layer over all."""

from __future__ import annotations

import os

import django
import pytest
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()

from project.asgi import application  # noqa: E402 - needs the settings

queues = set()


@pytest.mark.parametrize("number", range(5))
async def test_websocket(number: int) -> None:
    communicator = WebsocketCommunicator(application, "/ws")
    connected, _ = await communicator.connect()
    assert connected
    await get_channel_layer().group_send("room", {"type": "room.message", "text": str(number)})
    assert await communicator.receive_json_from(5) == {"text": str(number)}
    await communicator.disconnect()
    queues.add(get_channel_layer().queue_name)


def test_plain_code_between() -> None:
    layer = get_channel_layer()
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.send)(channel, {"type": "x"})
    assert async_to_sync(layer.receive)(channel) == {"type": "x"}


async def test_a_websocket_that_is_left_open() -> None:
    communicator = WebsocketCommunicator(application, "/ws")
    connected, _ = await communicator.connect()
    assert connected


async def test_after_it() -> None:
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("other", channel)
    await layer.group_send("other", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}


def test_one_queue_over_all() -> None:
    assert queues == {get_channel_layer().queue_name}
