"""The websocket of a visitor, and the worker of the normal channel ``orders``."""

from __future__ import annotations

import os

from channels.consumer import AsyncConsumer
from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "soaked.settings")
http = get_asgi_application()

from channels_rabbitmq.core import get_layer  # noqa: E402 - needs the settings
from soaked import cause, tell  # noqa: E402


async def dropped(request: HttpRequest) -> JsonResponse:
    """What the layer of this process has dropped, by cause."""
    counts = get_layer().statistics()
    return JsonResponse({**counts.dropped, "expired": counts.expired})


urlpatterns = [path("dropped", dropped)]


class VisitorConsumer(AsyncJsonWebsocketConsumer):
    """Passes on what is said in the room; hands orders to the worker, and its answers back."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive_json(self, content: dict[str, object]) -> None:
        order = {**content, "type": "carry.out", "reply_to": self.channel_name}
        error = ""
        try:
            await self.channel_layer.send("orders", order)
        except ChannelFull as err:
            error = cause(err)
        await self.send_json({"type": "ordered", "n": content["n"], "error": error})

    async def said(self, event: dict[str, object]) -> None:
        await self.send_json(event)

    async def answer(self, event: dict[str, object]) -> None:
        await self.send_json(event)


class WorkerConsumer(AsyncConsumer):
    """Carries orders out."""

    async def carry_out(self, order: dict[str, str]) -> None:
        error = ""
        try:
            await self.channel_layer.send(
                order["reply_to"], {"type": "answer", "n": order["n"], "at": order["at"]}
            )
        except ChannelFull as err:
            error = cause(err)
        tell(answer=order["n"], error=error)


application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": URLRouter([path("<str:room>", VisitorConsumer.as_asgi())]),
        "channel": ChannelNameRouter({"orders": WorkerConsumer.as_asgi()}),
    }
)
