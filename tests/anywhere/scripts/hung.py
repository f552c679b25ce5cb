"""RabbitMQ hangs while the interpreter exits."""

from __future__ import annotations

import sys

from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import layer

async_to_sync(layer.group_send)("room", {"type": "x"})
print("sent", flush=True)
sys.stdin.readline()
print("exit", flush=True)
