"""Loops that end, stop or are closed while they own the layer, in every way that there is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import threading
from collections.abc import Callable, Coroutine

from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import layer, owner_threads, sockets, until


def in_thread(main: Callable[[], Coroutine[object, object, None]]) -> threading.Thread:
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    return thread


async def join(group: str) -> str:
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    return channel


def ends_while_another_waits() -> None:
    """A loop that waits takes over at once; nobody who waits notices."""
    got: list[object] = []
    joined, owner_ends = threading.Event(), threading.Event()

    async def owner() -> None:
        await join("elsewhere")
        caller = in_thread(other)
        await asyncio.to_thread(joined.wait)
        callers.append(caller)

    async def other() -> None:
        channel = await join("moving")
        waiting = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)
        joined.set()
        await asyncio.to_thread(owner_ends.wait)
        while not waiting.done():  # until this loop is the owner, and the group is bound
            await layer.group_send("moving", {"type": "moved"})
            await asyncio.sleep(0.01)
        got.append(await waiting)
        assert sockets() == 1

    callers: list[threading.Thread] = []
    asyncio.run(owner())
    owner_ends.set()
    callers[0].join()
    assert got == [{"type": "moved"}]
    assert sockets() == 0


def ends_while_another_has_channels() -> None:
    """A loop that has channels takes over, even if nobody waits there just now."""
    joined, owner_ends = threading.Event(), threading.Event()
    callers: list[threading.Thread] = []

    async def owner() -> None:
        await join("elsewhere")
        callers.append(in_thread(other))
        await asyncio.to_thread(joined.wait)

    async def other() -> None:
        channel = await join("quiet")
        joined.set()
        await asyncio.to_thread(owner_ends.wait)
        for _ in range(500):
            if sockets():
                break
            await asyncio.sleep(0.01)
        assert sockets() == 1  # without a call from here
        await layer.group_send("quiet", {"type": "x"})
        assert await layer.receive(channel) == {"type": "x"}

    asyncio.run(owner())
    owner_ends.set()
    callers[0].join()


def stops_and_runs_again() -> None:
    """A loop that runs in bursts is the owner while it runs; what waits on it goes on."""
    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(join("bursts"))
    waiting = loop.create_task(layer.receive(channel))
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(layer.group_send("bursts", {"n": 1}))
    assert loop.run_until_complete(waiting) == {"n": 1}
    assert owner_threads() == 0
    # Stopped, with one who waits. Plain code needs the connection: our thread takes over.
    waiting = loop.create_task(layer.receive(channel))
    loop.run_until_complete(asyncio.sleep(0))
    async_to_sync(layer.group_send)("bursts", {"n": 2})
    assert owner_threads() == 1
    assert loop.run_until_complete(waiting) == {"n": 2}  # through the portal now
    loop.run_until_complete(layer.send(channel, {"n": 3}))
    assert async_to_sync(layer.receive)(channel) == {"n": 3}
    loop.run_until_complete(asyncio.sleep(0))
    assert not asyncio.all_tasks(loop)
    loop.close()
    assert sockets() == 1
    async_to_sync(layer.group_discard)("bursts", channel)


def stops_as_one_joins() -> None:
    """A group_add() that is under way as its loop stops ends with the channel in the group."""
    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(join("joined"))
    joining = [loop.create_task(layer.group_add(f"joining{n}", channel)) for n in range(3)]
    loop.run_until_complete(asyncio.sleep(0))
    async_to_sync(layer.group_send)("joined", {"n": 0})  # our thread takes over
    assert owner_threads() == 1
    loop.run_until_complete(asyncio.gather(*joining))
    for n in range(3):
        assert async_to_sync(layer.group_members)(f"joining{n}") == [channel]
    assert async_to_sync(layer.group_members)("joined") == [channel]
    loop.close()


def unread_messages_and_groups_move() -> None:
    """What was received and not read is there on the next loop, as are the groups."""

    async def first() -> str:
        channel = await join("kept")
        for number in range(5):
            await layer.group_send("kept", {"n": number})
        assert await layer.receive(channel) == {"n": 0}
        return channel

    channel = asyncio.run(first())
    assert [async_to_sync(layer.receive)(channel)["n"] for _ in range(4)] == [1, 2, 3, 4]
    async_to_sync(layer.group_send)("kept", {"n": 5})
    assert async_to_sync(layer.receive)(channel) == {"n": 5}
    async_to_sync(layer.group_discard)("kept", channel)


def closed_over_its_tasks() -> None:
    """The socket then closes at the next use; asyncio itself complains of the tasks."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(join("closed"))
    # Nothing of the start is under way any more: Python would complain of that, too.
    assert loop.run_until_complete(layer.group_members("closed")) == [channel]
    waiting = loop.create_task(layer.receive(channel))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert sockets() == 1
    async_to_sync(layer.group_send)("closed", {"n": 1})
    assert async_to_sync(layer.receive)(channel) == {"n": 1}
    del waiting, loop
    gc.collect()
    until(lambda: sockets() == 1)
    async_to_sync(layer.group_discard)("closed", channel)


def crash_in_the_main_task() -> None:
    """A loop that ends by an exception is a loop that ends."""

    async def main() -> None:
        await join("crash")
        raise ZeroDivisionError

    with contextlib.suppress(ZeroDivisionError):
        asyncio.run(main())
    assert sockets() == 0


SCENARIOS = {
    "another waits": ends_while_another_waits,
    "another has channels": ends_while_another_has_channels,
    "stops": stops_and_runs_again,
    "stops as one joins": stops_as_one_joins,
    "crashes": crash_in_the_main_task,
    "unread messages": unread_messages_and_groups_move,
    "closed": closed_over_its_tasks,
}
SCENARIOS[sys.argv[1]]()
