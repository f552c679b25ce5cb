"""A consumer that runs while a message is waited for, and gets one message at a time."""

from __future__ import annotations

import asyncio

import pamqp.commands

from ..amqp.channel import Channel
from ..amqp.frames import Method
from ..amqp.futures import retrieve


class OnDemandConsumer:
    """Consumes one queue, on an AMQP channel of its own, while :meth:`want` says so.

    RabbitMQ (3.10 at least) closes the whole connection when a consumer is cancelled before its
    ``basic.consume-ok``, or when its tag is used again right after. So a consumer is cancelled
    only once it was confirmed, and each one has a new tag.
    """

    def __init__(self, amqp_channel: Channel, queue: str, tag: str) -> None:
        self.amqp_channel = amqp_channel
        self._queue = queue
        #: What the tags of its consumers begin with.
        self._tag_start = tag
        self._wanted = False
        #: ``basic.consume`` was sent, and no ``basic.cancel`` after it.
        self._consuming = False
        #: How many consumers there were; the number of the last one ends its tag.
        self._consumers = 0
        #: The answer to what was sent last.
        self._reply = self._call(pamqp.commands.Basic.Qos(prefetch_count=1))

    def want(self, wanted: bool) -> None:
        """Start to consume, or stop; nothing happens if it does so already."""
        self._wanted = wanted
        self._follow()

    @property
    def idle(self) -> bool:
        """Whether it does not consume, and no delivery can still come."""
        return not self._consuming and self._reply.done()

    async def stopped(self) -> None:
        """Wait until it is idle, after ``want(False)``."""
        while not self.idle and self.amqp_channel.open:
            await asyncio.wait({self._reply})

    def _follow(self) -> None:
        if self._wanted == self._consuming or not self.amqp_channel.open:
            return
        if self._wanted:
            self._consumers += 1
            self._consuming = True
            self._reply = self._call(
                pamqp.commands.Basic.Consume(queue=self._queue, consumer_tag=self._tag)
            )
            self._reply.add_done_callback(lambda _: self._follow())
        elif self._reply.done():
            self._consuming = False
            self._reply = self._call(pamqp.commands.Basic.Cancel(consumer_tag=self._tag))

    @property
    def _tag(self) -> str:
        return f"{self._tag_start}.{self._consumers}"

    def _call(self, method: Method) -> asyncio.Future[Method]:
        # An error ends the AMQP channel, which is handled there.
        reply = self.amqp_channel.call(method)
        reply.add_done_callback(retrieve)
        return reply
