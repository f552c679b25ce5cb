"""A test with a server in a process of its own."""

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from channels.testing import ChannelsLiveServerTestCase
from websockets.sync.client import connect

from channels_rabbitmq.testing import wait_for_group


class LiveTests(ChannelsLiveServerTestCase):
    def test_chat(self):
        with connect(self.live_server_ws_url) as first, connect(self.live_server_ws_url) as second:
            for number in range(10):
                room = f"room-{number}"
                for websocket in (first, second):
                    websocket.send(f'{{"join": "{room}"}}')
                members = async_to_sync(wait_for_group)(room, 2)
                assert len(members) == 2
                line = {"type": "chat.line", "text": room}
                async_to_sync(get_channel_layer().group_send)(room, line)
                for websocket in (first, second):
                    assert websocket.recv(5) == f'{{"text": "{room}"}}'
