"""Point 5: many children at the same time, which send to their parent and exit."""

from __future__ import annotations

import os
import sys
import threading
import traceback

from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import descriptors, layer, owner_threads, sockets

FORKS, AT_ONCE = int(sys.argv[1]), 10

channel = async_to_sync(layer.new_channel)()
async_to_sync(layer.group_add)("parent", channel)


def child(number: int) -> None:
    """Send to the parent, by a connection of one's own."""
    assert sockets() == 0
    async_to_sync(layer.send)(channel, {"n": number})
    assert sockets() == 1
    assert owner_threads() == 1
    async_to_sync(layer.close)()


def fork(number: int) -> int:
    """Fork a child; give its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            child(number)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


before = descriptors(), threading.active_count()
got = set()
for start in range(0, FORKS, AT_ONCE):
    children = [fork(number) for number in range(start, min(start + AT_ONCE, FORKS))]
    for _ in children:
        got.add(async_to_sync(layer.receive)(channel)["n"])
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert got == set(range(FORKS))
assert (descriptors(), threading.active_count()) == before
assert sockets() == 1
async_to_sync(layer.close)()
