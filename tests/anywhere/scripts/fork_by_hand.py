"""Point 5: ``os.fork()`` while a thread owns the layer, nothing yet, or a loop."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Callable

import pytest
from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import layer, owner_threads, sockets


def child(parents_channel: str, parents_queue: str) -> None:
    """What the child does: it has a life of its own, and writes to its parent."""
    assert sockets() == 0
    assert layer.queue_name != parents_queue
    assert not layer.statistics().connected
    assert layer.statistics().published == layer.statistics().received == 0
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("both", channel)
    async_to_sync(layer.send)(channel, {"to": "myself"})
    assert async_to_sync(layer.receive)(channel) == {"to": "myself"}
    with pytest.raises(ValueError, match="another process"):
        async_to_sync(layer.receive)(parents_channel)
    async_to_sync(layer.send)(parents_channel, {"queue": layer.queue_name})
    async_to_sync(layer.group_send)("both", {"to": "both"})
    assert async_to_sync(layer.receive)(channel) == {"to": "both"}
    statistics = layer.statistics()
    assert statistics.connected
    assert (statistics.published, statistics.delivered, statistics.reconnections) == (3, 2, 0)
    assert sockets() == 1
    assert owner_threads() == 1


def fork(channel: str, end: Callable[[int], None] = sys.exit) -> None:
    """Fork; the child must end well. By default its interpreter finalises all it inherited."""
    queue = layer.queue_name
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child(channel, queue)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            end(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def receive_from_child(channel: str) -> None:
    message = await layer.receive(channel)
    assert message["queue"] != layer.queue_name
    assert await layer.receive(channel) == {"to": "both"}


async def owner_is_this_loop() -> None:
    await layer.group_add("both", channel)
    await asyncio.to_thread(fork, channel, os._exit)  # as multiprocessing does
    await receive_from_child(channel)


channel = async_to_sync(layer.new_channel)()
mode = sys.argv[1]
if mode == "thread":
    async_to_sync(layer.group_add)("both", channel)
    fork(channel)
    async_to_sync(receive_from_child)(channel)
    fork(channel)
    async_to_sync(receive_from_child)(channel)
    assert sockets() == 1
elif mode == "loop":
    asyncio.run(owner_is_this_loop())
elif mode == "never":
    pid = os.fork()
    async_to_sync(layer.group_send)("both", {"to": "nobody"})
    assert sockets() == 1
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
