"""The layer's numbers, once a second, for a page that shows them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer

EVERY = 1  # second


class StatusConsumer(AsyncJsonWebsocketConsumer):
    """Sends the numbers of the server process that it runs in."""

    async def connect(self) -> None:
        self.port: int | None = (self.scope.get("server") or (None, None))[1]
        await self.accept()
        self.telling = asyncio.create_task(self.tell())

    async def disconnect(self, code: int) -> None:
        self.telling.cancel()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.close(code=4400)  # there is nothing to say

    async def tell(self) -> None:
        while True:
            numbers = dataclasses.asdict(self.channel_layer.statistics())
            await self.send_json(
                {"type": "status", "port": self.port, "pid": os.getpid(), "numbers": numbers}
            )
            await asyncio.sleep(EVERY)
