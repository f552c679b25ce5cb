"""Point 2: a channel that is made, joined, sent to and received from in calls of their own."""

from __future__ import annotations

from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import layer, owner_threads, sockets

channel = async_to_sync(layer.new_channel)()
async_to_sync(layer.group_add)("room", channel)
async_to_sync(layer.send)(channel, {"type": "first"})
async_to_sync(layer.group_send)("room", {"type": "second"})
assert async_to_sync(layer.receive)(channel) == {"type": "first"}
assert async_to_sync(layer.receive)(channel) == {"type": "second"}
async_to_sync(layer.group_discard)("room", channel)
async_to_sync(layer.group_send)("room", {"type": "third"})
async_to_sync(layer.send)(channel, {"type": "fourth"})
assert async_to_sync(layer.receive)(channel) == {"type": "fourth"}
assert async_to_sync(layer.group_members)("room", timeout=0.5) == []
async_to_sync(layer.group_add)("room", "jobs")
assert async_to_sync(layer.group_members)("room", timeout=0.5) == ["jobs"]
for n in range(2):
    async_to_sync(layer.send)("jobs", {"n": n})
assert async_to_sync(layer.receive)("jobs") == {"n": 0}
assert async_to_sync(layer.receive_many_blocking)(["jobs"]) == ("jobs", {"n": 1})
assert async_to_sync(layer.receive_many)([channel], block=False) == (None, None)
async_to_sync(layer.flush)()
assert async_to_sync(layer.group_members)("room", timeout=0.5) == []
assert sockets() == 1
assert owner_threads() == 1
