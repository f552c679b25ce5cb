"""Point 9: RabbitMQ is away; calls end in time, and later ones at once."""

from __future__ import annotations

import logging
import sys
import time

import pytest
from asgiref.sync import async_to_sync

from channels_rabbitmq.errors import NotConnected
from tests.anywhere.scripts.prelude import layer

logging.getLogger("channels_rabbitmq").setLevel(logging.CRITICAL)
limit = layer.options.send_timeout
channel = async_to_sync(layer.new_channel)()

started = time.monotonic()
with pytest.raises(NotConnected):
    async_to_sync(layer.send)(channel, {"type": "x"})
async_to_sync(layer.group_send)("room", {"type": "x"})
async_to_sync(layer.group_add)("room", channel)
took = time.monotonic() - started
assert limit <= took < 2 * limit + 1, took  # an outage costs it once


async def connect() -> None:
    """Wait for RabbitMQ, however long."""
    await layer.current_connection


for call, arguments in ((connect, ()), (layer.receive, (channel,))):
    print("interrupt", flush=True)
    with pytest.raises(KeyboardInterrupt):
        async_to_sync(call)(*arguments)
    print("interrupted", flush=True)
if "uncaught" in sys.argv:
    print("interrupt", flush=True)
    async_to_sync(layer.receive)(channel)
