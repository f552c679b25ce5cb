"""What is logged: failures in one line each, and never a payload or a password."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import pytest
from channels.exceptions import ChannelFull, MessageTooLarge

from channels_rabbitmq.errors import NotConnected
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


PAYLOAD = "a-very-private-payload"


PASSWORD = "hush@hush"


IN_A_URL = "hush%40hush"


@pytest.fixture
def secret_url(broker: Broker, vhost: str) -> Iterator[str]:
    """The address of this test's virtual host, for a user with a password worth hiding."""
    broker.api("PUT", "users/discreet", {"password": PASSWORD, "tags": ""})
    permission = {"configure": ".*", "write": ".*", "read": ".*"}
    broker.api("PUT", f"permissions/{vhost}/discreet", permission)
    yield f"amqp://discreet:{IN_A_URL}@127.0.0.1:{broker.plain_port}/{vhost}"
    broker.api("DELETE", "users/discreet")


async def test_neither_payloads_nor_passwords(
    make_layer: MakeLayer,
    broker: Broker,
    vhost: str,
    secret_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Through all that goes wrong, at every level, no log line and no repr tells a secret."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    seen = []
    async with Proxy(secret_url) as proxy:
        layer = make_layer(
            host=proxy.url,
            local_capacity=3,
            remote_capacity=3,
            local_expiry=1,
            send_timeout=0.3,
            max_message_size=10_000,
        )
        message = {"type": PAYLOAD, "nested": [{PAYLOAD: PAYLOAD.encode()}]}
        stuck, other = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", other)
        seen += [repr(layer), repr(await layer.current_connection), repr(layer.options)]
        # What cannot be sent
        for bad in ({PAYLOAD: object()}, {PAYLOAD: {5: PAYLOAD}}, {PAYLOAD: 2**70}, PAYLOAD):
            with pytest.raises((TypeError, ValueError)) as caught:
                await layer.send(stuck, bad)  # type: ignore[arg-type]
            seen.append(str(caught.value))
        with pytest.raises(MessageTooLarge) as large:
            await layer.send(stuck, {"type": PAYLOAD * 1000})
        seen.append(str(large.value))
        # What is no message
        connection = await layer.current_connection
        await connection.publish(PAYLOAD.encode(), routing_key=layer.queue_name)
        # Stuck, full, expired
        for _ in range(30):
            try:
                await layer.send(stuck, message)
            except ChannelFull as err:
                seen.append(repr(err))
            await layer.group_send("room", message)
        await until(lambda: "used up by channels that lag" in caplog.text)
        await until(lambda: "expired after local_expiry" in caplog.text)
        # The server closes, falls silent, is away, or lets nobody in
        await rabbit.close_connections(broker, vhost)
        await until(lambda: connection.closed.done())
        await layer.current_connection
        proxy.freeze()
        sends = [asyncio.create_task(layer.send(stuck, message)) for _ in range(3)]
        sends.append(asyncio.create_task(layer.group_send("room", message)))
        await asyncio.sleep(0.01)
        await proxy.refuse()
        proxy.cut()
        results = await asyncio.gather(*sends, return_exceptions=True)
        seen += [repr(result) for result in results]
        with pytest.raises(NotConnected) as away:
            await layer.send(stuck, message)
        seen.append(repr(away.value))
        broker.api("PUT", "users/discreet", {"password": "another", "tags": ""})
        proxy.thaw()
        await proxy.accept()
        with contextlib.suppress(NotConnected):
            await layer.send(stuck, message)
        await until(lambda: "ACCESS_REFUSED" in caplog.text, timeout=20)
        seen += [repr(layer), str(layer.options.endpoints[0])]
        await layer.close()
    text = "\n".join([caplog.text, *seen])
    assert PAYLOAD not in text
    assert PASSWORD not in text
    assert IN_A_URL not in text
    # (asyncio itself tells of sockets with a traceback, in its debug mode.)
    ours = [record for record in caplog.records if record.name.startswith("channels_rabbitmq")]
    assert ours
    assert not [record for record in ours if record.exc_info]
    # Each line says whose it is; the one layer of the test is no other.
    named = f"[{layer.connection_name}] "
    assert not [record.getMessage() for record in ours if not record.getMessage().startswith(named)]


async def test_failures_are_one_line_each(
    make_layer: MakeLayer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Connection failures are logged in one line, without a traceback, at a limited rate."""
    layer = make_layer(host=f"{proxy.url}?connection_timeout=100")
    await layer.current_connection
    proxy.freeze()
    proxy.cut()
    await until(lambda: "Lost RabbitMQ; connecting again" in caplog.text)
    await until(lambda: proxy.accepted >= 4)  # of three attempts, two have failed by now
    lines = [record for record in caplog.records if record.name.startswith("channels_rabbitmq")]
    warnings = [record for record in lines if record.levelno >= logging.WARNING]
    assert len(warnings) == 2
    for warning in warnings:
        assert warning.exc_info is None
        assert "\n" not in warning.getMessage()
