"""The server's side of a room: one consumer for each websocket, one group for each room.

The page sends::

    {"type": "here", "name": "Ada"}                who I am: first, after a change, and regularly
    {"type": "say", "key": "7", "text": "Hello"}   a line; its key comes back with it

and receives::

    {"type": "welcome", "id": ..., "port": ..., "pid": ...}     which process it is on
    {"type": "here", "id": ..., "socket": ..., "name": ..., "port": ..., "new": ...}
                                                                somebody is in the room
    {"type": "left", "id": ..., "socket": ...}                  and has left
    {"type": "line", "id": ..., "key": ..., "name": ..., "port": ..., "text": ..., "at": ...}

Nobody keeps a list of who is in a room. A newcomer says "here" to the group, everybody there
answers to the newcomer's own channel, and the page puts the list together. A page that connects
again keeps its id, which is made of a secret in the websocket's address, and has a new socket: so
others can tell a late goodbye of the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from typing import Any
from urllib.parse import parse_qs

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer

NAME_LENGTH = 32
TEXT_LENGTH = 1000


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """One person in one room."""

    async def connect(self) -> None:
        self.socket = uuid.uuid4().hex
        query = parse_qs(self.scope["query_string"].decode("ascii", "replace"))
        secret = query.get("page", [self.socket])[0]
        self.id = hashlib.sha256(secret.encode()).hexdigest()[:16]
        self.name = ""
        # The server process's own address; none when it listens on a Unix socket.
        self.port: int | None = (self.scope.get("server") or (None, None))[1]
        self.group = f"chat.{self.scope['url_route']['kwargs']['room']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send_json(
            {"type": "welcome", "id": self.id, "port": self.port, "pid": os.getpid()}
        )

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)
        if self.name:
            await self.channel_layer.group_send(
                self.group, {"type": "chat.left", "id": self.id, "socket": self.socket}
            )

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        match content:
            case {"type": "here", "name": str(name)} if name.strip():
                await self.here(name.strip()[:NAME_LENGTH])
            case {"type": "say", "key": str(key), "text": str(text)} if self.name and text.strip():
                await self.say(key, text.strip()[:TEXT_LENGTH])
            case _:
                await self.close(code=4400)  # not our page's doing

    async def here(self, name: str) -> None:
        """Tell the room who this is; the first time, ask everybody there to answer."""
        newcomer = not self.name
        self.name = name
        message = self.presence()
        if newcomer:
            message["reply_to"] = self.channel_name
        await self.channel_layer.group_send(self.group, message)

    async def say(self, key: str, text: str) -> None:
        """Send a line to everybody in the room, on whichever server process, and back here."""
        await self.channel_layer.group_send(
            self.group,
            {
                "type": "chat.line",
                "id": self.id,
                "key": key,
                "name": self.name,
                "port": self.port,
                "text": text,
                "at": time.time(),
            },
        )

    def presence(self) -> dict[str, Any]:
        return {
            "type": "chat.here",
            "id": self.id,
            "socket": self.socket,
            "name": self.name,
            "port": self.port,
        }

    # What arrives from the channel layer.

    async def chat_here(self, event: dict[str, Any]) -> None:
        newcomer = event.get("reply_to")
        presence = {key: event[key] for key in ("id", "socket", "name", "port")}
        await self.send_json({**presence, "type": "here", "new": newcomer is not None})
        if newcomer and newcomer != self.channel_name and self.name:
            # A newcomer that cannot keep up hears from us at our next regular "here".
            with contextlib.suppress(ChannelFull):
                await self.channel_layer.send(newcomer, self.presence())

    async def chat_left(self, event: dict[str, Any]) -> None:
        await self.send_json({**event, "type": "left"})

    async def chat_line(self, event: dict[str, Any]) -> None:
        await self.send_json({**event, "type": "line"})
