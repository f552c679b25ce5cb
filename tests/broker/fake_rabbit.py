"""A RabbitMQ in miniature, on a real loopback socket, that refuses and loses what tests want.

It has what ``broker/`` uses of one virtual host: the default exchange and direct ones, queues,
consumers with a prefetch count, confirms, and messages that come back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import pamqp.body
import pamqp.header
from pamqp.commands import Basic, Channel, Confirm, Connection, Exchange, Queue

from tests.helpers.scripted import ScriptedServer, serve

#: How a method is refused: reply code and text.
Refusal = tuple[int, str]


@dataclass
class Link:
    """One connection, and what is on it."""

    peer: ScriptedServer
    #: Publishes so far, by channel.
    published: Counter[int] = field(default_factory=Counter)
    #: The prefetch count of each channel; 0 is no limit.
    prefetch: Counter[int] = field(default_factory=Counter)
    #: The last delivery tag, and the deliveries that are not acknowledged, by channel.
    tags: Counter[int] = field(default_factory=Counter)
    unacknowledged: dict[int, dict[int, FakeQueue]] = field(default_factory=dict)

    def send_close(self, channel: int, code: int, text: str) -> None:
        """Close a channel over an error."""
        self.peer.send(channel, Channel.Close(code, text, 0, 0))


class Stored(bytes):
    """A message in a queue."""

    exchange = ""

    @classmethod
    def published(cls, exchange: str, body: bytes) -> Self:
        """A message that was published to an exchange."""
        message = cls(body)
        message.exchange = exchange
        return message


@dataclass
class FakeQueue:
    """A queue, its messages, and its only consumer."""

    name: str
    owner: Link | None
    arguments: dict[str, Any]
    messages: deque[Stored] = field(default_factory=deque)
    consumer: tuple[Link, int, str] | None = None


class FakeRabbit:
    """The server: :func:`running` gives one, and its port."""

    def __init__(self) -> None:
        #: Every method that came, on whichever connection, in order; but for those of probes.
        self.methods: list[Any] = []
        self.links: list[Link] = []
        self.exchanges: dict[str, str] = {}
        self.queues: dict[str, FakeQueue] = {}
        #: (exchange, routing key) -> names of queues.
        self.bindings: dict[tuple[str, str], set[str]] = {}
        #: Gives how to refuse a method; None to do it.
        self.refuse: Callable[[Any], Refusal | None] = lambda method: None
        #: Methods that are not answered.
        self.silent: tuple[type, ...] = ()
        #: Gives the name of a queue that stores no more.
        self.full: set[str] = set()
        #: Publishes are not confirmed.
        self.confirms = True
        #: How many AMQP channels it allows on a connection.
        self.channel_max = 2047

    # What tests do

    def seen(self, kind: type) -> list[Any]:
        """The methods of a kind that came."""
        return [method for method in self.methods if isinstance(method, kind)]

    def bound(self, exchange: str = "groups") -> dict[str, list[str]]:
        """The queues that are bound to an exchange, by routing key; those that groups can have."""
        return {
            key: sorted(queues)
            for (name, key), queues in self.bindings.items()
            if name == exchange and queues and not key.startswith("!")
        }

    def cut(self) -> None:
        """Drop every connection without a word."""
        for link in list(self.links):
            link.peer.writer.transport.abort()
            self._forget(link)

    def publish(self, exchange: str, routing_key: str, body: bytes) -> None:
        """Publish a message as another program would."""
        for queue in self._route(exchange, routing_key):
            queue.messages.append(Stored.published(exchange, body))
            self._deliver(queue)

    def delete_queue(self, name: str) -> None:
        """Delete a queue, and tell its consumer."""
        queue = self.queues.pop(name)
        for queues in self.bindings.values():
            queues.discard(name)
        if queue.consumer is not None:
            link, channel, tag = queue.consumer
            link.peer.send(channel, Basic.Cancel(tag, True))

    # The server

    async def serve(self, peer: ScriptedServer) -> None:
        """Serve one connection: the script of :func:`tests.helpers.scripted.serve`."""
        await peer.handshake(channel_max=self.channel_max)
        link = Link(peer)
        self.links.append(link)
        try:
            while True:
                method = await peer.read()
                body = b""
                if isinstance(method, Basic.Publish):
                    header = await peer.expect(pamqp.header.ContentHeader)
                    while len(body) < header.body_size:
                        body += (await peer.expect(pamqp.body.ContentBody)).value
                self._handle(link, peer.channel, method, body)
        finally:
            self._forget(link)

    def _forget(self, link: Link) -> None:
        if link in self.links:
            self.links.remove(link)
        for name, queue in list(self.queues.items()):
            if queue.consumer is not None and queue.consumer[0] is link:
                queue.consumer = None
            if queue.owner is link:
                del self.queues[name]
                for queues in self.bindings.values():
                    queues.discard(name)

    def _handle(self, link: Link, channel: int, method: Any, body: bytes) -> None:
        if not str(getattr(method, "routing_key", "")).startswith("!probe."):
            self.methods.append(method)
        refusal = self.refuse(method)
        if refusal is not None:
            link.send_close(channel, *refusal)
        elif not isinstance(method, self.silent):
            handler = getattr(self, f"_on_{method.name.replace('.', '_').lower()}")
            handler(link, channel, method, body)

    def _on_channel_open(self, link: Link, channel: int, method: Channel.Open, body: bytes) -> None:
        for counter in (link.published, link.prefetch, link.tags):
            counter.pop(channel, None)
        link.unacknowledged[channel] = {}
        link.peer.send(channel, Channel.OpenOk())

    def _on_channel_close(self, link: Link, channel: int, method: object, body: bytes) -> None:
        link.peer.send(channel, Channel.CloseOk())

    def _on_channel_closeok(self, link: Link, channel: int, method: object, body: bytes) -> None:
        pass

    def _on_connection_close(self, link: Link, channel: int, method: object, body: bytes) -> None:
        self._forget(link)
        link.peer.send(0, Connection.CloseOk())

    def _on_confirm_select(self, link: Link, channel: int, method: object, body: bytes) -> None:
        link.peer.send(channel, Confirm.SelectOk())

    def _on_exchange_declare(
        self, link: Link, channel: int, method: Exchange.Declare, body: bytes
    ) -> None:
        if method.passive and method.exchange not in self.exchanges:
            link.send_close(channel, 404, "NOT_FOUND - no exchange")
            return
        self.exchanges.setdefault(method.exchange, method.exchange_type)
        link.peer.send(channel, Exchange.DeclareOk())

    def _on_queue_declare(
        self, link: Link, channel: int, method: Queue.Declare, body: bytes
    ) -> None:
        queue = self.queues.get(method.queue)
        arguments = dict(method.arguments or {})
        if queue is None and method.passive:
            link.send_close(channel, 404, "NOT_FOUND - no queue")
            return
        if queue is not None and queue.owner not in (None, link):
            link.send_close(channel, 405, "RESOURCE_LOCKED - cannot obtain exclusive access")
            return
        if queue is None:
            owner = link if method.exclusive else None
            queue = self.queues[method.queue] = FakeQueue(method.queue, owner, arguments)
        elif not method.passive and queue.arguments != arguments:
            link.send_close(channel, 406, "PRECONDITION_FAILED - inequivalent arg")
            return
        consumers = int(queue.consumer is not None)
        link.peer.send(channel, Queue.DeclareOk(queue.name, len(queue.messages), consumers))

    def _on_queue_bind(self, link: Link, channel: int, method: Queue.Bind, body: bytes) -> None:
        if method.queue not in self.queues:
            link.send_close(channel, 404, "NOT_FOUND - no queue")
            return
        key = (method.exchange, method.routing_key)
        self.bindings.setdefault(key, set()).add(method.queue)
        if not method.nowait:
            link.peer.send(channel, Queue.BindOk())

    def _on_queue_unbind(self, link: Link, channel: int, method: Queue.Unbind, body: bytes) -> None:
        self.bindings.get((method.exchange, method.routing_key), set()).discard(method.queue)
        link.peer.send(channel, Queue.UnbindOk())

    def _on_queue_purge(self, link: Link, channel: int, method: Queue.Purge, body: bytes) -> None:
        queue = self.queues.get(method.queue)
        if queue is None:
            link.send_close(channel, 404, "NOT_FOUND - no queue")
            return
        queue.messages.clear()
        link.peer.send(channel, Queue.PurgeOk(0))

    def _on_queue_delete(self, link: Link, channel: int, method: Queue.Delete, body: bytes) -> None:
        queue = self.queues.pop(method.queue, None)
        if queue is not None and queue.consumer is not None:
            queue.consumer[0].peer.send(queue.consumer[1], Basic.Cancel(queue.consumer[2], True))
        link.peer.send(channel, Queue.DeleteOk(0))

    def _on_basic_qos(self, link: Link, channel: int, method: Basic.Qos, body: bytes) -> None:
        link.prefetch[channel] = method.prefetch_count
        link.peer.send(channel, Basic.QosOk())

    def _on_basic_consume(
        self, link: Link, channel: int, method: Basic.Consume, body: bytes
    ) -> None:
        queue = self.queues.get(method.queue)
        if queue is None:
            link.send_close(channel, 404, "NOT_FOUND - no queue")
            return
        queue.consumer = (link, channel, method.consumer_tag)
        link.peer.send(channel, Basic.ConsumeOk(method.consumer_tag))
        self._deliver(queue)

    def _on_basic_cancel(self, link: Link, channel: int, method: Basic.Cancel, body: bytes) -> None:
        for queue in self.queues.values():
            if queue.consumer == (link, channel, method.consumer_tag):
                queue.consumer = None
        link.peer.send(channel, Basic.CancelOk(method.consumer_tag))

    def _on_basic_ack(self, link: Link, channel: int, method: Basic.Ack, body: bytes) -> None:
        held = link.unacknowledged[channel]
        done = [tag for tag in held if tag == method.delivery_tag]
        if method.multiple:
            done = [tag for tag in held if tag <= method.delivery_tag]
        for queue in {held.pop(tag).name: None for tag in done}:
            if queue in self.queues:
                self._deliver(self.queues[queue])

    def _on_basic_publish(
        self, link: Link, channel: int, method: Basic.Publish, body: bytes
    ) -> None:
        link.published[channel] += 1
        tag = link.published[channel]
        queues = self._route(method.exchange, method.routing_key)
        if method.mandatory and not queues:
            link.peer.send_content(
                channel,
                Basic.Return(312, "NO_ROUTE", method.exchange, method.routing_key),
                body,
            )
        full = [queue for queue in queues if queue.name in self.full]
        for queue in queues:
            if queue not in full:
                queue.messages.append(Stored.published(method.exchange, body))
        if self.confirms:
            link.peer.send(channel, Basic.Nack(tag) if full else Basic.Ack(tag))
        for queue in queues:
            self._deliver(queue)

    def _route(self, exchange: str, routing_key: str) -> list[FakeQueue]:
        if not exchange:
            return [self.queues[routing_key]] if routing_key in self.queues else []
        names = self.bindings.get((exchange, routing_key), set())
        return [self.queues[name] for name in sorted(names)]

    def _deliver(self, queue: FakeQueue) -> None:
        while queue.messages and queue.consumer is not None:
            link, channel, consumer_tag = queue.consumer
            held = link.unacknowledged[channel]
            if link.prefetch[channel] and len(held) >= link.prefetch[channel]:
                return
            link.tags[channel] += 1
            tag = link.tags[channel]
            held[tag] = queue
            body = queue.messages.popleft()
            link.peer.send_content(
                channel, Basic.Deliver(consumer_tag, tag, False, body.exchange, ""), body
            )


@contextlib.asynccontextmanager
async def running(rabbit: FakeRabbit) -> AsyncIterator[int]:
    """Run the server; give its port."""
    async with serve(rabbit.serve) as port:
        yield port
        rabbit.cut()
        await asyncio.sleep(0)
