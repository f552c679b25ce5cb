"""The websocket."""

from __future__ import annotations

from channels.generic.websocket import AsyncJsonWebsocketConsumer


class RoomConsumer(AsyncJsonWebsocketConsumer):
    """Passes on what is said in the room."""

    groups = ["room"]

    async def receive_json(self, content: dict[str, object]) -> None:
        """Say it to everybody."""
        await self.channel_layer.group_send("room", {"type": "room.message", **content})

    async def room_message(self, event: dict[str, object]) -> None:
        """Somebody said something."""
        await self.send_json({key: value for key, value in event.items() if key != "type"})
