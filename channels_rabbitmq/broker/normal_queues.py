"""The queues of normal channels: how they are named, and declared before they are used.

https://channels.readthedocs.io/en/latest/channel_layer_spec.html#channels

Each normal channel has one durable queue, which all processes share: a classic one, which is on one
node of a cluster and away while that is, or a quorum queue, as ``normal_queue_type`` says.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

import pamqp.commands

from ..amqp.log import NamedLogger
from ..config.options import Options
from ..errors import AmqpError, NotConnected, NotFound, PreconditionFailed
from ..local.background import Background
from .topology import Topology

if TYPE_CHECKING:
    from pamqp.common import Arguments

logger = logging.getLogger(__name__)

#: RabbitMQ keeps times as 32 bits of milliseconds.
_MOST_MS = 2**32 - 1
#: A queue that nobody consumes is kept for so much longer than twice ``expiry``.
_IDLE_MARGIN_MS = 1000
#: Least seconds between two declarations of a queue that is sent to, or bound for a group.
_LEAST_RENEWAL = 0.25


def queue_name(prefix: str, channel: str) -> str:
    """The queue of a normal channel: a name that no other program's queue has."""
    return f"asgi.channel:{prefix}:{channel}"


def queue_arguments(options: Options, channel: str) -> Arguments:
    """The arguments of its queue.

    Publishing does not count as use of a queue (https://www.rabbitmq.com/docs/ttl#queue-ttl), so
    those who send renew it every :func:`renewal_interval`; ``x-expires`` is longer than ``expiry``
    by more than that, so no message goes before its time.
    """
    return {
        # Whatever the virtual host's default is: a quorum queue counts its capacity less exactly.
        "x-queue-type": options.normal_queue_type,
        "x-message-ttl": options.expiry_ms,
        "x-max-length": options.capacity_of(channel),
        "x-overflow": "reject-publish",
        "x-expires": min(2 * options.expiry_ms + _IDLE_MARGIN_MS, _MOST_MS),
    }


def renewal_interval(options: Options) -> float:
    """Seconds between the declarations that keep a queue from expiring while it is sent to."""
    return max(options.expiry / 2, _LEAST_RENEWAL)


class NormalQueues:
    """Declares each queue when it is first used on a topology, and again before it expires."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self._options = options
        self._loop = loop
        self._renewal_interval = renewal_interval(options)
        #: When each queue was last declared on this topology.
        self._declared: dict[str, float] = {}
        #: Declarations under way, each for all who ask meanwhile. They end with the connection.
        self._declaring: dict[str, asyncio.Task[None]] = {}
        #: Channels whose queues were there with other arguments.
        self._foreign: set[str] = set()
        self._tasks = Background(loop, options.connection_name)
        self._log = NamedLogger(logger, options.connection_name)

    async def ensure(self, topology: Topology, name: str, not_before: float | None = None) -> None:
        """Declare the queue of a channel, unless that was done a short while ago.

        How long ago is ``not_before``, or else the time in which no queue expires.

        Raises :class:`.ChannelClosedByServer` where RabbitMQ refuses that, and
        :class:`~channels_rabbitmq.errors.NotConnected` while the queue's node is down.
        """
        declared = self._declared.get(name)
        limit = self._renewal_interval if not_before is None else not_before
        if declared is not None and self._loop.time() - declared < limit:
            return
        task = self._declaring.get(name)
        if task is None:
            task = self._tasks.spawn(self._declare(topology, name), AmqpError, NotConnected)
            self._declaring[name] = task
            task.add_done_callback(partial(self._forget_task, name))
        await asyncio.shield(task)

    def _forget_task(self, name: str, task: asyncio.Task[None]) -> None:
        if self._declaring.get(name) is task:
            del self._declaring[name]

    async def _declare(self, topology: Topology, name: str) -> None:
        queue = queue_name(self._options.prefix, name)
        if name in self._foreign:
            look = pamqp.commands.Queue.Declare(queue=queue, durable=True, passive=True)
            try:
                await topology.calls.run(look)
            except NotFound:
                self._foreign.discard(name)
        if name not in self._foreign:
            arguments = queue_arguments(self._options, name)
            declare = pamqp.commands.Queue.Declare(queue=queue, durable=True, arguments=arguments)
            try:
                await topology.calls.run(declare)
            except NotFound:
                # What is to be declared is not found when it is there, and its node is not:
                # https://www.rabbitmq.com/docs/classic-queues
                raise NotConnected(
                    f"the node of RabbitMQ that has the queue of channel {name} is down"
                ) from None
            except PreconditionFailed:
                self._foreign.add(name)
                self._log.warning(
                    "Queue %s has other arguments than the options ask for; it is used as it is",
                    queue,
                )
        self._declared[name] = self._loop.time()

    def limit(self, name: str) -> str:
        """How many messages the queue of a channel holds, in words."""
        if name in self._foreign:
            return "its queue was declared with another capacity"
        return f"capacity {self._options.capacity_of(name)}"

    def forget(self, name: str) -> None:
        """Declare the queue at its next use: it may have been deleted."""
        self._declared.pop(name, None)

    def forget_all(self) -> None:
        """Declare every queue at its next use: the topology has ended."""
        self._declared.clear()
        self._declaring.clear()
