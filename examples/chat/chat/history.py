"""What was said lately, in a stream of RabbitMQ, over the connection that the layer has anyway.

Groups deliver to who is there. A page whose websocket was cut asks here for what it missed. No line
falls in between, because of the order: a line is kept first and then sent to its group; who comes
back joins the group first and then reads. What was kept too late to be read is delivered.

One stream has the lines of all rooms, which is right for a small site.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import AmqpError

if TYPE_CHECKING:
    from pamqp.common import FieldTable

logger = logging.getLogger(__name__)

STREAM = "burrow.lines"
KEPT_FOR = 3600  # seconds
LIMITS: FieldTable = {
    "x-queue-type": "stream",
    "x-max-age": f"{KEPT_FOR}s",
    "x-max-length-bytes": 5_000_000,
    # RabbitMQ forgets whole segments, so there must be several.
    "x-stream-max-segment-size-bytes": 500_000,
}
MOST_EVENTS = 200  # given to one page; the latest
CLOCKS_DIFFER = 60  # seconds at most, between the servers and RabbitMQ
PATIENCE = 5  # seconds for RabbitMQ to answer

Event = dict[str, Any]


async def keep(layer: RabbitmqChannelLayer, event: Event) -> None:
    """Add an event of a room to the stream. Without RabbitMQ it is logged, and not kept."""
    body = json.dumps(event).encode()
    try:
        async with asyncio.timeout(PATIENCE):
            connection = await layer.current_connection
            await connection.publish(body, routing_key=STREAM, mandatory=True)
    except (AmqpError, TimeoutError) as error:
        logger.warning("An event of room %s was not kept: %r", event["room"], error)


async def read(layer: RabbitmqChannelLayer, room: str, since: float) -> list[Event]:
    """The events of a room from about a time (by ``time.time()``) until now, the oldest first.

    Raises ``AmqpError`` or ``TimeoutError`` when RabbitMQ does not give them.
    """
    found: deque[Event] = deque(maxlen=MOST_EVENTS)
    # A stream has no end to wait for. So we write a mark, and read until we meet it.
    mark = uuid.uuid4().hex.encode()
    now = time.time()
    start = max(now - KEPT_FOR, min(now, since)) - CLOCKS_DIFFER
    offset = datetime.fromtimestamp(start, UTC)
    async with asyncio.timeout(PATIENCE):
        connection = await layer.current_connection
        await connection.queue_declare(STREAM, durable=True, arguments=LIMITS)
        async with connection.acking_consumer(
            STREAM, prefetch_count=500, arguments={"x-stream-offset": offset}
        ) as bodies:
            await connection.publish(mark, routing_key=STREAM)
            async for body in bodies:
                if body == mark:
                    break
                if body.startswith(b"{") and (event := json.loads(body))["room"] == room:
                    found.append(event)
    # RabbitMQ finds the place to begin only roughly.
    return [event for event in found if event["at"] >= start]
