"""A job that takes a while, for a process of its own: ``python manage.py runworker chat-jobs``.

``chat-jobs`` is a *normal* channel: its messages wait on RabbitMQ for whichever worker is free. The
worker tells the room how far it is, by the group that the room's websockets are in.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from typing import Any

from channels.consumer import AsyncConsumer

from . import history

CHANNEL = "chat-jobs"
SIZES = (1_000_000, 5_000_000, 20_000_000)
PARTS = 50


def primes_between(start: int, end: int) -> int:
    """Count the primes from ``start`` up to, but not including, ``end`` (Eratosthenes)."""
    candidates = bytearray([1]) * (end - start)
    for number in range(max(start, 0), min(2, end)):
        candidates[number - start] = 0
    for factor in range(2, math.isqrt(end) + 1):
        first = max(factor * factor, -(-start // factor) * factor)
        candidates[first - start :: factor] = bytes(len(range(first, end, factor)))
    return sum(candidates)


class JobsConsumer(AsyncConsumer):
    """The worker's side: counts primes, and says how far it is."""

    async def count_primes(self, job: dict[str, Any]) -> None:
        started = time.monotonic()
        found = 0
        part = job["below"] // PARTS
        for start in range(0, job["below"], part):
            end = start + part
            # In a thread, so that the process goes on answering RabbitMQ.
            found += await asyncio.to_thread(primes_between, start, end)
            await self.tell(job, done=end, found=found, seconds=time.monotonic() - started)

    async def tell(self, job: dict[str, Any], **progress: float) -> None:
        event = {**job, **progress, "type": "chat.job", "pid": os.getpid(), "at": time.time()}
        if progress["done"] == job["below"]:
            await history.keep(self.channel_layer, event)  # for who is away just now
        await self.channel_layer.group_send(f"chat.room.{job['room']}", event)
