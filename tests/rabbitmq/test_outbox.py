"""The outbox's backend: an event is published once RabbitMQ says so, and never else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import secrets
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiormq
import pytest

from channels_rabbitmq.broadcaster import RabbitmqBackend
from channels_rabbitmq.contrib import blocking_publisher
from channels_rabbitmq.errors import (
    AccessRefused,
    MessageReturned,
    NotConnected,
    NotFound,
    PreconditionFailed,
    ServerSentNack,
)
from devtools.broker import Broker
from tests.helpers.pages import run_at, snippet
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import api, close_connections, connections, memory_alarm
from tests.helpers.waiting import until

THREAD = "channels_rabbitmq outbox"


@dataclass
class Event:
    """An event as the outbox has it."""

    type: str = "order.placed"
    data: object = field(default_factory=lambda: {"total": 12.5})
    publisher_config: dict[str, object] = field(default_factory=dict)
    id: uuid.UUID = field(default_factory=uuid.uuid4)

    def to_cloud_event(self) -> dict[str, object]:
        return {
            "specversion": "1.0",
            "type": self.type,
            "source": "/shop",
            "id": str(self.id),
            "time": "2026-01-02T03:04:05+00:00",
            "datacontenttype": "application/json",
            "data": self.data,
        }


MakeBackend = Callable[..., RabbitmqBackend]


@pytest.fixture
def make(private_url: str) -> Iterator[MakeBackend]:
    """A function that makes backends; all of them are closed afterwards."""
    backends: list[RabbitmqBackend] = []

    def make(**options: object) -> RabbitmqBackend:
        backends.append(RabbitmqBackend({"url": private_url, **options}))
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()


@pytest.fixture
async def other(private_url: str) -> AsyncIterator[Any]:
    """A channel of another client."""
    async with await aiormq.connect(private_url) as connection:
        yield await connection.channel()


async def bound(other: Any, key: str = "#", exchange: str = "events", **arguments: object) -> str:
    """A new queue, bound to an exchange that is declared where it is missing."""
    await other.exchange_declare(exchange, exchange_type="topic", durable=True)
    queue: str = (await other.queue_declare(exclusive=True, arguments=arguments or None)).queue
    await other.queue_bind(queue, exchange, key)
    return queue


async def taken(other: Any, queue: str) -> Any:
    """The next message of a queue."""
    found = []

    async def get() -> bool:
        message = await other.basic_get(queue, no_ack=True)
        found.append(message)
        return bool(message.delivery_tag)

    await until(get)
    return found[-1]


async def publish(backend: RabbitmqBackend, event: Event | None = None) -> bool:
    """Publish, while the event loop runs."""
    return await asyncio.to_thread(backend.publish, event or Event())


async def repeat(times: int, backend: RabbitmqBackend) -> None:
    """Publish one event after the other."""
    for _ in range(times):
        await publish(backend)


async def healthy(backend: RabbitmqBackend) -> bool:
    """Check the health, while the event loop runs."""
    return await asyncio.to_thread(backend.health_check)


def threads() -> int:
    """How many threads of backends there are."""
    return sum(thread.name == THREAD for thread in threading.enumerate())


# Publishing


async def test_structured(make: MakeBackend, other: Any) -> None:
    """True means that a queue has the event: persistent, with its id, whole in the body."""
    queue = await bound(other)
    event = Event()
    assert await publish(make(), event) is True
    message = await taken(other, queue)
    properties = message.header.properties
    assert json.loads(message.body) == event.to_cloud_event()
    assert properties.content_type == "application/cloudevents+json; charset=utf-8"
    assert (properties.delivery_mode, properties.message_id) == (2, str(event.id))
    assert message.delivery.routing_key == "order.placed"


async def test_binary(make: MakeBackend, other: Any) -> None:
    """In binary mode the body is the data, and the headers have the rest."""
    queue = await bound(other)
    event = Event()
    assert await publish(make(mode="binary"), event) is True
    message = await taken(other, queue)
    properties = message.header.properties
    assert json.loads(message.body) == event.data
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    assert properties.headers["cloudEvents_id"] == properties.message_id == str(event.id)
    assert properties.headers["cloudEvents_time"] == "2026-01-02T03:04:05+00:00"


async def test_no_queue_for_it(make: MakeBackend, other: Any) -> None:
    """An event that reaches no queue is not published; it is once there is one."""
    backend = make()
    with pytest.raises(MessageReturned):
        await publish(backend)
    queue = await bound(other)
    assert await publish(backend) is True
    assert (await taken(other, queue)).body


async def test_a_full_queue(make: MakeBackend, other: Any) -> None:
    """An event that a queue refuses is not published."""
    await bound(other, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    backend = make()
    assert await publish(backend) is True
    with pytest.raises(ServerSentNack):
        await repeat(5, backend)


async def test_too_large(make: MakeBackend, other: Any, broker: Broker) -> None:
    """An event that RabbitMQ finds too large raises what RabbitMQ said; the next one goes out."""
    if broker.version < (4,):
        pytest.skip("the limit of this version is 128 MiB")
    await bound(other)
    backend = make()
    with pytest.raises(PreconditionFailed, match="larger than"):
        await publish(backend, Event(data="x" * (17 << 20)))
    assert await publish(backend) is True


async def test_events_that_cannot_be_sent(make: MakeBackend, other: Any) -> None:
    """What is wrong with an event is raised, and costs nothing."""
    await bound(other)
    backend = make()
    with pytest.raises(ValueError, match="routing_key must have at most 255 bytes"):
        await publish(backend, Event(type="x" * 256))
    with pytest.raises(ValueError, match="must have a 'type' that is not empty"):
        await publish(backend, Event(type=""))
    with pytest.raises(ValueError, match="may have exchange and routing_key, not 'exchanges'"):
        await publish(backend, Event(publisher_config={"exchanges": "x"}))
    with pytest.raises(TypeError, match="'exchange' in publisher_config must be a str, not int"):
        await publish(backend, Event(publisher_config={"exchange": 5}))
    with pytest.raises(ValueError, match="a routing key may have"):
        await publish(backend, Event(publisher_config={"routing_key": "{data}"}))
    assert await publish(backend) is True


# Where to


async def test_routing_key(make: MakeBackend, other: Any) -> None:
    """The template's routing key is what queues are bound by."""
    queue = await bound(other, "shop.order.*")
    backend = make(routing_key="shop.{type}")
    assert await publish(backend, Event()) is True
    with pytest.raises(MessageReturned):
        await publish(backend, Event(type="parcel.sent"))
    assert (await taken(other, queue)).delivery.routing_key == "shop.order.placed"


async def test_an_event_with_its_own_route(make: MakeBackend, other: Any) -> None:
    """An event's own configuration comes first; an exchange that is not there is not made."""
    queue = await bound(other, exchange="elsewhere")
    backend = make()
    own = {"exchange": "elsewhere", "routing_key": "own.{type}"}
    assert await publish(backend, Event(publisher_config=own)) is True
    assert (await taken(other, queue)).delivery.routing_key == "own.order.placed"

    to_queue = {"exchange": "", "routing_key": queue}
    assert await publish(backend, Event(publisher_config=to_queue)) is True
    assert (await taken(other, queue)).delivery.exchange == ""

    with pytest.raises(NotFound, match="no exchange 'nowhere'"):
        await publish(backend, Event(publisher_config={"exchange": "nowhere"}))
    assert await publish(backend, Event(publisher_config=own)) is True


async def test_exchange_is_declared(make: MakeBackend, broker: Broker, vhost: str) -> None:
    """An exchange that is missing is declared, durable; again if somebody deletes it."""
    backend = make(exchange="outbox", exchange_type="fanout")
    for _ in range(2):
        with pytest.raises(MessageReturned):
            await publish(backend)
        found = await api(broker, "GET", f"exchanges/{vhost}/outbox")
        assert (found["type"], found["durable"], found["auto_delete"]) == ("fanout", True, False)
        await api(broker, "DELETE", f"exchanges/{vhost}/outbox")
        with pytest.raises(NotFound):
            await publish(backend)


async def test_exchange_that_is_there(make: MakeBackend, other: Any) -> None:
    """An exchange that is there is used as it is, whatever it is."""
    await other.exchange_declare("events", exchange_type="direct", auto_delete=True)
    queue = (await other.queue_declare(exclusive=True)).queue
    await other.queue_bind(queue, "events", "order.placed")
    assert await publish(make()) is True
    assert (await taken(other, queue)).body


async def test_default_exchange(make: MakeBackend, other: Any) -> None:
    """With the default exchange, the routing key is the queue."""
    queue = (await other.queue_declare("order.placed")).queue
    assert await publish(make(exchange="")) is True
    assert (await taken(other, queue)).body
    await other.queue_delete(queue)


@pytest.mark.parametrize("exchange", ["events", ""])
async def test_stream(
    make: MakeBackend, broker: Broker, vhost: str, private_url: str, exchange: str
) -> None:
    """A stream keeps every event, and one that is there is used as it is."""
    backend = make(exchange=exchange, stream="all", max_length_bytes=1_000_000)
    events = [Event(), Event(type="parcel.sent")]
    for event in events:
        assert await publish(backend, event) is True
    again = make(exchange=exchange, stream="all", max_length_bytes=5)
    assert await publish(again, events[0]) is True
    declared = await api(broker, "GET", f"queues/{vhost}/all")
    assert declared["arguments"] == {"x-queue-type": "stream", "x-max-length-bytes": 1_000_000}

    ids: list[str] = []
    async with await aiormq.connect(private_url) as connection:
        channel = await connection.channel()
        await channel.basic_qos(prefetch_count=10)

        async def read(message: Any) -> None:
            ids.append(message.header.properties.message_id)
            await channel.basic_ack(message.delivery_tag)

        await channel.basic_consume("all", read, arguments={"x-stream-offset": "first"})
        await until(lambda: len(ids) == 3)
    assert ids == [str(event.id) for event in (*events, events[0])]


async def test_the_documented_backend(private_url: str, other: Any) -> None:
    """The backend of the documentation publishes, to the stream that it declares."""
    example: Any = run_at(snippet("docs/outbox.rst", "outbox-alone"), private_url)
    await asyncio.to_thread(example["publish"], Event())
    example["backend"].close()
    assert (await other.queue_declare("orders", passive=True)).queue == "orders"


# The connection


async def test_making_one_does_nothing(proxy: Proxy, make: MakeBackend) -> None:
    """There is no connection and no thread until something is published."""
    backend = make(url=proxy.url)
    await asyncio.sleep(0)
    assert (proxy.accepted, threads()) == (0, 0)
    with pytest.raises(MessageReturned):
        await publish(backend)
    assert (proxy.accepted, threads()) == (1, 1)
    backend.close()
    assert threads() == 0
    assert backend.get_name() == "RabbitMQ"


async def test_one_connection_for_all_threads(proxy: Proxy, make: MakeBackend, other: Any) -> None:
    """Threads share the connection, and each learns of its own event."""
    queue = await bound(other)
    backend = make(url=proxy.url)
    with ThreadPoolExecutor(8) as pool:
        loop = asyncio.get_running_loop()
        done = await asyncio.gather(
            *(loop.run_in_executor(pool, backend.publish, Event()) for _ in range(200))
        )
    assert done == [True] * 200
    assert proxy.accepted == 1
    assert (await other.queue_declare(queue, passive=True)).message_count == 200


async def test_connection_lost(proxy: Proxy, make: MakeBackend, other: Any) -> None:
    """After a cut the health check connects anew, and the next event goes out."""
    await bound(other)
    backend = make(url=proxy.url)
    assert await publish(backend) is True
    proxy.cut()

    async def healthy_again() -> bool:
        # At first it has an answer of less than a second ago, which is good enough for it.
        return await healthy(backend) and proxy.accepted == 2

    assert await until(healthy_again)
    assert await publish(backend) is True
    assert proxy.accepted == 2


async def test_closed_by_the_server(make: MakeBackend, broker: Broker, vhost: str) -> None:
    """A connection that RabbitMQ closes costs no event that was not under way."""
    backend = make(stream="all")
    assert await publish(backend) is True
    await close_connections(broker, vhost)
    assert await until(lambda: healthy(backend))
    assert await publish(backend) is True


async def test_rabbitmq_away(proxy: Proxy, make: MakeBackend) -> None:
    """While RabbitMQ is away, publishing raises why, and the health check says no."""
    await proxy.refuse()
    backend = make(url=proxy.url)
    with pytest.raises(NotConnected, match="Cannot connect to RabbitMQ") as caught:
        await publish(backend)
    assert not caught.value.sent
    assert "guest" not in str(caught.value)
    assert not await healthy(backend)
    await proxy.accept()
    assert await until(lambda: healthy(backend))


async def test_a_batch_while_rabbitmq_is_silent(proxy: Proxy, make: MakeBackend) -> None:
    """Silence costs the time-out once, and not once for each event of a batch."""
    proxy.freeze()
    backend = make(url=proxy.url, health_timeout=0.5, publish_timeout=0.5)
    for call in (healthy, publish):
        began = time.monotonic()
        for _ in range(20):
            with contextlib.suppress(NotConnected):
                assert not await call(backend)
        assert time.monotonic() - began < 20 * 0.5
    with pytest.raises(NotConnected, match=r"no answer in time|did not answer"):
        await publish(backend)


async def test_short_checks_leave_a_publish_its_time(
    proxy: Proxy, make: MakeBackend, other: Any
) -> None:
    """What still waits for its confirm goes on waiting, on the same connection."""
    queue = await bound(other)
    backend = make(url=proxy.url, health_timeout=0.1)
    assert await publish(backend) is True
    await taken(other, queue)
    link = backend._publisher._running.link
    assert link is not None
    proxy.freeze()
    publishing = asyncio.ensure_future(publish(backend))
    await until(lambda: link._publishes)
    for _ in range(3):
        link._answered -= 1.0  # or the check would ask nothing
        assert not await healthy(backend)
    assert not publishing.done()
    proxy.thaw()
    assert await publishing is True
    assert proxy.accepted == 1
    assert (await taken(other, queue)).body
    assert (await other.basic_get(queue, no_ack=True)).delivery_tag is None


async def test_short_checks_leave_connecting_its_time(
    proxy: Proxy, make: MakeBackend, other: Any
) -> None:
    """Neither one that waits for another's connection ends that, nor what came of its own."""
    await bound(other)
    backend = make(url=proxy.url, health_timeout=0.1)
    proxy.freeze()
    assert not await healthy(backend)
    publishing = asyncio.ensure_future(publish(backend))
    await until(lambda: proxy.accepted == 2)
    for _ in range(3):
        assert not await healthy(backend)
    assert not publishing.done()
    proxy.thaw()
    assert await publishing is True
    assert proxy.accepted == 2


async def test_silent_without_publishes(proxy: Proxy, make: MakeBackend) -> None:
    """A check that alone had no answer gives the connection up."""
    backend = make(url=proxy.url, health_timeout=0.5)
    assert await until(lambda: healthy(backend))
    link = backend._publisher._running.link
    assert link is not None
    assert link._connection is not None
    protocol = link._connection.protocol
    proxy.freeze()
    link._answered -= 1.0
    assert not await healthy(backend)
    await until(lambda: not protocol.open)
    proxy.thaw()
    assert await until(lambda: healthy(backend))


async def test_frozen(proxy: Proxy, make: MakeBackend, other: Any) -> None:
    """A confirm that does not come in time is an error, and the connection is given up."""
    await bound(other)
    backend = make(url=proxy.url, publish_timeout=2)
    assert await healthy(backend)
    assert await publish(backend) is True
    proxy.freeze()
    with pytest.raises(NotConnected, match="did not answer within 2 s") as caught:
        await publish(backend)
    assert caught.value.sent
    proxy.thaw()
    assert await until(lambda: healthy(backend))
    assert await publish(backend) is True


async def test_alarm(make: MakeBackend, other: Any, broker: Broker) -> None:
    """During an alarm publishing fails, and the health check says no; after it all is well."""
    await bound(other)
    backend = make(publish_timeout=5)
    assert await healthy(backend)
    assert await publish(backend) is True
    async with memory_alarm(broker):
        with pytest.raises(NotConnected, match="RabbitMQ takes no messages: ") as caught:
            await repeat(1000, backend)
        assert caught.value.sent  # it is in answer to a message that RabbitMQ tells of an alarm
        assert not await healthy(backend)
        with pytest.raises(NotConnected, match="RabbitMQ takes no messages: ") as caught:
            await publish(backend)
        assert not caught.value.sent
    assert await until(lambda: healthy(backend))
    assert await publish(backend) is True


async def test_health_check_is_cheap(proxy: Proxy, make: MakeBackend, other: Any) -> None:
    """Between events nothing is asked; a fresh answer counts."""
    await bound(other)
    backend = make(url=proxy.url)
    assert await healthy(backend)
    assert await publish(backend) is True
    asked: list[float] = []
    link = backend._publisher._running.link
    assert link is not None
    assert link._connection is not None
    call = link._connection.exchange_declare
    link._connection.exchange_declare = lambda *a, **k: (asked.append(1), call(*a, **k))[1]  # type: ignore[method-assign]
    for _ in range(100):
        assert await publish(backend) is True
        assert await healthy(backend)
    assert asked == []
    sent = proxy.bytes_up
    crossed: list[object] = []
    run = backend._publisher._run
    backend._publisher._run = lambda *args: (crossed.append(args), run(*args))[1]  # type: ignore[method-assign]
    for _ in range(100):
        link._answered = link._loop.time()
        assert await healthy(backend)
    assert (crossed, proxy.bytes_up) == ([], sent)
    link._answered -= 1.0
    assert await healthy(backend)
    assert len(asked) == 1


async def test_health_check_never_raises(
    make: MakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong is logged, at a limited rate, and the answer is no."""
    refused = make(url="amqp://nobody:hunter2@127.0.0.1:1")
    missing = make(stream="no such type", exchange_type="topic", exchange="events")
    with caplog.at_level(logging.WARNING):
        assert [await healthy(refused) for _ in range(5)] == [False] * 5
    assert len(caplog.records) == 1
    assert "The outbox cannot publish: Cannot connect" in caplog.text
    assert "hunter2" not in caplog.text
    missing._publisher._prepare = None  # type: ignore[assignment]
    assert not await healthy(missing)
    assert "A bug in channels_rabbitmq" in caplog.text


async def test_tls(tls_url: str, certs: Path, make: MakeBackend, other: Any) -> None:
    """TLS works as it does for the layer: by the URL's parameters."""
    certificate = certs / "ca.cert"
    await bound(other)
    files = f"cacertfile={certificate}&certfile={certs}/client.certchain&keyfile={certs}/client.key"
    assert await publish(make(url=f"{tls_url}?{files}")) is True


async def test_wrong_password(make: MakeBackend, private_url: str) -> None:
    """A wrong password is said in RabbitMQ's words."""
    backend = make(url=private_url.replace("guest:guest", "guest:hunter2"))
    with pytest.raises(NotConnected, match="ACCESS_REFUSED") as caught:
        await publish(backend)
    assert "hunter2" not in str(caught.value)


async def test_several_nodes(make: MakeBackend, private_url: str, other: Any) -> None:
    """Of several URLs one that answers will do."""
    await bound(other)
    backend = make(url=["amqp://127.0.0.1:1", private_url, "amqp://127.0.0.1:2"])
    for _ in range(5):
        assert await publish(backend) is True
        backend.close()


# The end


async def test_collected(make: MakeBackend, private_url: str, broker: Broker, vhost: str) -> None:
    """A backend that nobody has any more leaves RabbitMQ, and its thread ends."""
    backend = RabbitmqBackend({"url": private_url})
    assert await healthy(backend)
    assert threads() == 1
    assert len(await connections(broker, vhost)) == 1
    del backend
    gc.collect()
    await until(lambda: threads() == 0)

    async def none_left() -> bool:
        return not await connections(broker, vhost)

    await until(none_left)


async def test_closed_meanwhile(proxy: Proxy, make: MakeBackend) -> None:
    """Who publishes while another thread closes learns of it, and the next call connects again."""
    backend = make(url=proxy.url)
    assert await healthy(backend)
    proxy.freeze()
    publishing = asyncio.ensure_future(publish(backend))
    link = backend._publisher._running.link
    assert link is not None
    assert link._connection is not None
    protocol = link._connection.protocol
    await until(lambda: len(protocol._channels) > 1)
    await asyncio.to_thread(backend.close)
    with pytest.raises((NotConnected, OSError, Exception), match="closed"):
        await publishing
    proxy.thaw()
    assert await until(lambda: healthy(backend))


async def test_thread_that_stands_still(make: MakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the connection's thread hangs, the call ends."""
    monkeypatch.setattr(blocking_publisher, "_THREAD_MARGIN", 0.1)
    backend = make()
    assert await healthy(backend)
    link = backend._publisher._running.link
    assert link is not None
    link._answered -= 1.0
    go_on = threading.Event()
    link._loop.call_soon_threadsafe(go_on.wait, 30)
    with pytest.raises(NotConnected, match="the thread of the connection does not answer"):
        await asyncio.to_thread(backend._publisher.check, timeout=0.1)
    go_on.set()
    assert await until(lambda: healthy(backend))


async def test_thread_that_ended(make: MakeBackend) -> None:
    """Once the connection's thread has ended, the next call starts another."""
    backend = make()
    assert await healthy(backend)
    thread = backend._publisher._running.thread
    assert thread is not None
    await asyncio.to_thread(thread.stop, 10)
    assert await healthy(backend)
    assert backend._publisher._running.thread is not thread


async def test_unknown_host(make: MakeBackend, private_url: str, other: Any) -> None:
    """A name that cannot be resolved is said, or passed over where there are other nodes."""
    backend = make(url="amqp://no-such-host.invalid")
    with pytest.raises(NotConnected, match=r"no-such-host\.invalid:5672"):
        await publish(backend)
    await bound(other)
    assert await publish(make(url=["amqp://no-such-host.invalid", private_url])) is True


async def test_permissions(broker: Broker, vhost: str, make: MakeBackend, other: Any) -> None:
    """The right to write to an exchange that is there is all that publishing needs."""
    queue = await bound(other)
    name = f"outbox-{secrets.token_hex(4)}"
    await api(broker, "PUT", f"users/{name}", {"password": "secret", "tags": ""})
    rights = {"configure": "^$", "write": "^events$", "read": "^$"}
    await api(broker, "PUT", f"permissions/{vhost}/{name}", rights)
    try:
        backend = make(url=backend_url(broker, vhost, name))
        assert await healthy(backend)
        assert await publish(backend) is True
        assert (await taken(other, queue)).body
        stream = make(url=backend_url(broker, vhost, name), stream="all")
        assert not await healthy(stream)
        with pytest.raises(AccessRefused, match="access to queue 'all'"):
            await publish(stream)
        rights = {"configure": "^all$", "write": "^(events|all)$", "read": "^events$"}
        await api(broker, "PUT", f"permissions/{vhost}/{name}", rights)
        assert await until(lambda: healthy(stream))
        assert await publish(stream) is True
    finally:
        await api(broker, "DELETE", f"users/{name}")


def backend_url(broker: Broker, vhost: str, user: str) -> str:
    """The virtual host's address, for a user."""
    return f"{broker.url}/{vhost}".replace("guest:guest", f"{user}:secret")


async def test_keyboard_interrupt_gives_up(
    make: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the wait of the caller ends the call, too."""
    monkeypatch.setattr(blocking_publisher, "_THREAD_MARGIN", 0.1)
    backend = make()
    started = threading.Event()
    gone: list[BaseException] = []

    async def for_ever(link: object) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as err:
            gone.append(err)
            raise

    def call() -> None:
        with contextlib.suppress(NotConnected):
            backend._publisher._run(for_ever, 0.2)

    await asyncio.to_thread(call)
    assert started.is_set()
    await until(lambda: gone)
