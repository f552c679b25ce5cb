"""Channels drops layers when settings change, without closing them: a collected one ends."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import tracemalloc

from asgiref.sync import async_to_sync

from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.anywhere.scripts.prelude import OPTIONS, descriptors, owner_threads, sockets, until


def make() -> RabbitmqChannelLayer:
    return RabbitmqChannelLayer(**OPTIONS)


def never_used() -> None:
    make()


def owned_by_the_thread() -> None:
    layer = make()
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("room", channel)
    async_to_sync(layer.send)(channel, {"unread": True})


def while_connecting() -> None:
    layer = make()
    thread = threading.Thread(target=interrupted, args=(layer,))
    thread.start()
    thread.join()


def interrupted(layer: RabbitmqChannelLayer) -> None:
    async def main() -> None:
        task = asyncio.create_task(layer.group_send("room", {"type": "x"}))
        await asyncio.sleep(0)
        task.cancel()

    async_to_sync(main)()


def owner_has_ended() -> None:
    asyncio.run(make().group_send("room", {"type": "x"}))


def owner_has_stopped() -> None:
    loop = asyncio.new_event_loop()
    layer = make()
    loop.run_until_complete(layer.group_send("room", {"type": "x"}))
    del layer
    gc.collect()
    loop.run_until_complete(asyncio.sleep(0.1))  # it ends as soon as its loop runs
    assert not asyncio.all_tasks(loop)
    loop.close()


def on_a_running_loop() -> None:
    async def main() -> None:
        layer = make()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.send(channel, {"unread": True})
        assert sockets() == 1
        del layer
        gc.collect()
        await asyncio.to_thread(until, lambda: sockets() == 0)
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def in_another_thread() -> None:
    layers = [make()]

    async def main() -> None:
        await layers[0].group_send("room", {"type": "x"})
        await asyncio.to_thread(drop)
        await asyncio.to_thread(until, lambda: sockets() == 0)

    def drop() -> None:
        layers.clear()
        gc.collect()

    asyncio.run(main())


def closed() -> None:
    layer = make()
    async_to_sync(layer.group_send)("room", {"type": "x"})
    async_to_sync(layer.close)()


def all_of_them() -> None:
    for scenario in (
        never_used,
        owned_by_the_thread,
        while_connecting,
        owner_has_ended,
        owner_has_stopped,
        on_a_running_loop,
        in_another_thread,
        closed,
    ):
        scenario()
        gc.collect()
        until(lambda: sockets() == 0 and owner_threads() == 0)


def calls_leave_nothing() -> None:
    """Thousands of calls, some cancelled, need no more memory than hundreds."""
    layer = make()
    channel = async_to_sync(layer.new_channel)()

    async def cancelled() -> None:
        waiting = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)
        waiting.cancel()

    def some() -> None:
        for _ in range(100):
            async_to_sync(layer.send)(channel, {"type": "x" * 100})
            async_to_sync(layer.receive)(channel)
            async_to_sync(cancelled)()
        gc.collect()

    some()
    tracemalloc.start()
    some()
    before, _ = tracemalloc.get_traced_memory()
    some()
    some()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 50_000, after - before


all_of_them()
before = descriptors(), threading.active_count()
for _ in range(3):
    all_of_them()
assert (descriptors(), threading.active_count()) == before
if sys.gettrace() is None:  # coverage keeps a tracer for every thread that ever was
    calls_leave_nothing()
