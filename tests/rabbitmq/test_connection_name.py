"""RabbitMQ's management and the log call a connection by the same name."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket

import pytest

from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.rabbit import MakeLayer
from tests.helpers.scripts import FORKING, script, started
from tests.helpers.waiting import until


async def client_names(broker: Broker, vhost: str) -> set[str]:
    """The names of a virtual host's connections, from what their clients said of themselves."""
    lines = await rabbit.ctl(broker, "list_connections", "vhost", "client_properties")
    ours = [line for line in lines if line.startswith(f"{vhost}\t")]
    return {name for line in ours for name in re.findall(r'\{"connection_name","([^"]*)"\}', line)}


async def consumer_tags(broker: Broker, vhost: str) -> set[str]:
    """The tags of all consumers in a virtual host."""
    lines = await rabbit.ctl(
        broker, "list_consumers", "--vhost", vhost, "--no-table-headers", "consumer_tag"
    )
    return set(lines)


async def test_default_name(
    make_layer: MakeLayer, broker: Broker, vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Client properties, consumer tag and log line have host and process id, as the layer says."""
    caplog.set_level(logging.INFO, "channels_rabbitmq")
    layer = make_layer()
    await layer.current_connection
    name = layer.connection_name
    assert f"@{socket.gethostname()}:{os.getpid()}" in name
    assert await client_names(broker, vhost) == {name}
    assert await consumer_tags(broker, vhost) == {name}
    (line,) = [line for line in caplog.messages if "Connected to RabbitMQ" in line]
    assert line.startswith(f"[{name}] Connected to RabbitMQ at ")


async def test_two_layers_of_one_process(
    make_layer: MakeLayer, broker: Broker, vhost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is called otherwise, in all places, whether the name was given or not."""
    caplog.set_level(logging.INFO, "channels_rabbitmq")
    layers = [make_layer(), make_layer(), make_layer(connection_name=f"{vhost} a")]
    layers.append(make_layer(connection_name=f"{vhost} a"))
    for layer in layers:
        await layer.current_connection
    names = {layer.connection_name for layer in layers}
    assert len(names) == 4
    assert {f"{vhost} a", f"{vhost} a #2"} < names
    assert await client_names(broker, vhost) == names
    assert await consumer_tags(broker, vhost) == names
    connected = {line.partition("] ")[0] for line in caplog.messages if "Connected to" in line}
    assert connected == {f"[{name}" for name in names}


async def test_every_consumer(make_layer: MakeLayer, broker: Broker, vhost: str) -> None:
    """The consumers of normal channels and of jobs have the longest name in their tags too."""
    layer = make_layer(connection_name="n" * 200)
    connection = await layer.current_connection
    await connection.queue_declare("jobs")
    receiving = asyncio.create_task(layer.receive("thumbnails"))
    async with connection.acking_consumer("jobs"):
        tags = await until(lambda: _three(broker, vhost))
    receiving.cancel()
    assert tags == {"n" * 200, f"{'n' * 200}.1"}


async def _three(broker: Broker, vhost: str) -> set[str]:
    """The tags in a virtual host, once the two that take a moment are there."""
    tags = await consumer_tags(broker, vhost)
    return tags if len(tags) == 2 else set()


async def test_forked_child(broker: Broker, vhost: str, amqp_url: str) -> None:
    """A child is called by its own process id, and its parent by the parent's, on RabbitMQ too."""
    with started(script("fork_names"), amqp_url, flags=FORKING) as process:
        told = [await process.hear(), await process.hear()]
        assert [name.endswith(f":{pid}") for pid, name in told] == [True, True]
        assert len({pid for pid, _ in told}) == 2
        assert await client_names(broker, vhost) == {name for _, name in told}
        await process.end_well()
