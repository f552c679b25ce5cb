"""Calls that are answered, each on an AMQP channel on which nothing else happens at the time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from .channel import Channel
from .errors import ChannelClosed, ConnectionClosed
from .frames import Method
from .protocol import Protocol

__all__ = ["MAX_CALL_CHANNELS", "Calls"]

#: Calls that run side by side, each on an AMQP channel of its own; more wait in line.
MAX_CALL_CHANNELS = 16

#: Of whatever a call gives.
_Future = asyncio.Future[Any]


class Calls:
    """Runs declarations, bindings and the like so that an error stays with its call.

    An error closes the AMQP channel, and would fail whatever else was under way on it. Channels are
    used again; past :data:`MAX_CALL_CHANNELS` calls wait in line, so that any number may be started
    at once.
    """

    def __init__(self, protocol: Protocol, *, for_user: bool = False) -> None:
        self._protocol = protocol
        self._for_user = for_user
        #: Open channels on which no call is under way.
        self._idle: list[Channel] = []
        #: How many channels have a call under way.
        self._in_use = 0
        #: Calls that wait for a channel, oldest first.
        self._line: deque[tuple[Callable[[Channel], _Future], _Future]] = deque()

    def run(self, method: Method) -> asyncio.Future[Method]:
        """Start a call; the future gives the server's answer.

        It fails with :class:`.ChannelClosedByServer` when RabbitMQ refuses the call, with
        :class:`.ConnectionClosed` when the connection ends, and with :class:`.ChannelClosed` when
        no AMQP channel is free for it. Cancelling it gives up a call that waits in line.
        """
        return self._run(lambda channel: channel.call(method))

    def publish(self, exchange: str, routing_key: str, body: bytes) -> asyncio.Future[None]:
        """Publish what must reach a queue; the future is done once confirmed.

        It fails as :meth:`run` does, and as :meth:`.Channel.publish`.
        """

        def publish(channel: Channel) -> _Future:
            channel.select_confirms()
            return channel.publish(exchange, routing_key, body, mandatory=True)

        return self._run(publish)

    def _run(self, start: Callable[[Channel], _Future]) -> _Future:
        future: _Future = self._protocol.loop.create_future()
        self._line.append((start, future))
        self._start()
        return future

    def _start(self) -> None:
        most = self._protocol.share_of_channels(MAX_CALL_CHANNELS)
        while self._line and self._in_use < most:
            start, future = self._line.popleft()
            if future.done():
                continue
            try:
                channel = self._idle_channel()
            except ChannelClosed as err:
                if self._in_use:
                    self._line.appendleft((start, future))
                    return  # one of ours will be free
                future.set_exception(err)
                continue
            except ConnectionClosed as err:
                future.set_exception(err)
                continue
            self._in_use += 1
            start(channel).add_done_callback(partial(self._finish, channel, future))

    def _idle_channel(self) -> Channel:
        while self._idle and self._protocol.open:
            channel = self._idle.pop()
            if channel.open:
                return channel
        return self._protocol.open_channel(for_user=self._for_user)

    def _finish(self, channel: Channel, future: _Future, reply: _Future) -> None:
        self._in_use -= 1
        error = reply.exception()
        if channel.open:
            self._idle.append(channel)
        if not future.done():
            if error is None:
                future.set_result(reply.result())
            else:
                future.set_exception(error)
        self._start()
