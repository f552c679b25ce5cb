"""Point 6: two live loops in two threads share one connection and write to each other."""

from __future__ import annotations

import asyncio
import threading
import traceback
from concurrent.futures import Future

from tests.anywhere.scripts.prelude import layer, owner_threads, sockets

N = 300
names: list[Future[str]] = [Future(), Future()]


async def talk(me: int) -> None:
    """Join, tell the name, and exchange numbers with the other side."""
    channel = await layer.new_channel()
    await layer.group_add("both", channel)
    names[me].set_result(channel)
    other = await asyncio.wrap_future(names[1 - me])
    senders = [layer.send(other, {"from": me, "n": n}) for n in range(N)]
    reader = asyncio.ensure_future(read(channel))
    await asyncio.gather(*senders)
    got = await reader
    assert sorted(message["n"] for message in got) == list(range(N))
    assert all(message["from"] == 1 - me for message in got)
    if me == 0:  # the other loop waits for our last message, so neither has ended yet
        assert sockets() == 1
    await layer.group_send("both", {"last": me})
    last = [await layer.receive(channel) for _ in range(2)]
    assert {message["last"] for message in last} == {0, 1}


async def read(channel: str) -> list[dict[str, object]]:
    return [await layer.receive(channel) for _ in range(N)]


failed: list[BaseException] = []


def run(me: int) -> None:
    try:
        asyncio.run(talk(me))
    except BaseException as error:
        traceback.print_exc()
        failed.append(error)
        names[me].cancel()


threads = [threading.Thread(target=run, args=(me,)) for me in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
assert owner_threads() == 0
assert sockets() == 0
