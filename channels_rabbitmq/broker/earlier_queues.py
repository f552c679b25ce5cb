"""Consuming the queues of a process's earlier names, while channels of those names are in use.

The newest queue is the topology's own; see :class:`~channels_rabbitmq.local.queue_names.QueueNames`
for how there come to be others.
"""

from __future__ import annotations

import asyncio
import logging

from ..amqp.log import NamedLogger
from ..config.options import Options
from ..errors import AmqpError, NotConnected
from ..local.background import Background
from ..local.queue_names import QueueNames
from ..local.state import LocalState
from .recovery import Recovery
from .topology import Topology

logger = logging.getLogger(__name__)

#: Seconds between two looks at the earlier queues: while one is away, and while none is.
_LOOK = (1.0, 5.0)


class EarlierQueues:
    """Declares and consumes the queues of earlier names, on each topology; drops the unused."""

    def __init__(
        self,
        options: Options,
        names: QueueNames,
        state: LocalState,
        recovery: Recovery,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._options = options
        self._names = names
        self._state = state
        self._recovery = recovery
        self._loop = loop
        self._background = Background(loop, options.connection_name)
        self._log = NamedLogger(logger, options.connection_name)
        #: The task that looks after them on the live topology, while any is kept.
        self._task: asyncio.Task[None] | None = None
        #: Set as one is back, and made anew.
        self._news = asyncio.Event()

    def topology_started(self, topology: Topology) -> None:
        """Look after those that are kept, from now on."""
        self._names.lose_all()
        self._look_soon(topology)

    def _look_soon(self, topology: Topology) -> None:
        if self._names.kept and (self._task is None or self._task.done()):
            self._task = self._background.spawn(self._look_after(topology), AmqpError, TimeoutError)

    def topology_ended(self) -> None:
        """Leave them until the next one starts."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def cancel(self) -> None:
        """Look no more."""
        self._background.cancel()

    def note_use(self, channel: str) -> None:
        """Have the queue of a channel's name again, if that is an earlier one and was dropped."""
        queue_name = channel.partition("!")[0]
        if queue_name == self._names.newest:
            return
        topology = self._recovery.topology
        if self._names.note_use(queue_name, self._loop.time()) and topology is not None:
            self._look_soon(topology)

    async def wait_back(self, queue_name: str) -> None:
        """Wait until a queue is not away any more, at most ``send_timeout``.

        Raises :class:`~channels_rabbitmq.errors.NotConnected` then.
        """
        timeout = self._options.send_timeout
        try:
            async with asyncio.timeout(timeout):
                while queue_name in self._names.away:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise NotConnected(
                f"RabbitMQ did not release queue {queue_name} within send_timeout ({timeout:g} s)"
            ) from None

    async def _look_after(self, topology: Topology) -> None:
        names = self._names
        held: set[str] = set()
        while names.kept:
            dropped = names.drop_unused(
                self._state.channels_in_use, self._loop.time(), self._options.expiry
            )
            if dropped:
                # Whoever uses a channel of such a name again must ask for its mailbox anew.
                self._state.mailboxes.sweep()
            for queue_name in held.intersection(dropped):
                held.discard(queue_name)
                await topology.delete_earlier(queue_name)
            for queue_name in list(names.kept):
                try:
                    await topology.consume_earlier(queue_name)
                except (AmqpError, TimeoutError):
                    if topology.ended.done():
                        return
                    continue  # locked, mostly; whatever it is may pass
                if queue_name in names.away:
                    self._log.info("RabbitMQ released queue %s", queue_name)
                held.add(queue_name)
                names.away.discard(queue_name)
            self._news.set()
            await asyncio.sleep(_LOOK[0] if names.away else _LOOK[1])
