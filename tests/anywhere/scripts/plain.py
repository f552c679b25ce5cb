"""Point 1: a plain script sends to a group a thousand times, and just ends."""

from __future__ import annotations

from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import layer, owner_threads, sockets

group_send = async_to_sync(layer.group_send)
for number in range(1000):
    group_send("numbers", {"type": "number", "n": number})
assert sockets() == 1
assert owner_threads() == 1
print("sent", flush=True)
