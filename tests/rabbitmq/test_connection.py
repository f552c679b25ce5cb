"""Every operation of the connection that users hold, against a real broker."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pamqp.commands
import pytest

from channels_rabbitmq.amqp.calls import Calls
from channels_rabbitmq.amqp.frames import Method
from channels_rabbitmq.connection import MAX_PUBLISH_CHANNELS, Connection
from channels_rabbitmq.errors import (
    ChannelClosed,
    ChannelClosedByServer,
    ConnectionClosed,
    ConnectionClosedByHeartbeatMonitor,
    ConnectionClosedByServer,
    MessageReturned,
    PreconditionFailed,
    ServerSentNack,
    describe,
)
from devtools.broker import Broker
from tests.helpers.connections import LOOPS, connection_to, open_connection, to_same
from tests.helpers.waiting import until


@pytest.fixture(params=LOOPS)
async def connection(amqp_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """An open connection to this test's virtual host, on the test's event loop or on another."""
    async with open_connection(amqp_url, request.param) as opened:
        yield opened


async def take(connection: Connection, queue_name: str, count: int = 1) -> list[bytes]:
    """Take messages off a queue."""
    async with connection.acking_consumer(queue_name, prefetch_count=0) as consumer:
        taken = []
        for _ in range(count):
            body, tag = await asyncio.wait_for(consumer.next_delivery(), 10)
            consumer.ack(tag)
            taken.append(body)
        return taken


async def count_messages(connection: Connection, queue_name: str) -> int:
    """How many messages a queue has ready."""
    async with to_same(connection) as other:
        calls = Calls(other.protocol)
        declared = await calls.run(pamqp.commands.Queue.Declare(queue=queue_name, passive=True))
        assert isinstance(declared, pamqp.commands.Queue.DeclareOk)
        return declared.message_count or 0


async def get_with_properties(
    connection: Connection, queue_name: str
) -> tuple[pamqp.commands.Basic.Properties, bytes]:
    """Get a message as another client sees it, with its properties."""
    # The engine skips properties of what it receives, so pamqp reads the bytes here.
    raw: list[bytes] = []
    async with to_same(connection) as other:
        feed = other.protocol._decoder.feed

        def tap(data: bytes) -> None:
            raw.append(data)
            feed(data)

        other.protocol._decoder.feed = tap  # type: ignore[method-assign]
        (body,) = await take(other, queue_name)
    data = b"".join(raw)
    while data:
        size, _, found = pamqp.frame.unmarshal(data)
        if isinstance(found, pamqp.header.ContentHeader):
            return found.properties, body
        data = data[size:]
    raise AssertionError("no content header came")


# Publishing


async def test_is_a_carehare_connection(connection: Connection) -> None:
    """Where carehare is installed, what users hold is an instance of its public type."""
    carehare = pytest.importorskip("carehare")

    assert isinstance(connection, carehare.Connection)
    assert "open" in repr(connection)
    assert "guest" not in repr(connection)


async def test_publish(connection: Connection) -> None:
    """A message to the default exchange reaches the queue that its routing key names."""
    await connection.queue_declare("q")
    future = connection.publish(b"hello", routing_key="q")
    assert isinstance(future, asyncio.Future)

    await future
    assert await take(connection, "q") == [b"hello"]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_publish_any_bytes(connection: Connection, kind: type) -> None:
    """A body may be any bytes-like object, and is copied at once."""
    await connection.queue_declare("q")
    source = bytearray(b"hello")
    future = connection.publish(kind(source), routing_key="q")
    source[:] = b"XXXXX"
    await future

    assert await take(connection, "q") == [b"hello"]


async def test_publish_to_an_exchange(connection: Connection) -> None:
    """A message to an exchange reaches the queues that are bound for its routing key."""
    await connection.exchange_declare("x")
    await connection.queue_declare("q")
    await connection.queue_bind("q", "x", routing_key="a")
    await connection.publish(b"no", exchange_name="x", routing_key="b")
    await connection.publish(b"yes", exchange_name="x", routing_key="a")
    assert await take(connection, "q") == [b"yes"]

    await connection.queue_unbind("q", "x", routing_key="a")
    await connection.publish(b"no", exchange_name="x", routing_key="a")
    assert await count_messages(connection, "q") == 0


async def test_order_is_kept(connection: Connection) -> None:
    """Messages to one exchange arrive in the order in which they were published."""
    await connection.queue_declare("q")
    bodies = [b"%d" % number for number in range(2000)]
    await asyncio.gather(*(connection.publish(body, routing_key="q") for body in bodies))

    assert await take(connection, "q", len(bodies)) == bodies


async def test_properties(connection: Connection) -> None:
    """Every property that a message may have arrives as it was given."""
    await connection.queue_declare("q")
    when = datetime(2020, 2, 29, 12, 0, tzinfo=UTC)
    await connection.publish(
        b"body",
        routing_key="q",
        content_type="application/json",
        content_encoding="utf-8",
        headers={"text": "é", "number": 2**40, "nested": {"list": [1, True, None]}},
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m",
        timestamp=when,
        message_type="t",
        user_id="guest",
        app_id="a",
    )

    properties, body = await get_with_properties(connection, "q")
    assert body == b"body"
    assert {name: value for name, value in properties if value} == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {"text": "é", "number": 2**40, "nested": {"list": [1, True, None]}},
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "60000",
        "message_id": "m",
        "timestamp": when,
        "message_type": "t",
        "user_id": "guest",
        "app_id": "a",
    }


@pytest.mark.slow
async def test_persistent(broker: Broker, vhost: str) -> None:
    """A persistent message in a durable queue survives the broker's restart, another does not."""
    async with connection_to(f"{broker.url}/{vhost}") as connection:
        await connection.queue_declare("jobs", durable=True)
        await connection.publish(b"transient", routing_key="jobs", delivery_mode=1)
        await connection.publish(b"persistent", routing_key="jobs", delivery_mode=2)
        await connection.publish(b"neither", routing_key="jobs")
    await asyncio.to_thread(broker.restart)
    async with connection_to(f"{broker.url}/{vhost}") as connection:
        assert await take(connection, "jobs") == [b"persistent"]
        assert await count_messages(connection, "jobs") == 0


async def test_mandatory(connection: Connection) -> None:
    """A mandatory message without a queue comes back; with one, or not mandatory, all is well."""
    await connection.queue_declare("q")
    futures = [
        connection.publish(b"a", routing_key="q", mandatory=True),
        connection.publish(b"a", routing_key="missing", mandatory=True),
        connection.publish(b"a", routing_key="missing"),
        connection.publish(b"", routing_key="missing", mandatory=True),
        connection.publish(bytes(300_000), routing_key="missing", mandatory=True, delivery_mode=2),
    ]
    results = await asyncio.gather(*futures, return_exceptions=True)

    assert [type(result) for result in results] == [
        type(None),
        MessageReturned,
        type(None),
        MessageReturned,
        MessageReturned,
    ]
    assert str(results[1]) == "RabbitMQ returned the message: NO_ROUTE"


async def test_full_queue(connection: Connection) -> None:
    """A queue that is full refuses a message, and the connection goes on."""
    await connection.queue_declare(
        "q", arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    await connection.publish(b"1", routing_key="q")
    with pytest.raises(ServerSentNack):
        await connection.publish(b"2", routing_key="q")
    assert await take(connection, "q") == [b"1"]
    await connection.publish(b"3", routing_key="q")


async def test_missing_exchange(connection: Connection) -> None:
    """A missing exchange fails the publishes to it, and nothing else."""
    await connection.queue_declare("q")
    futures = [
        connection.publish(b"x", exchange_name=name, routing_key="q")
        for name in ["", "missing", "", "missing", "amq.direct"]
    ]
    results = await asyncio.gather(*futures, return_exceptions=True)

    errors = [results.pop(3), results.pop(1)]
    assert results == [None, None, None]
    for error in errors:
        assert isinstance(error, ChannelClosedByServer)
        assert error.reply_code == 404
        assert "no exchange 'missing'" in error.reply_text
    await connection.publish(b"x", routing_key="q")
    await connection.exchange_declare("missing")
    await connection.publish(b"x", exchange_name="missing", routing_key="q")


async def test_long_names_beyond_ascii(broker: Broker, vhost: str) -> None:
    """An error whose text RabbitMQ 3 cuts amid a character fails only that publish.

    RabbitMQ 4 fails over the names themselves, and ends the connection (541 INTERNAL_ERROR).
    """
    publishes = [("é" * 127, "é" * 127), ("a" + "é" * 127, "q")]
    if broker.version < (4,):
        async with connection_to(f"{broker.url}/{vhost}") as connection:
            await connection.queue_declare("q")
            for exchange, key in publishes:
                with pytest.raises(ChannelClosedByServer, match="404"):
                    await connection.publish(b"x", exchange_name=exchange, routing_key=key)
            await connection.publish(b"x", routing_key="q")
        return
    for exchange, key in publishes:
        connection = connection_to(f"{broker.url}/{vhost}")
        await connection.connect()
        with pytest.raises(ConnectionClosed, match="541"):
            await connection.publish(b"x", exchange_name=exchange, routing_key=key)
        with pytest.raises(ConnectionClosedByServer, match="541"):
            await connection.close()


async def test_many_exchanges(connection: Connection) -> None:
    """Publishing to far more exchanges than channels are kept for works, one after the other."""
    names = [f"x{number}" for number in range(MAX_PUBLISH_CHANNELS + 50)]
    await asyncio.gather(*(connection.exchange_declare(name) for name in names))
    await connection.queue_declare("q")
    await asyncio.gather(*(connection.queue_bind("q", name) for name in names))
    for name in names * 2:
        await connection.publish(name.encode(), exchange_name=name)

    assert len(connection._publishers) <= MAX_PUBLISH_CHANNELS
    assert await take(connection, "q", 2 * len(names)) == [name.encode() for name in names * 2]


async def test_many_exchanges_at_once(connection: Connection) -> None:
    """Publishing to more exchanges at once than channels are kept for works as well."""
    names = [f"x{number}" for number in range(2 * MAX_PUBLISH_CHANNELS)]
    await asyncio.gather(*(connection.exchange_declare(name) for name in names))
    for _ in range(2):
        await asyncio.gather(*(connection.publish(b"x", exchange_name=name) for name in names))
    assert len(connection._publishers) <= len(names)


async def test_channel_limit(connection: Connection) -> None:
    """The 2,048th channel is refused with an error that says so; the connection goes on."""
    await connection.queue_declare("q")
    consumers = [connection.acking_consumer("q") for _ in range(2046)]
    with pytest.raises(ChannelClosed, match="all 2047 channels that users may open"):
        await connection.acking_consumer("q").next_delivery()
    consumers.pop().close()
    await until(lambda: len(connection.protocol._channels) == 2046)
    await connection.publish(b"x", routing_key="q")
    with pytest.raises(ChannelClosed, match="all 2047 channels that users may open"):
        await connection.acking_consumer("q").next_delivery()


@pytest.mark.parametrize("cancel_at", range(8))
async def test_cancelled_publish(connection: Connection, cancel_at: int) -> None:
    """A publish that is cancelled anywhere on its way disturbs no other, before or after it."""
    await connection.queue_declare("q")

    async def publish(body: bytes) -> None:
        await connection.publish(body, routing_key="q")

    tasks = [asyncio.create_task(publish(b"%d" % number)) for number in range(100)]
    for _ in range(cancel_at):
        await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results[1::3] + results[2::3] if result is not None] == []
    await publish(b"last")
    assert len(connection._publishers[""].confirms) == 0
    assert connection.protocol.open


# Queues and exchanges


async def test_four_thousand_bindings_at_once(connection: Connection) -> None:
    """Any number of bindings may be asked for at once: they share a few AMQP channels."""
    await connection.queue_declare("q")
    await connection.exchange_declare("x")
    await asyncio.gather(
        *(connection.queue_bind("q", "x", routing_key=f"key-{i}") for i in range(4000))
    )
    await connection.publish(b"x", exchange_name="x", routing_key="key-3999", mandatory=True)
    assert len(connection.protocol._channels) < 20
    await asyncio.gather(
        *(connection.queue_unbind("q", "x", routing_key=f"key-{i}") for i in range(4000))
    )
    with pytest.raises(MessageReturned):
        await connection.publish(b"x", exchange_name="x", routing_key="key-0", mandatory=True)


async def test_declare_queue(connection: Connection) -> None:
    """A queue is made, found passively, and not made again with other properties."""
    with pytest.raises(ChannelClosedByServer, match="404"):
        await connection.queue_declare("q", passive=True)
    await connection.queue_declare("q", arguments={"x-max-length": 5})
    await connection.queue_declare("q", passive=True)
    with pytest.raises(ChannelClosedByServer, match="406 PRECONDITION_FAILED"):
        await connection.queue_declare("q", durable=True)


async def test_declare_exchange(connection: Connection) -> None:
    """An exchange is made, found passively, and not made again with other properties."""
    with pytest.raises(ChannelClosedByServer, match="404"):
        await connection.exchange_declare("x", passive=True)
    await connection.exchange_declare("x", exchange_type="fanout")
    await connection.exchange_declare("x", passive=True)
    with pytest.raises(ChannelClosedByServer, match="406 PRECONDITION_FAILED"):
        await connection.exchange_declare("x", exchange_type="topic")


async def test_exclusive_queue(amqp_url: str, connection: Connection) -> None:
    """An exclusive queue is another connection's error, and goes with its connection."""
    await connection.queue_declare("mine", exclusive=True)
    async with connection_to(amqp_url) as other:
        with pytest.raises(ChannelClosedByServer) as caught:
            await other.queue_declare("mine", exclusive=True)
        assert caught.value.reply_code == 405
        await connection.close()
        await asyncio.wait_for(declare_until_free(other, "mine"), 10)


async def declare_until_free(connection: Connection, name: str) -> None:
    """Declare an exclusive queue as soon as it is free."""
    while True:
        try:
            return await connection.queue_declare(name, exclusive=True)
        except ChannelClosedByServer:
            await asyncio.sleep(0.01)


async def test_auto_delete(connection: Connection) -> None:
    """An auto-delete queue and exchange are declared as such."""
    await connection.exchange_declare("x", auto_delete=True)
    await connection.queue_declare("q", auto_delete=True)
    await connection.queue_bind("q", "x")
    async with connection.acking_consumer("q"):
        await connection.publish(b"x", exchange_name="x", mandatory=True)

    async def gone() -> bool:
        try:
            await connection.queue_declare("q", passive=True)
        except ChannelClosedByServer as err:
            return err.reply_code == 404
        return False

    await until(gone)


async def test_internal_exchange(connection: Connection) -> None:
    """Publishing to an internal exchange is refused, and only that."""
    await connection.exchange_declare("x", internal=True)
    with pytest.raises(ChannelClosedByServer, match="403"):
        await connection.publish(b"x", exchange_name="x")
    await connection.publish(b"x")


async def test_errors_stay_with_their_call(connection: Connection) -> None:
    """Of calls that are under way together, only those that RabbitMQ refuses fail."""
    await connection.queue_declare("q")
    await connection.exchange_declare("x")
    futures = [
        connection.queue_bind("q", "x" if i % 3 else "missing", routing_key=str(i))
        for i in range(200)
    ]
    results = await asyncio.gather(*futures, return_exceptions=True)

    for number, result in enumerate(results):
        assert isinstance(result, ChannelClosedByServer) is (number % 3 == 0), result


async def test_cancelled_call(connection: Connection) -> None:
    """Calls that are cancelled, under way or in line, leave the others alone."""
    futures = [connection.queue_declare(f"q{number}") for number in range(100)]
    for future in futures[::2]:
        future.cancel()
    results = await asyncio.gather(*futures, return_exceptions=True)

    assert results[1::2] == [None] * 50
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert connection._calls._in_use == 0


async def test_unbind_what_is_not_bound(connection: Connection) -> None:
    """Taking away a binding that is not there is no error."""
    await connection.queue_declare("q")
    await connection.queue_unbind("q", "amq.direct", routing_key="never")


async def test_wrong_exchange_type(broker: Broker, vhost: str) -> None:
    """RabbitMQ 3 answers an unknown exchange type by closing the connection; callers learn why.

    For RabbitMQ 4 it is an error of that call alone.
    """
    connection = connection_to(f"{broker.url}/{vhost}")
    await connection.connect()
    if broker.version >= (4,):
        with pytest.raises(PreconditionFailed, match="no-such-type"):
            await connection.exchange_declare("x", exchange_type="no-such-type")
        await connection.close()
        return
    with pytest.raises(ConnectionClosed, match="503"):
        await connection.exchange_declare("x", exchange_type="no-such-type")
    with pytest.raises(ConnectionClosedByServer, match="503"):
        await connection.closed
    with pytest.raises(ConnectionClosedByServer):
        await connection.close()


# Arguments


@pytest.mark.parametrize(
    ("arguments", "kind", "complaint"),
    [
        ({"message": "text"}, TypeError, "message must be bytes, not str"),
        ({"message": None}, TypeError, "message must be bytes, not NoneType"),
        ({"exchange_name": b"x"}, TypeError, "exchange_name must be a str, not bytes"),
        ({"routing_key": 5}, TypeError, "routing_key must be a str, not int"),
        ({"routing_key": "é" * 128}, ValueError, "routing_key must have at most 255 bytes"),
        ({"exchange_name": "x" * 256}, ValueError, "exchange_name must have at most 255 bytes"),
        ({"routing_key": "\ud800"}, ValueError, "surrogates not allowed"),
        ({"colour": "red"}, TypeError, "unexpected keyword argument 'colour'"),
        ({"delivery_mode": "secret"}, TypeError, "'delivery_mode' has a value"),
        ({"delivery_mode": 3000}, ValueError, "'delivery_mode' has a value that is out of range"),
        ({"priority": -1}, ValueError, "'priority' has a value that is out of range"),
        ({"expiration": 60}, TypeError, "'expiration' has a value"),
        (
            {"message_id": "secret" * 50},
            ValueError,
            "'message_id' must have at most 255 bytes, not 300",
        ),
        ({"headers": {"a": b"secret"}}, TypeError, "'headers' has a value"),
        ({"headers": {"a": 2**64}}, TypeError, "'headers' has a value"),
        ({"headers": {5: "secret"}}, TypeError, "'headers' has a value"),
        ({"headers": ["secret"]}, TypeError, "'headers' has a value"),
        ({"headers": {"a": "x" * 200_000}}, ValueError, "properties must fit into 131072 bytes"),
        ({"timestamp": 5}, TypeError, "'timestamp' has a value"),
        ({"timestamp": datetime(1969, 1, 1)}, ValueError, "'timestamp' has a value"),  # noqa: DTZ001
    ],
)
async def test_publish_arguments(
    connection: Connection, arguments: dict[str, object], kind: type[Exception], complaint: str
) -> None:
    """What cannot be sent raises at once, names the argument, not its value, and does no harm."""
    with pytest.raises(kind, match=complaint) as caught:
        connection.publish(**({"message": b"x"} | arguments))  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    await connection.publish(b"x")


async def test_properties_that_just_fit(connection: Connection) -> None:
    """Properties may fill a frame to its last byte, and not beyond."""
    await connection.queue_declare("q")
    # flags, table size, key, kind and length of the value; then the content header and the frame.
    room = 131072 - (2 + 4 + 2 + 1 + 4) - 12 - 8
    await connection.publish(b"x", routing_key="q", headers={"a": "x" * room})
    with pytest.raises(ValueError, match="must fit"):
        connection.publish(b"x", routing_key="q", headers={"a": "x" * (room + 1)})
    assert await take(connection, "q") == [b"x"]


async def test_call_arguments(connection: Connection) -> None:
    """Arguments of calls that cannot be sent raise at once, and cost no channel."""
    for _ in range(50):
        with pytest.raises(TypeError, match="queue_name must be a str"):
            connection.queue_declare(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="queue_name must have at most 255 bytes"):
            connection.queue_bind("q" * 256, "x")
        with pytest.raises(TypeError, match="exchange_name must be a str"):
            connection.queue_unbind("q", b"x")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="routing_key"):
            connection.queue_bind("q", "x", routing_key="é" * 128)
        with pytest.raises(TypeError, match="exchange_name must be a str"):
            connection.exchange_declare(None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="the operation has a value that AMQP cannot carry"):
            connection.queue_declare("q", arguments={"x-max-length": b"secret"})
        with pytest.raises(TypeError, match="the operation has a value"):
            connection.queue_declare("q", arguments={"x-max-length": 2**70})
        with pytest.raises(ValueError, match="must fit into 131072 bytes"):
            connection.queue_declare("q", arguments={"x": "y" * 140_000})
        with pytest.raises(ValueError, match="Invalid value for queue"):
            connection.queue_declare("q\u20ac")
    assert len(connection.protocol._channels) == 0
    await connection.queue_declare("q")


async def test_consumer_arguments(connection: Connection) -> None:
    """Arguments of a consumer that cannot be sent raise at once, and cost no channel."""
    with pytest.raises(TypeError, match="queue_name must be a str"):
        connection.acking_consumer(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="RabbitMQ does not implement it"):
        connection.acking_consumer("q", prefetch_size=1)
    for wrong in (-1, 65536):
        with pytest.raises(ValueError, match="prefetch_count must be between 0 and 65535"):
            connection.acking_consumer("q", prefetch_count=wrong)
    with pytest.raises(ValueError, match="Invalid value for queue"):
        connection.acking_consumer("q\u20ac")
    assert len(connection.protocol._channels) == 0


# The end


async def test_close_twice(amqp_url: str) -> None:
    """A closed connection may be closed again, and refuses everything else."""
    connection = connection_to(amqp_url)
    await connection.connect()
    assert not connection.closed.done()
    await connection.close()
    await connection.close()

    await connection.closed
    with pytest.raises(ConnectionClosed):
        await connection.publish(b"x")
    with pytest.raises(ConnectionClosed):
        await connection.queue_declare("q")


async def test_closed_by_an_operator(broker: Broker, vhost: str) -> None:
    """When an operator closes the connection, everything fails and the reason is told."""
    connection = connection_to(f"{broker.url}/{vhost}")
    await connection.connect()
    await connection.queue_declare("q")
    consumer = connection.acking_consumer("q")
    waiting = asyncio.ensure_future(consumer.next_delivery())
    await asyncio.to_thread(broker.ctl, "close_all_connections", "--vhost", vhost, "maintenance")

    with pytest.raises(ConnectionClosedByServer, match="320 CONNECTION_FORCED - maintenance"):
        await asyncio.wait_for(connection.closed, 10)
    with pytest.raises(ConnectionClosed, match="maintenance"):
        await waiting
    with pytest.raises(ConnectionClosed, match="maintenance"):
        await consumer.closed


async def test_wrong_password(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong password is the server's 403, in one line without the password."""
    caplog.set_level(logging.DEBUG)
    connection = connection_to(amqp_url, password="wrong-secret")
    with pytest.raises(ConnectionClosedByServer) as caught:
        await connection.connect()
    assert caught.value.reply_code == 403
    assert describe(caught.value).startswith(
        "RabbitMQ closed the connection: 403 ACCESS_REFUSED - Login was refused"
    )
    assert "secret" not in caplog.text + repr(caught.value) + repr(connection)


async def test_wrong_virtual_host(broker: Broker) -> None:
    """A virtual host that does not exist is the server's 530."""
    connection = connection_to(f"{broker.url}/no-such-vhost")
    with pytest.raises(ConnectionClosedByServer) as caught:
        await connection.connect()
    assert caught.value.reply_code == 530
    assert "vhost no-such-vhost not found" in caught.value.reply_text


async def test_virtual_host_of_any_name(broker: Broker) -> None:
    """A virtual host may have any name that a URL can carry."""
    for name, quoted in (("a/b é%", "a%2Fb%20%C3%A9%25"), ("v" * 127, "v" * 127)):
        broker.api("PUT", f"vhosts/{quoted}")
        try:
            async with connection_to(f"{broker.url}/{quoted}") as connection:
                assert connection.protocol.endpoint.virtual_host == name
                await connection.queue_declare("q")
        finally:
            broker.api("DELETE", f"vhosts/{quoted}")


async def test_amqplain(amqp_url: str) -> None:
    """RabbitMQ accepts the AMQPLAIN mechanism of ours."""
    async with connection_to(amqp_url, auth_mechanisms=("AMQPLAIN",)) as connection:
        await connection.publish(b"x")


async def test_alarm(broker: Broker, vhost: str) -> None:
    """During a memory alarm the connection knows, and closing it does not wait for the alarm."""
    url = f"{broker.url}/{vhost}"
    connection = connection_to(url)
    await connection.connect()
    await connection.publish(b"x")
    try:
        await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", "0.00001")
        connection.publish(b"x").add_done_callback(lambda done: done.exception())
        assert "memory" in await until(lambda: connection.protocol.blocked or "")
        await asyncio.wait_for(connection.close(), 5)
    finally:
        await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", "0.4")


async def test_alarm_ends(broker: Broker, vhost: str) -> None:
    """After the alarm the connection takes publishes again, and nothing was lost."""
    async with connection_to(f"{broker.url}/{vhost}") as connection:
        await connection.queue_declare("q")
        try:
            await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", "0.00001")
            future = connection.publish(b"x", routing_key="q")
            await until(lambda: connection.protocol.blocked)
        finally:
            await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", "0.4")
        await asyncio.wait_for(future, 10)
        assert connection.protocol.blocked is None
        assert await take(connection, "q") == [b"x"]


@pytest.mark.slow
async def test_frozen_broker(broker: Broker, vhost: str) -> None:
    """A broker that is frozen is left when its heartbeats are missed; one can connect again."""
    connection = connection_to(f"{broker.url}/{vhost}?heartbeat=1")
    await connection.connect()
    broker.pause()
    try:
        future = connection.publish(b"x")
        while (await asyncio.wait({future}, timeout=0.2))[0]:  # it is not frozen yet
            future = connection.publish(b"x")
        with pytest.raises(ConnectionClosedByHeartbeatMonitor):
            await asyncio.wait_for(connection.closed, 10)
        with pytest.raises(ConnectionClosed):
            await future
    finally:
        broker.resume()
    async with connection_to(f"{broker.url}/{vhost}"):
        pass


async def test_nothing_is_left_behind(amqp_url: str) -> None:
    """Connections that end leave no object of the engine behind, whatever was under way."""

    def count() -> int:
        gc.collect()
        # Not isinstance(): it asks Django's lazy objects for their class, which makes them.
        types = map(type, gc.get_objects())
        return sum(issubclass(kind, (Connection, Method)) for kind in types)

    async def use() -> None:
        connection = connection_to(amqp_url)
        await connection.connect()
        await connection.queue_declare("q")
        await connection.publish(b"x", routing_key="q", mandatory=True)
        consumer = connection.acking_consumer("q")
        await consumer.next_delivery()
        futures = [connection.publish(b"x"), connection.queue_declare("q")]
        await connection.close()
        await asyncio.gather(*futures, return_exceptions=True)

    await use()
    before = count()
    for _ in range(5):
        await use()
    await asyncio.sleep(0)
    assert count() <= before


def test_under_uvloop(amqp_url: str) -> None:
    """The engine works on uvloop's event loop too."""
    uvloop = pytest.importorskip("uvloop")

    async def run() -> list[bytes]:
        async with connection_to(amqp_url) as connection:
            await connection.queue_declare("q")
            await connection.publish(b"x" * 1_000_000, routing_key="q")
            return await take(connection, "q")

    loop = uvloop.new_event_loop()
    try:
        assert loop.run_until_complete(run()) == [b"x" * 1_000_000]
    finally:
        loop.close()
