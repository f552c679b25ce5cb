"""A reader on another event loop who is cancelled as its message comes."""

from __future__ import annotations

import asyncio
import threading

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.wire.messages import Message
from tests.helpers.waiting import until


async def cancelled_as_it_comes(
    layer: RabbitmqChannelLayer, channel: str, message: Message, other: asyncio.AbstractEventLoop
) -> Message:
    """What is received by the cancelled reader, or, where that one was too late, after it.

    Whether the message came before the cancellation is the other loop's to say: a future of another
    thread can be cancelled when its task has already ended with a result.
    """
    received: list[Message] = []
    ended = threading.Event()

    async def receive() -> None:
        try:
            received.append(await layer.receive(channel))
        finally:
            ended.set()

    reading = asyncio.run_coroutine_threadsafe(receive(), other)
    await until(lambda: layer.statistics().channels == 1)
    await layer.send(channel, message)
    reading.cancel()
    await until(ended.is_set)
    return received[0] if received else await asyncio.wait_for(layer.receive(channel), 10)
