"""A channel layer that only hands over, in memory: what is left is what everything else costs."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Message = dict[str, object]


@dataclass(slots=True)
class Box(Generic[Item]):
    """A channel as plain as can be: one reader."""

    queue: deque[Item] = field(default_factory=deque)
    waiter: asyncio.Future[None] | None = None

    def put(self, item: Item) -> None:
        """Add an item, and wake the reader."""
        self.queue.append(item)
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def get(self) -> Item:
        """Wait for an item."""
        while not self.queue:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        return self.queue.popleft()


class NullLayer:
    """As much of the specification as consumers use. No copies, no limits, no expiry."""

    extensions = ("groups",)

    def __init__(self) -> None:
        self._boxes: defaultdict[str, Box[Message]] = defaultdict(Box)
        self._groups: defaultdict[str, set[str]] = defaultdict(set)

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return a name that no other channel has."""
        return f"{prefix}!{uuid.uuid4().hex}"

    async def send(self, channel: str, message: Message) -> None:
        """Hand a message to a channel."""
        self._boxes[channel].put(message)

    async def receive(self, channel: str) -> Message:
        """Wait for a message."""
        return await self._boxes[channel].get()

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group."""
        self._groups[group].add(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group."""
        self._groups[group].discard(channel)

    async def group_send(self, group: str, message: Message) -> None:
        """Hand a message to all members."""
        for channel in self._groups[group]:
            self._boxes[channel].put(message)
