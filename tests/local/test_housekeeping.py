"""The timers over what a process holds, by a clock that the tests move."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from typing import cast

import pytest

from channels_rabbitmq.config.options import Options
from channels_rabbitmq.local.housekeeping import Housekeeping
from channels_rabbitmq.local.lag import LAG, TICK
from channels_rabbitmq.local.mailbox import Delivery
from channels_rabbitmq.local.state import LocalState
from channels_rabbitmq.wire.messages import decode
from tests.helpers.clock import Clock

CAPACITY = 4
EXPIRY = 30


class Process:
    """Mailboxes and their housekeeping, at work behind RabbitMQ's prefetch window."""

    def __init__(self, state: LocalState | None = None, capacity: int = CAPACITY) -> None:
        options = Options.from_config({"local_capacity": capacity, "local_expiry": EXPIRY})
        self.clock = Clock()
        self.state = LocalState(options, decode) if state is None else state
        self.mailboxes = self.state.mailboxes
        loop = cast("asyncio.AbstractEventLoop", self.clock)
        self.housekeeping = Housekeeping(options, self.state, loop)
        #: What waits on RabbitMQ, and how much of the window is free.
        self.backlog: deque[tuple[str, int]] = deque()
        self.free = capacity

    def send(self, channel: str, number: int = 0) -> None:
        """Somebody sends a message to a channel."""
        self.backlog.append((channel, number))
        self._deliver()

    def ack(self, delivery_tag: int) -> None:
        """Let RabbitMQ send one more."""
        self.free += 1
        if self.free == 1:
            self.clock.call_soon(self._deliver)

    def _deliver(self) -> None:
        while self.free and self.backlog:
            self.free -= 1
            channel, number = self.backlog.popleft()
            delivery = Delivery(self, 0, self.clock.now, b"", {"n": number})
            self.mailboxes.put(delivery, [channel])
            self.housekeeping.message_held()

    def read(self, channel: str) -> object:
        """The channel takes its oldest message."""
        return self.mailboxes.take(self.mailboxes.box(channel))["n"]


@pytest.fixture
def process() -> Process:
    """A process with empty mailboxes."""
    return Process()


def test_expiry_within_a_quarter_of_a_second(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    """Each message is dropped once its time is up, soon after and never before; a warning says."""
    for number in range(3):
        process.clock.move(number / 10)
        process.send("q!slow")
    process.clock.move(EXPIRY - 0.001)
    assert len(process.mailboxes) == 3
    for number in range(3):
        process.clock.move(EXPIRY + number / 10 + 0.25)
        assert len(process.mailboxes) <= 2 - number
    assert "1 messages expired after local_expiry (30 s) unread, in q!slow (1)" in caplog.text
    assert len(caplog.records) == 1


def test_no_tick_without_messages(process: Process) -> None:
    """An idle process wakes for nothing but a sweep now and then."""

    def until_next() -> float:
        return process.clock.timers[0].when - process.clock.now

    assert until_next() == 10
    process.send("q!a")
    assert until_next() == TICK
    process.read("q!a")
    process.clock.move(1)
    assert len(process.clock.timers) == 1
    assert until_next() == 9


def test_idle_mailboxes_do_not_stay(process: Process) -> None:
    """A channel that is not used for some seconds leaves nothing behind."""
    process.send("q!a")
    process.read("q!a")
    assert process.mailboxes.find("q!a")
    process.clock.move(20)
    assert process.mailboxes.find("q!a") is None


def test_messages_of_another_loop_expire() -> None:
    """What was there before is watched from the start."""
    before = Process()
    before.send("q!a")
    after = Process(before.state)
    after.clock.move(EXPIRY + 0.25)
    assert len(after.mailboxes) == 0


def test_channel_that_lags_makes_room(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    """While the window is full, a channel that lags loses messages, and others go on."""
    process.state.memberships.establish("g", "q!other", 0.0)
    for _ in range(CAPACITY):
        process.send("q!stuck")
    process.clock.move(LAG - 0.01)
    assert process.mailboxes.full
    process.clock.move(LAG + 2 * TICK)
    assert not process.mailboxes.full
    assert "dropped the 1 oldest messages of q!stuck (1)" in caplog.text


def test_room_at_once(process: Process) -> None:
    """Once a channel lags, it makes room in the turn of the loop in which the window fills."""
    process.state.memberships.establish("g", "q!other", 0.0)
    process.send("q!stuck")
    process.clock.move(1)
    for _ in range(5 * CAPACITY):
        process.send("q!stuck")
    process.send("q!other")
    process.clock.move(1)
    assert process.mailboxes.box("q!other").queue


def test_loop_that_stood_still(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    """What waited because the loop stood still is not dropped: nobody could read it."""
    process.state.memberships.establish("g", "q!other", 0.0)
    for _ in range(CAPACITY):
        process.send("q!busy")
    process.clock.stand_still(5.0)
    process.clock.move(process.clock.now + LAG / 2)
    assert process.mailboxes.full
    assert not caplog.records
    process.clock.move(process.clock.now + LAG)
    assert not process.mailboxes.full


def test_slow_reader_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A channel that reads, but slower than its messages come, holds up nobody."""
    process = Process(capacity=100)
    others = [f"q!{number}" for number in range(20)]
    for name in others:
        process.state.memberships.establish("g", name, 0.0)
    slow: list[object] = []
    pauses = random.Random(1)
    next_read = 0.0
    longest_backlog = 0
    step = 1 / 60
    for turn in range(60 * 60):
        now = turn * step
        process.clock.move(now)
        process.send("q!slow", turn)
        if turn % 30 == 0:
            for name in others:
                process.send(name, turn)
        process.clock.move(now)
        for name in others:
            while process.mailboxes.box(name).queue:
                assert process.read(name) == turn
        while next_read <= now and process.mailboxes.box("q!slow").queue:
            slow.append(process.read("q!slow"))
            next_read = max(now, next_read) + pauses.uniform(0.02, 0.09)
        longest_backlog = max(longest_backlog, len(process.backlog))
    assert longest_backlog == 0
    lost = process.mailboxes.dropped["local_capacity"]
    assert len(slow) + lost + len(process.mailboxes) == 60 * 60
    assert slow == sorted(slow, key=int)  # type: ignore[call-overload]
    assert "dropped the 1 oldest messages of q!slow (1)" in caplog.messages[0]


def test_losses_are_gathered(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    """A warning names all that was lost since the one before."""
    process.state.memberships.establish("g", "q!other", 0.0)
    process.clock.move(100)
    for number in range(20):
        for _ in range(CAPACITY):
            process.send(f"q!stuck{number % 2}")
        process.clock.move(process.clock.now + 1)
    first, second = caplog.messages
    assert "dropped the 1 oldest messages of q!stuck0 (1)" in first
    assert "q!stuck0" in second
    assert "q!stuck1" in second
    assert int(second.split("dropped the ")[1].split()[0]) > 30


def test_window_that_is_full_for_a_moment(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    """A burst that is read at once loses nothing and warns of nothing."""
    process.state.memberships.establish("g", "q!other", 0.0)
    for _ in range(CAPACITY):
        process.send("q!busy")
    for _ in range(CAPACITY):
        process.read("q!busy")
    process.clock.move(1)
    assert not caplog.records


def test_back_pressure_is_told(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    """The only channel in use loses nothing, and holds RabbitMQ back; a warning says so."""
    caplog.set_level(logging.WARNING)
    for _ in range(CAPACITY):
        process.send("q!only")
    process.clock.move(1)
    assert len(process.mailboxes) == CAPACITY
    assert "Back-pressuring: local_capacity (4 messages) is used up. Fullest: q!only (4)" in (
        caplog.text
    )
    for _ in range(CAPACITY):
        process.read("q!only")
    process.clock.move(2)
    assert len(process.clock.timers) == 1  # the sweep


def test_stop(process: Process) -> None:
    """Once stopped, it drops nothing and leaves no timer."""
    for _ in range(CAPACITY):
        process.send("q!a")
    process.housekeeping.stop()
    process.clock.move(2 * EXPIRY)
    assert len(process.mailboxes) == CAPACITY
    assert not process.clock.timers
