"""``benchmarks.site:application``: the ASGI application that ``served`` runs in real servers.

A websocket at ``/CONSUMER/GROUP,GROUP/`` joins these groups; a text ``GROUP rest`` that comes
through it goes to that group, and each member passes it on, as in Channels' tutorial. The layer is
that of the :class:`Spec` in the environment variable ``BENCH_SPEC``.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from .spec import Spec, set_up

SPEC = Spec.loads(os.environ["BENCH_SPEC"])
set_up(
    SPEC,
    CHANNEL_LAYERS={"default": {"BACKEND": SPEC.layer, "CONFIG": SPEC.config}},
    ALLOWED_HOSTS=["*"],
)

from asgiref.sync import async_to_sync  # noqa: E402
from channels.consumer import get_handler_name  # noqa: E402
from channels.generic.websocket import (  # noqa: E402
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    WebsocketConsumer,
)
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

Event = dict[str, Any]


def event(text: str) -> tuple[str, Event]:
    """Return the group that a text is for, and the message to it."""
    return text.partition(" ")[0], {"type": "chat.message", "text": text}


def groups(scope: Event) -> list[str]:
    """Return the groups that a websocket joins."""
    names: str = scope["path"].split("/")[2]
    return names.split(",")


class Async(AsyncWebsocketConsumer):  # type: ignore[misc]
    """A consumer with coroutines."""

    async def connect(self) -> None:
        """Join the groups."""
        for group in groups(self.scope):
            await self.channel_layer.group_add(group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        """Leave them."""
        for group in groups(self.scope):
            await self.channel_layer.group_discard(group, self.channel_name)

    async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
        """Send what a client says to a group."""
        await self.channel_layer.group_send(*event(text_data))

    async def chat_message(self, event: Event) -> None:
        """Pass a group's message on to the client."""
        await self.send(text_data=event["text"])


class Direct(Async):
    """The same, without Channels' look after database connections, in a thread, at each message."""

    async def dispatch(self, message: Event) -> None:
        """Call the handler."""
        await getattr(self, get_handler_name(message))(message)


class Json(AsyncJsonWebsocketConsumer, Async):  # type: ignore[misc]
    """The same, with JSON."""

    receive = AsyncJsonWebsocketConsumer.receive

    async def receive_json(self, content: str) -> None:
        """Send what a client says to a group."""
        await self.channel_layer.group_send(*event(content))

    async def chat_message(self, event: Event) -> None:
        """Pass a group's message on to the client."""
        await self.send_json(event["text"])


class Sync(WebsocketConsumer):  # type: ignore[misc]
    """A consumer with plain methods, which Channels calls in a thread."""

    def connect(self) -> None:
        """Join the groups."""
        for group in groups(self.scope):
            async_to_sync(self.channel_layer.group_add)(group, self.channel_name)
        self.accept()

    def disconnect(self, code: int) -> None:
        """Leave them."""
        for group in groups(self.scope):
            async_to_sync(self.channel_layer.group_discard)(group, self.channel_name)

    def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
        """Send what a client says to a group."""
        async_to_sync(self.channel_layer.group_send)(*event(text_data))

    def chat_message(self, event: Event) -> None:
        """Pass a group's message on to the client."""
        self.send(text_data=event["text"])


async def bare(scope: Event, receive: Any, send: Any) -> Any:
    """No consumer at all: the least that ASGI takes. ``everybody N rest`` goes to N users."""
    layer = get_channel_layer()
    channel = await layer.new_channel()
    joined = groups(scope)
    for group in joined:
        await layer.group_add(group, channel)

    async def pass_on() -> None:
        while True:
            message = await layer.receive(channel)
            await send({"type": "websocket.send", "text": message["text"]})

    passing = asyncio.ensure_future(pass_on())
    try:
        while (said := await receive())["type"] != "websocket.disconnect":
            if said["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
            elif said["text"].startswith("everybody "):
                _, count, rest = said["text"].split()
                texts = [f"user{number} {rest}" for number in range(int(count))]
                await asyncio.gather(*(layer.group_send(*event(text)) for text in texts))
            else:
                await layer.group_send(*event(said["text"]))
    finally:
        passing.cancel()
        for group in joined:
            await layer.group_discard(group, channel)


application = URLRouter(
    [
        path("async/<groups>/", Async.as_asgi()),
        path("direct/<groups>/", Direct.as_asgi()),
        path("json/<groups>/", Json.as_asgi()),
        path("sync/<groups>/", Sync.as_asgi()),
        path("bare/<groups>/", bare),
    ]
)
