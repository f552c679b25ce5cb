"""One process's side of ``broker/``, wired as the channel layer does it, for tests without one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator

from channels.exceptions import StopConsumer

from channels_rabbitmq.amqp.channel import Channel
from channels_rabbitmq.broker.groups import Groups
from channels_rabbitmq.broker.normal_channels import NormalChannels
from channels_rabbitmq.broker.peers import Peers
from channels_rabbitmq.broker.recovery import Recovery
from channels_rabbitmq.broker.topology import Topology
from channels_rabbitmq.config.options import Options
from channels_rabbitmq.local.queue_names import QueueNames
from channels_rabbitmq.local.state import LocalState
from channels_rabbitmq.wire.messages import CHANNEL_KEY, BadMessage, Message
from channels_rabbitmq.wire.serializers import make_codec

_numbers = itertools.count()


class Process:
    """What listens to a :class:`Recovery`, and remembers what it is told."""

    def __init__(self, port: int, queue_name: str = "", **config: object) -> None:
        url = f"amqp://guest:guest@127.0.0.1:{port}?heartbeat=0"
        self.options = Options.from_config({"host": url, **config})
        self.names = QueueNames(newest=queue_name or f"channels_{next(_numbers)}")
        self.codec = make_codec(self.options)
        self.state = LocalState(self.options, self.codec.decode)
        loop = asyncio.get_running_loop()
        #: What happened, in order.
        self.events: list[str] = []
        #: Messages to the process's own channels.
        self.delivered: list[tuple[bytes, bool]] = []
        self.bad: list[BadMessage] = []
        #: Sizes of messages that were too large.
        self.oversized: list[int] = []
        self.recovery = Recovery(self.options, self.names, self)
        self.groups = Groups(self.options, self.state, self.recovery, loop)
        self.normal = NormalChannels(
            self.options,
            self.codec,
            self.recovery,
            self.state,
            lambda body, error: self.bad.append(error),
            self.drop_oversized,
        )
        self.peers = Peers(
            self.options,
            self.codec,
            self.names,
            self.recovery,
            self.state,
            self.groups,
            self.normal,
        )

    @property
    def queue_name(self) -> str:
        """The process's queue."""
        return self.names.newest

    def encode(self, channel: str, message: Message) -> bytes:
        """The body of a message to a channel."""
        return self.codec.encode(CHANNEL_KEY, channel, message, 10_000)

    # Listener

    def deliver(self, source: Channel, tag: int, redelivered: bool, body: bytes) -> None:
        """Remember a message, or hand it to the peers."""
        source.ack(tag)
        if body == self.recovery.probe.body:
            self.recovery.probe.end()
            return
        with contextlib.suppress(BadMessage):
            _, name, message = self.codec.decode(body)
            if name.startswith("!") and source.routing()[0] == self.peers.exchange:
                self.peers.handle(name, message)
                return
        self.delivered.append((body, redelivered))

    def drop_oversized(self, source: Channel, tag: int, size: int) -> None:
        """Remember the size."""
        source.ack(tag)
        self.oversized.append(size)

    def routing_keys(self) -> Iterator[str]:
        """The routing keys to bind."""
        yield from self.groups.routing_keys()

    async def topology_starting(self, topology: Topology) -> None:
        """Tell the peers."""
        await self.peers.topology_starting(topology)

    def topology_started(self, topology: Topology) -> None:
        """Tell the parts."""
        self.events.append("started")
        self.normal.topology_started(topology)

    def topology_ended(self) -> None:
        """Tell the parts."""
        self.events.append("ended")
        self.normal.topology_ended()
        self.peers.topology_ended()

    def recovery_ended(self) -> None:
        """Remember it."""
        self.events.append("recovery ended")

    async def close(self) -> None:
        """End everything."""
        self.state.fail_waiters(StopConsumer())
        await self.normal.close()
        self.peers.cancel()
        self.groups.stop(RuntimeError("closed"))
        await self.recovery.close()


@contextlib.asynccontextmanager
async def process(port: int, queue_name: str = "", **config: object) -> AsyncIterator[Process]:
    """A process that is connected, and closed in the end."""
    made = Process(port, queue_name, **config)
    try:
        # However long that takes: send_timeout may be shorter than a busy machine needs.
        await made.recovery.wait_topology(patient=True)
        yield made
    finally:
        await made.close()
