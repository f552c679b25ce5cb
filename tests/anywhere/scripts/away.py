"""Point 9: RabbitMQ is away; calls end in time."""

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
assert 2 * limit < took < 3 * limit + 1, took

for call in (layer.group_send, layer.receive):
    arguments = (channel,) if call == layer.receive else ("room", {"type": "x"})
    print("interrupt", flush=True)
    with pytest.raises(KeyboardInterrupt):
        async_to_sync(call)(*arguments)
    print("interrupted", flush=True)
if "uncaught" in sys.argv:
    print("interrupt", flush=True)
    async_to_sync(layer.receive)(channel)
