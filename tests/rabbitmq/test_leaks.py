"""Nothing stays behind: tasks, sockets, threads, futures and memory are where they were.

``FULL_SIZE=1`` runs the full counts, in about three minutes: 1,000 connects and closes, 100,000
channels, 20,000 sends in an outage, 50 threads in a restart of RabbitMQ, 200 forks. Without it,
the counts are smaller, and the connection is cut in place of a restart.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotConnected
from devtools.broker import Broker
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.scripts import FORKING, run
from tests.helpers.waiting import until

FULL = os.environ.get("FULL_SIZE") == "1"
CONNECTS = 1_000 if FULL else 100
CHANNELS = 100_000 if FULL else 5_000
SENDS = 20_000 if FULL else 5_000
THREADS = 50
FORKS = 200 if FULL else 20

#: By how much memory may grow where nothing leaks, in bytes: the allocator keeps some. A leak of
#: one object for each of what is counted here takes as much, or is found by counting objects.
SLACK = 16 * 1024 * 1024

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Census:
    """What this process has."""

    tasks: int
    descriptors: int
    threads: int
    futures: int
    #: Objects of the package's own classes.
    objects: Counter[str]

    @classmethod
    def take(cls) -> Census:
        """Count, after the garbage is gone."""
        gc.collect()
        kinds = [type(each) for each in gc.get_objects()]
        own = (kind for kind in kinds if str(kind.__module__).startswith("channels_rabbitmq."))
        return cls(
            tasks=len(asyncio.all_tasks()),
            descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            threads=threading.active_count(),
            futures=sum(issubclass(kind, asyncio.Future) for kind in kinds),
            objects=Counter(kind.__qualname__ for kind in own),
        )

    def exceeds(self, before: Census, few: int = 0) -> dict[str, int]:
        """What there is more of than before, by more than a few."""
        more = {name: getattr(self, name) - getattr(before, name) for name in COUNTS}
        more |= self.objects - before.objects
        return {name: count for name, count in more.items() if count > few}


COUNTS = ["tasks", "descriptors", "threads", "futures"]


def memory() -> int:
    """The resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def require_nothing_more(before: Census, memory_before: int, what: str, few: int = 0) -> None:
    """Wait until there is no more than before, or but a few of a kind; print the figures."""
    try:
        await until(lambda: not Census.take().exceeds(before, few), step=0.2)
    except AssertionError as err:
        err.add_note(repr(Census.take().exceeds(before)))
        raise
    grown = memory() - memory_before
    print(f"{what}: {Census.take().exceeds(before) or 'nothing'} more, memory {grown:+,} bytes")
    assert grown < SLACK


async def test_connects_and_closes(amqp_url: str) -> None:
    """A layer that was used and closed is gone."""

    async def use(count: int) -> None:
        for _ in range(count):
            layer = RabbitmqChannelLayer(host=amqp_url)
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
            await layer.send(channel, {"n": 1})
            await layer.receive(channel)
            await layer.close()

    await use(CONNECTS // 10)
    before, memory_before = Census.take(), memory()
    await use(CONNECTS)
    await require_nothing_more(before, memory_before, f"{CONNECTS:,} connects and closes")


async def test_channels(make_layer: MakeLayer) -> None:
    """A channel that was in a group, got messages, and left is gone."""
    layer = make_layer(local_capacity=1000, remote_capacity=1000)

    async def use_one(number: int) -> None:
        channel = await layer.new_channel()
        room = f"room{number % 10}"
        await layer.group_add(room, channel)
        receiving = asyncio.create_task(layer.receive(channel))
        await layer.send(channel, {"n": number})
        assert await receiving == {"n": number}
        if number % 2:  # as many are cancelled, as consumers are that disconnect
            receiving = asyncio.create_task(layer.receive(channel))
            await asyncio.sleep(0)
            receiving.cancel()
        await layer.group_discard(room, channel)

    async def use(count: int) -> None:
        for start in range(0, count, 100):
            await asyncio.gather(*map(use_one, range(start, start + 100)))

    await use(max(CHANNELS // 10, 1000))
    before, memory_before = Census.take(), memory()
    await use(CHANNELS)
    await require_nothing_more(before, memory_before, f"{CHANNELS:,} channels")
    assert not layer._owner._local.memberships.groups


async def test_sends_in_an_outage(make_layer: MakeLayer, proxy: Proxy) -> None:
    """Thousands of sends that wait for RabbitMQ at the same time fail, and leave nothing."""
    layer = make_layer(host=proxy.url, send_timeout=2, max_reconnect_delay=0.2)
    channel = await layer.new_channel()

    async def outage(count: int) -> None:
        first = await layer.current_connection
        await proxy.refuse()
        proxy.cut()
        await until(lambda: first.closed.done())
        sends = [asyncio.create_task(layer.send(channel, {"n": n})) for n in range(count)]
        results = await asyncio.gather(*sends, return_exceptions=True)
        assert all(isinstance(result, NotConnected) for result in results)
        await proxy.accept()
        await layer.current_connection
        await layer.send(channel, {"n": -1})
        assert await layer.receive(channel) == {"n": -1}
        await layer.group_members("nobody", 0.1)  # the start is over

    await outage(SENDS)  # as many: lists and sets of that size keep their memory
    before, memory_before = Census.take(), memory()
    await outage(SENDS)
    await require_nothing_more(before, memory_before, f"{SENDS:,} sends in an outage")


async def test_threads_in_a_restart(
    make_layer: MakeLayer, proxy: Proxy, request: pytest.FixtureRequest
) -> None:
    """Threads that send while RabbitMQ restarts all go on, and leave nothing."""
    layer = make_layer(host=proxy.url, remote_capacity=100_000, max_reconnect_delay=0.2)
    sent: Counter[str] = Counter()
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            try:
                async_to_sync(layer.group_send)("nobody", {"n": 1})
                async_to_sync(layer.send)(f"{layer.queue_name}!nobody", {"n": 1})
                sent[threading.current_thread().name] += 1
            except NotConnected:
                sent["failed"] += 1

    async def restart() -> None:
        over.clear()
        sent.clear()
        threads = [threading.Thread(target=send, name=str(n)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        await until(lambda: len(sent) >= THREADS, 30)
        if FULL:
            broker: Broker = request.getfixturevalue("broker")
            await asyncio.to_thread(broker.restart)
        else:
            await proxy.refuse()
            proxy.cut()
            await proxy.accept()
        sent.clear()
        await until(lambda: len(sent.keys() - {"failed"}) == THREADS, 60)
        over.set()
        await until(lambda: not any(thread.is_alive() for thread in threads), 60)

    await restart()
    await layer.flush()
    before, memory_before = Census.take(), memory()
    await restart()
    await layer.flush()
    # A connection keeps the error of its latest timeout, say: that is not one for each thread.
    await require_nothing_more(before, memory_before, f"{THREADS} threads in a restart", few=9)


async def test_fork_storm(proxy: Proxy) -> None:
    """Many children that fork at once, send and exit leave the parent's layer as it was."""
    await run("fork_storm", proxy.url, str(FORKS), flags=FORKING)
    await until(lambda: proxy.connections == 0)
    assert proxy.accepted == FORKS + 1
