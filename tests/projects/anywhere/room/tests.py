"""Tests as a user of the layer writes them: nothing here knows which layer it is."""

from __future__ import annotations

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from channels.testing import ChannelsLiveServerTestCase, WebsocketCommunicator
from django.test import TestCase, TransactionTestCase, override_settings
from project.asgi import application
from websockets.sync.client import connect


async def hear(text: str) -> None:
    """Join by websocket, have the layer say something, and hear it."""
    communicator = WebsocketCommunicator(application, "/ws")
    connected, _ = await communicator.connect()
    assert connected
    await get_channel_layer().group_send("room", {"type": "room.message", "text": text})
    assert await communicator.receive_json_from(5) == {"text": text}
    await communicator.send_json_to({"text": "mine"})
    assert await communicator.receive_json_from(5) == {"text": "mine"}
    await communicator.disconnect()


class PlainTests(TestCase):
    """Django's own test case, with plain and async tests."""

    def test_plain(self) -> None:
        layer = get_channel_layer()
        channel = async_to_sync(layer.new_channel)()
        async_to_sync(layer.group_add)("room", channel)
        assert self.client.get("/sync?text=plain").status_code == 200
        assert async_to_sync(layer.receive)(channel)["text"] == "plain"
        async_to_sync(layer.group_discard)("room", channel)

    async def test_async(self) -> None:
        layer = get_channel_layer()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        assert (await self.async_client.get("/async?text=async")).status_code == 200
        assert (await layer.receive(channel))["text"] == "async"
        await layer.group_discard("room", channel)

    async def test_websocket(self) -> None:
        await hear("first")

    async def test_websocket_again(self) -> None:
        await hear("second")

    def test_settings_that_change(self) -> None:
        before = get_channel_layer()
        with override_settings(
            CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
        ):
            assert get_channel_layer() is not before
        async_to_sync(hear)("after")


class TransactionTests(TransactionTestCase):
    """The same with real transactions."""

    async def test_websocket(self) -> None:
        await hear("third")

    def test_plain(self) -> None:
        async_to_sync(hear)("fourth")


class LiveTests(ChannelsLiveServerTestCase):
    """A server in a process of its own, to which this process's layer sends."""

    def test_websocket(self) -> None:
        url = self.live_server_ws_url + "/ws"
        with connect(url) as first, connect(url) as second:
            first.send('{"text": "from the first"}')
            assert first.recv(5) == second.recv(5) == '{"text": "from the first"}'
            async_to_sync(get_channel_layer().group_send)(
                "room", {"type": "room.message", "text": "from the test"}
            )
            assert first.recv(5) == second.recv(5) == '{"text": "from the test"}'
