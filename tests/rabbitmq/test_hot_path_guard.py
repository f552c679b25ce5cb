"""What the hot path costs, in what can be counted: so that no change adds to it unseen.

Seconds depend on the machine; calls, system calls and bytes do not. A budget that is exceeded
asks for a decision: make the change cheaper, or raise the budget on purpose, with the gain named
in the commit. What the figures mean in seconds, ``make bench`` tells.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Awaitable
from types import FrameType
from typing import Any

import pytest

from channels_rabbitmq.amqp.frames import encode_ack, encode_publish
from channels_rabbitmq.local.mailbox import Mailbox
from channels_rabbitmq.wire.messages import CHANNEL_KEY, encode
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

MESSAGE = {"type": "chat.message", "text": "x" * 100}
CAPACITY = {"local_capacity": 5000, "remote_capacity": 5000}

#: Calls of Python functions of this package for one message, from send() to the end of receive().
CALLS_PER_MESSAGE = 31.5
#: The same for one delivery of a group's message to a waiting member.
CALLS_PER_DELIVERY = 7.5
#: The same for one join of many that wait for the binding of their group, and of a bound group.
CALLS_PER_JOIN = 18.5
CALLS_PER_BOUND_JOIN = 11.5
#: Writes to the socket for one message, with 50 senders at a time.
WRITES_PER_MESSAGE = 0.25
#: Bytes of memory for a channel that waits, with its name and the task that awaits receive().
MEMORY_OF_A_WAITING_CHANNEL = 1500


#: For tests that count calls.
counts_calls = pytest.mark.skipif(
    sys.gettrace() is not None, reason="a tracer is on, which hides calls"
)


class Counts:
    """Counts the calls of this package's Python functions, and sends on sockets."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.writes = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        """Take an event of ``sys.setprofile()``."""
        if event == "call":
            code = frame.f_code
            if "channels_rabbitmq" in code.co_filename and "tests" not in code.co_filename:
                self.calls[code.co_qualname] += 1
        elif event == "c_call" and getattr(arg, "__name__", "") in ("send", "sendmsg"):
            self.writes += 1


async def count(work: Awaitable[object]) -> Counts:
    """Count while something is done."""
    counts = Counts()
    sys.setprofile(counts)
    try:
        await work
    finally:
        sys.setprofile(None)
    return counts


def report(counts: Counts, number: int) -> str:
    """The functions called most, with how often for each message."""
    return ", ".join(f"{name} {calls / number:.1f}" for name, calls in counts.calls.most_common(30))


@counts_calls
async def test_one_message(make_layer: MakeLayer) -> None:
    """A message from send() to receive() takes few Python calls and shares its system calls."""
    layer = make_layer(**CAPACITY)
    await layer.current_connection
    channel = await layer.new_channel()
    senders, each = 50, 40
    number = senders * each

    async def send() -> None:
        for _ in range(each):
            await layer.send(channel, MESSAGE)

    async def receive() -> None:
        for _ in range(number):
            await layer.receive(channel)

    await asyncio.gather(receive(), *(send() for _ in range(senders)))
    counts = await count(asyncio.gather(receive(), *(send() for _ in range(senders))))
    assert sum(counts.calls.values()) / number <= CALLS_PER_MESSAGE, report(counts, number)
    assert counts.writes / number <= WRITES_PER_MESSAGE


@counts_calls
async def test_one_delivery(make_layer: MakeLayer) -> None:
    """A group's message takes few Python calls for each member that waits."""
    layer = make_layer(**CAPACITY)
    members, rounds = 200, 10
    channels = [await layer.new_channel() for _ in range(members)]
    await asyncio.gather(*(layer.group_add("room", channel) for channel in channels))

    async def once() -> None:
        readers = [asyncio.ensure_future(layer.receive(channel)) for channel in channels]
        await asyncio.sleep(0)
        await layer.group_send("room", MESSAGE)
        await asyncio.gather(*readers)

    async def all_rounds() -> None:
        for _ in range(rounds):
            await once()

    await once()
    counts = await count(all_rounds())
    number = members * rounds
    assert sum(counts.calls.values()) / number <= CALLS_PER_DELIVERY, report(counts, number)


@counts_calls
async def test_one_join(make_layer: MakeLayer) -> None:
    """Joining a room takes few Python calls for each member, and fewer where it is bound."""
    layer = make_layer()
    await layer.current_connection
    number = 1000
    channels = [await layer.new_channel() for _ in range(number)]

    async def join(group: str) -> None:
        await asyncio.gather(*(layer.group_add(group, channel) for channel in channels))

    counts = await count(join("room"))
    assert sum(counts.calls.values()) / number <= CALLS_PER_JOIN, report(counts, number)
    await layer.group_add("bound", await layer.new_channel())
    counts = await count(join("bound"))
    assert sum(counts.calls.values()) / number <= CALLS_PER_BOUND_JOIN, report(counts, number)


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer is on, which takes memory")
async def test_one_waiting_channel(make_layer: MakeLayer) -> None:
    """A channel that waits for a message takes less than 1.5 kB, its task and name included."""
    layer = make_layer()
    await layer.current_connection
    number = 2000

    async def wait_for(count: int) -> list[asyncio.Task[dict[str, Any]]]:
        tasks = [
            asyncio.create_task(layer.receive(await layer.new_channel())) for _ in range(count)
        ]
        await until(lambda: sum(bool(box.waiters) for box in boxes()) >= count)
        return tasks

    def boxes() -> list[Mailbox]:
        loop_layer = layer._owner.here()
        assert loop_layer is not None
        return list(loop_layer.mailboxes._boxes.values())

    tasks = await wait_for(50)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tasks += await wait_for(number)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert taken / number < MEMORY_OF_A_WAITING_CHANNEL


def test_bytes() -> None:
    """A message has 68 bytes around its own on the way out; an acknowledgement has 21."""
    body = encode(CHANNEL_KEY, "channels_abcdefghijkl!abcdefghijkl", MESSAGE, 1000)
    frames = encode_publish(1, b"", b"channels_abcdefghijkl", body, 131072)
    assert len(frames) - len(body) == 68
    assert len(encode_ack(1, 1, True)) == 21
