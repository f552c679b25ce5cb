"""Visitors with websockets: each hears its room, orders now and then, and remembers what came."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter

import websockets

#: Seconds between two orders of a visitor.
PAUSE = 4.0


class Visitor:
    """One websocket."""

    def __init__(self, number: int, room: str, url: str) -> None:
        self.number = number
        self.room = room
        self._url = f"{url}/{room}"
        #: Numbers of the room's messages, and of the answers, as they came.
        self.heard: list[int] = []
        self.answers: list[int] = []
        #: When each order was sent, and when the first answer to it came.
        self.orders: dict[int, float] = {}
        self.answered: dict[int, float] = {}
        #: What became of it: "" if RabbitMQ confirmed it.
        self.ordered: dict[int, str] = {}
        #: How many of both came in each second.
        self.came: Counter[int] = Counter()
        #: When the last message that came was sent, of the room and of the answers.
        self.said_at = self.answered_at = 0.0
        #: The silences between two of the room's messages, from and until, of a second and more.
        self.silences: list[tuple[float, float]] = []
        self.ordering = True
        #: Why the websocket ended before its time.
        self.ended = ""

    async def stay(self) -> None:
        """Be connected until cancelled."""
        try:
            async with websockets.connect(self._url, open_timeout=60, ping_timeout=60) as socket:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._listen(socket))
                    tasks.create_task(self._order(socket))
        except* Exception as errors:
            self.ended = repr(errors.exceptions[0])

    async def _order(self, socket: websockets.ClientConnection) -> None:
        await asyncio.sleep(random.uniform(0, PAUSE))
        while self.ordering:
            n = len(self.orders)
            self.orders[n] = time.time()
            await socket.send(json.dumps({"n": n, "at": self.orders[n]}))
            await asyncio.sleep(PAUSE)

    async def _listen(self, socket: websockets.ClientConnection) -> None:
        last = 0.0
        async for text in socket:
            message, now = json.loads(text), time.time()
            self.came[int(now)] += message["type"] != "ordered"
            match message["type"]:
                case "said":
                    self.heard.append(message["n"])
                    self.said_at = message["at"]
                    if last and now - last >= 1:
                        self.silences.append((last, now))
                    last = now
                case "answer":
                    self.answers.append(message["n"])
                    self.answered.setdefault(message["n"], now)
                    self.answered_at = message["at"]
                case "ordered":
                    self.ordered[message["n"]] = message["error"]
        raise ConnectionError("closed by the server")


def twice(numbers: list[int]) -> int:
    """How many came again."""
    return len(numbers) - len(set(numbers))


def out_of_order(numbers: list[int]) -> int:
    """How many came after one that was sent later."""
    highest, count = -1, 0
    for number in numbers:
        count += number < highest
        highest = max(highest, number)
    return count
