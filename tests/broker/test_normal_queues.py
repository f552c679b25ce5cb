"""The queues of normal channels: names, arguments, and declaring them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from pamqp.commands import Queue

from channels_rabbitmq.broker.normal_queues import (
    NormalQueues,
    queue_arguments,
    queue_name,
    renewal_interval,
)
from channels_rabbitmq.config.options import Options
from channels_rabbitmq.errors import AccessRefused

from .fake_rabbit import FakeQueue, FakeRabbit
from .process import process


def test_queue_names() -> None:
    """The prefix and the channel are parts of it, and the longest fits into 255 bytes."""
    assert queue_name("", "thumbnails") == "asgi.channel::thumbnails"
    assert queue_name("site", "thumbnails") == "asgi.channel:site:thumbnails"
    longest = Options.from_config({"prefix": "p" * 41}).prefix
    assert len(queue_name(longest, "c" * 200)) == 255


@pytest.mark.parametrize("expiry", [0.001, 0.1, 1, 60, 86400])
def test_an_idle_queue_outlives_its_messages(expiry: float) -> None:
    """Counted from the last renewal before a message, not even the last message is cut short."""
    options = Options.from_config({"expiry": expiry})
    arguments = queue_arguments(options, "c")
    idle, ttl = arguments["x-expires"], arguments["x-message-ttl"]
    assert isinstance(idle, int)
    assert isinstance(ttl, int)
    assert idle > ttl + 1000 * renewal_interval(options)


def test_arguments() -> None:
    """Capacity and expiry are RabbitMQ's to keep, for each channel its own."""
    options = Options.from_config({"expiry": 7, "capacity": 5, "channel_capacity": {"big*": 9}})
    assert queue_arguments(options, "small") == {
        "x-message-ttl": 7000,
        "x-max-length": 5,
        "x-overflow": "reject-publish",
        "x-queue-type": "classic",
        "x-expires": 15000,
    }
    assert queue_arguments(options, "bigger")["x-max-length"] == 9


def test_queue_type() -> None:
    """The type is as chosen, with all else as it is."""
    options = Options.from_config({"normal_queue_type": "quorum"})
    classic = queue_arguments(Options.from_config({}), "c")
    assert queue_arguments(options, "c") == {**classic, "x-queue-type": "quorum"}


def test_the_longest_expiry() -> None:
    """RabbitMQ's 32 bits are not exceeded."""
    options = Options.from_config({"expiry": 4294967.295})
    assert queue_arguments(options, "c")["x-expires"] == 2**32 - 1


class LoopWithClock:
    """The running loop, with a clock that a test moves."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now = 0.0
        self.create_task = loop.create_task

    def time(self) -> float:
        """The clock's reading, in seconds."""
        return self.now


class TestDeclaring:
    """Each queue is declared when it is first used, and before it expires."""

    @staticmethod
    def declared(rabbit: FakeRabbit) -> list[bool]:
        """For each declaration of the queue of "jobs", whether it was passive."""
        found: list[Queue.Declare] = rabbit.seen(Queue.Declare)
        return [method.passive for method in found if method.queue == "asgi.channel::jobs"]

    async def test_once(self, rabbit: FakeRabbit, port: int) -> None:
        """Many who ask at once, or soon after, cause one declaration."""
        async with process(port) as here:
            topology = await here.recovery.wait_topology()
            queues = NormalQueues(here.options, asyncio.get_running_loop())
            await asyncio.gather(*(queues.ensure(topology, "jobs") for _ in range(5)))
            await queues.ensure(topology, "jobs")
            assert self.declared(rabbit) == [False]
            assert rabbit.queues["asgi.channel::jobs"].owner is None
            queues.forget("jobs")
            await queues.ensure(topology, "jobs")
            queues.forget_all()
            await queues.ensure(topology, "jobs")
            assert self.declared(rabbit) == [False] * 3

    async def test_renewed(self, rabbit: FakeRabbit, port: int) -> None:
        """By the clock, which a test moves: again after half of ``expiry``."""
        async with process(port, expiry=60) as here:
            topology = await here.recovery.wait_topology()
            clock = LoopWithClock(asyncio.get_running_loop())
            queues = NormalQueues(here.options, cast("asyncio.AbstractEventLoop", clock))
            await queues.ensure(topology, "jobs")
            clock.now = 29.0
            await queues.ensure(topology, "jobs")
            assert self.declared(rabbit) == [False]
            clock.now = 31.0
            await queues.ensure(topology, "jobs")
            assert self.declared(rabbit) == [False, False]

    async def test_other_arguments(
        self, rabbit: FakeRabbit, port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A queue that is there with other arguments is used as it is, and told about once."""
        rabbit.queues["asgi.channel::jobs"] = FakeQueue("asgi.channel::jobs", None, {})
        async with process(port) as here:
            topology = await here.recovery.wait_topology()
            queues = NormalQueues(here.options, asyncio.get_running_loop())
            for _ in range(2):
                await queues.ensure(topology, "jobs")
                queues.forget("jobs")
            assert self.declared(rabbit) == [False, True]
            assert caplog.text.count("has other arguments than the options ask for") == 1
            assert queues.limit("jobs") == "its queue was declared with another capacity"
            rabbit.delete_queue("asgi.channel::jobs")
            await queues.ensure(topology, "jobs")
            assert self.declared(rabbit) == [False, True, True, False]
            assert rabbit.queues["asgi.channel::jobs"].arguments["x-max-length"] == 100
            assert queues.limit("jobs") == "capacity 100"

    async def test_refused(self, rabbit: FakeRabbit, port: int) -> None:
        """Whoever asks is told that RabbitMQ refuses it; and asks again the next time."""
        async with process(port) as here:
            topology = await here.recovery.wait_topology()
            queues = NormalQueues(here.options, asyncio.get_running_loop())
            rabbit.refuse = lambda method: (
                (403, "ACCESS_REFUSED") if isinstance(method, Queue.Declare) else None
            )
            with pytest.raises(AccessRefused):
                await queues.ensure(topology, "jobs")
            rabbit.refuse = lambda method: None
            await queues.ensure(topology, "jobs")

    async def test_cancelled(self, rabbit: FakeRabbit, port: int) -> None:
        """Who is cancelled disturbs nobody else who waits for the same."""
        async with process(port) as here:
            topology = await here.recovery.wait_topology()
            queues = NormalQueues(here.options, asyncio.get_running_loop())
            asking = [asyncio.create_task(queues.ensure(topology, "jobs")) for _ in range(2)]
            await asyncio.sleep(0)
            asking[0].cancel()
            await asking[1]
            assert self.declared(rabbit) == [False]
