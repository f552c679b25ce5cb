"""A websocket that orders thumbnails, and workers that make them.

After https://channels.readthedocs.io/en/stable/topics/worker.html.
"""

import os

from asgiref.sync import async_to_sync
from channels.consumer import SyncConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "thumbnails.settings")
urlpatterns: list[object] = []


class OrderConsumer(AsyncJsonWebsocketConsumer):
    """Hands each order to the workers, and each thumbnail back."""

    async def receive_json(self, content, **kwargs):
        """The browser orders a thumbnail."""
        await self.channel_layer.send(
            "thumbnails-generate",
            {"type": "generate", "id": content["id"], "reply_to": self.channel_name},
        )

    async def thumbnail_ready(self, message):
        """A worker made one."""
        await self.send_json({"id": message["id"], "worker": message["worker"]})


class GenerateConsumer(SyncConsumer):
    """Makes thumbnails, in a process started with ``runworker``."""

    def generate(self, message):
        """Make one."""
        async_to_sync(self.channel_layer.send)(
            message["reply_to"],
            {"type": "thumbnail.ready", "id": message["id"], "worker": os.getpid()},
        )


application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": OrderConsumer.as_asgi(),
        "channel": ChannelNameRouter({"thumbnails-generate": GenerateConsumer.as_asgi()}),
    }
)
