"""What tests ask a private broker, and do to it, without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from channels_rabbitmq.core import RabbitmqChannelLayer
from devtools.broker import Broker

#: What the fixture ``make_layer`` is: it takes the layer's options.
MakeLayer = Callable[..., RabbitmqChannelLayer]


async def ctl(broker: Broker, *args: str) -> list[str]:
    """The lines that ``rabbitmqctl ARGS`` prints."""
    return (await asyncio.to_thread(broker.ctl, *args)).splitlines()


async def api(broker: Broker, method: str, path: str, body: object = None) -> Any:
    """What the management plugin answers."""
    return await asyncio.to_thread(broker.api, method, path, body)


async def connections(broker: Broker, vhost: str) -> list[str]:
    """The ids of the AMQP connections to a virtual host."""
    lines = await ctl(broker, "list_connections", "pid", "vhost")
    return [line.split("\t")[0] for line in lines if line.endswith(f"\t{vhost}")]


async def close_connections(broker: Broker, vhost: str) -> None:
    """Have the server close every connection to a virtual host."""
    await ctl(broker, "close_all_connections", "--vhost", vhost, "for a test")


async def bindings(broker: Broker, vhost: str, exchange: str = "groups") -> list[tuple[str, str]]:
    """The routing key and queue of every group that is bound, in order.

    Without the keys that no group can have: those are for what processes ask each other.
    """
    found = await api(broker, "GET", f"exchanges/{vhost}/{exchange}/bindings/source")
    return sorted(
        (row["routing_key"], row["destination"])
        for row in found
        if not row["routing_key"].startswith("!")
    )


async def queue_names(broker: Broker, vhost: str) -> list[str]:
    """The names of all queues of a virtual host."""
    found = await api(broker, "GET", f"queues/{vhost}?columns=name&disable_stats=true")
    return sorted(row["name"] for row in found)


async def counts(broker: Broker, vhost: str, queue: str) -> tuple[int, int]:
    """How many messages of a queue are ready, and how many were delivered but not acknowledged."""
    lines = await ctl(
        broker,
        "list_queues",
        "--vhost",
        vhost,
        "name",
        "messages_ready",
        "messages_unacknowledged",
    )
    for line in lines:
        name, *numbers = line.split("\t")
        if name == queue:
            ready, unacknowledged = map(int, numbers)
            return ready, unacknowledged
    raise LookupError(queue)


@asynccontextmanager
async def memory_alarm(broker: Broker) -> AsyncIterator[None]:
    """Within it, the broker has its memory alarm, and takes no publishes."""
    await ctl(broker, "set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        yield
    finally:
        await ctl(broker, "set_vm_memory_high_watermark", "0.6")
