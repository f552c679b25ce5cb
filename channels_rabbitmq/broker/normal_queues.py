"""Sees to it that the queues of normal channels are there, on whichever connection."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from ..amqp.futures import retrieve
from ..config.options import Options
from ..errors import NotFound, PreconditionFailed
from ..local.normal_channels import queue_arguments, queue_name, renewal_interval
from .topology import Topology

logger = logging.getLogger(__name__)


class NormalQueues:
    """Declares each queue when it is first used in a session, and again before it expires.

    RabbitMQ deletes a queue that is idle for long: https://www.rabbitmq.com/docs/ttl#queue-ttl
    """

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self._options = options
        self._loop = loop
        self._renewal_interval = renewal_interval(options)
        #: When each queue was last declared in this session.
        self._declared: dict[str, float] = {}
        self._declaring: dict[str, asyncio.Task[None]] = {}
        #: Channels whose queues were there with other arguments.
        self._foreign: set[str] = set()

    async def ensure(self, topology: Topology, name: str) -> None:
        """See to it that the queue is there, and stays while it is sent to.

        Raises :class:`.ChannelClosedByServer` where RabbitMQ refuses that.
        """
        declared = self._declared.get(name)
        if declared is not None and self._loop.time() - declared < self._renewal_interval:
            return
        task = self._declaring.get(name)
        if task is None:
            task = self._declaring[name] = self._loop.create_task(self._declare(topology, name))
            task.add_done_callback(retrieve)
            task.add_done_callback(lambda _: self._declaring.pop(name, None))
        await asyncio.shield(task)

    async def _declare(self, topology: Topology, name: str) -> None:
        queue = queue_name(self._options.prefix, name)
        declare = partial(topology.connection.queue_declare, queue, durable=True)
        if name in self._foreign:
            try:
                await declare(passive=True)
            except NotFound:
                self._foreign.discard(name)
        if name not in self._foreign:
            try:
                await declare(arguments=queue_arguments(self._options, name))
            except PreconditionFailed:
                self._foreign.add(name)
                logger.warning(
                    "Queue %s has other arguments than expiry and capacity ask for; it is used "
                    "as it is",
                    queue,
                )
        self._declared[name] = self._loop.time()

    def forget(self, name: str) -> None:
        """The queue may be gone."""
        self._declared.pop(name, None)

    def clear(self) -> None:
        """The session ended; all may be gone."""
        self._declared.clear()

    def cancel(self) -> None:
        """Cancel all that is still under way."""
        for task in self._declaring.values():
            task.cancel()
