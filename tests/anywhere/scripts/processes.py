"""Point 5: ``multiprocessing``, whichever way it starts processes."""

from __future__ import annotations

import multiprocessing
import sys

from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import layer, sockets


def work(number: int, channel: str) -> None:
    """What each child does."""
    assert sockets() == 0
    async_to_sync(layer.send)(channel, {"n": number, "queue": layer.queue_name})
    assert sockets() == 1


def main(method: str) -> None:
    """Start three children, and hear from all."""
    context = multiprocessing.get_context(method)
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("room", channel)
    children = [context.Process(target=work, args=(number, channel)) for number in range(3)]
    for child in children:
        child.start()
    got = [async_to_sync(layer.receive)(channel) for _ in children]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert sorted(message["n"] for message in got) == [0, 1, 2]
    assert len({layer.queue_name, *(message["queue"] for message in got)}) == 4
    async_to_sync(layer.group_send)("room", {"to": "me"})
    assert async_to_sync(layer.receive)(channel) == {"to": "me"}
    assert sockets() == 1


if __name__ == "__main__":
    main(sys.argv[1])
