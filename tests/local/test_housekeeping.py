"""The timers over what a process holds, by a clock that the tests move."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest

from channels_rabbitmq.config.options import Options
from channels_rabbitmq.local.housekeeping import Housekeeping
from channels_rabbitmq.local.mailboxes import NOWHERE, STUCK_AFTER, Delivery
from channels_rabbitmq.local.state import LocalState
from channels_rabbitmq.wire.messages import decode
from tests.helpers.clock import Clock

CAPACITY = 4
EXPIRY = 30


class Process:
    """Mailboxes and their housekeeping, at work."""

    def __init__(self, state: LocalState | None = None) -> None:
        options = Options.from_config({"local_capacity": CAPACITY, "local_expiry": EXPIRY})
        self.clock = Clock()
        self.state = LocalState(options, decode) if state is None else state
        self.mailboxes = self.state.mailboxes
        loop = cast("asyncio.AbstractEventLoop", self.clock)
        self.housekeeping = Housekeeping(options, self.state, loop)

    def receive(self, channel: str) -> None:
        """A message comes for a channel."""
        delivery = Delivery(NOWHERE, 0, self.clock.now, b"", {"type": "x"})
        self.mailboxes.put(delivery, [channel])
        self.housekeeping.message_held()

    def read(self, channel: str) -> None:
        """The channel takes its oldest message."""
        self.mailboxes.take(self.mailboxes.box(channel))


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
        process.receive("q!slow")
    process.clock.move(EXPIRY - 0.001)
    assert len(process.mailboxes) == 3
    for number in range(3):
        process.clock.move(EXPIRY + number / 10 + 0.25)
        assert len(process.mailboxes) <= 2 - number
    assert "1 messages expired after local_expiry (30 s) unread, in q!slow (1)" in caplog.text
    assert len(caplog.records) == 1


def test_no_timer_without_messages(process: Process) -> None:
    """An idle process wakes for nothing."""
    assert not process.clock.timers
    process.receive("q!a")
    process.read("q!a")
    process.clock.move(2 * EXPIRY)
    assert not process.clock.timers


def test_messages_of_another_loop_expire() -> None:
    """What was there before is watched from the start."""
    before = Process()
    before.receive("q!a")
    after = Process(before.state)
    after.clock.move(EXPIRY + 0.25)
    assert len(after.mailboxes) == 0


def test_stuck_channel_makes_room(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    """While the window is full, a channel that is not read loses messages, and others go on."""
    process.state.memberships.establish("g", "q!other", 0.0)
    for _ in range(CAPACITY):
        process.receive("q!stuck")
    process.clock.move(2 * STUCK_AFTER)
    assert not process.mailboxes.full
    assert "dropped the 1 oldest messages of q!stuck (1)" in caplog.text


def test_window_that_is_full_for_a_moment(
    process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    """A burst that is read at once loses nothing and warns of nothing."""
    process.state.memberships.establish("g", "q!other", 0.0)
    for _ in range(CAPACITY):
        process.receive("q!busy")
    for _ in range(CAPACITY):
        process.read("q!busy")
    process.clock.move(1)
    assert not caplog.records


def test_back_pressure_is_told(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    """The only channel in use loses nothing, and holds RabbitMQ back; a warning says so."""
    caplog.set_level(logging.WARNING)
    for _ in range(CAPACITY):
        process.receive("q!only")
    process.clock.move(1)
    assert len(process.mailboxes) == CAPACITY
    assert "Back-pressuring: local_capacity (4 messages) is used up. Fullest: q!only (4)" in (
        caplog.text
    )
    for _ in range(CAPACITY):
        process.read("q!only")
    process.clock.move(2)
    assert [timer.when > 2 for timer in process.clock.timers] == [True]  # expiry's


def test_stop(process: Process) -> None:
    """Once stopped, it drops nothing and leaves no timer."""
    for _ in range(CAPACITY):
        process.receive("q!a")
    process.housekeeping.stop()
    process.clock.move(2 * EXPIRY)
    assert len(process.mailboxes) == CAPACITY
    assert not process.clock.timers
