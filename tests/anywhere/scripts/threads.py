"""Point 3: eight threads that send at the same time, and a ninth that receives."""

from __future__ import annotations

import threading

from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import layer, owner_threads, sockets

THREADS, CALLS = 8, 200
channel = async_to_sync(layer.new_channel)()
failed: list[BaseException] = []


def work(thread: int) -> None:
    try:
        for number in range(CALLS):
            async_to_sync(layer.send)(channel, {"thread": thread, "n": number, "text": "x" * 500})
    except BaseException as error:
        failed.append(error)


threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
for thread in threads:
    thread.start()
got: list[dict[str, object]] = [async_to_sync(layer.receive)(channel) for _ in range(1600)]
for thread in threads:
    thread.join()
assert not failed, failed
for number in range(THREADS):
    assert [m["n"] for m in got if m["thread"] == number] == list(range(CALLS))
assert all(message["text"] == "x" * 500 for message in got)
assert async_to_sync(layer.receive_many)([channel], block=False) == (None, None)
assert sockets() == 1
assert owner_threads() == 1
