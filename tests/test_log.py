"""Warnings at a limited rate, by a clock of the test's own."""

from __future__ import annotations

import logging

import pytest

from channels_rabbitmq.amqp.log import NamedLogger
from channels_rabbitmq.log import RateLimitedWarning


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def warn(clock: Clock) -> RateLimitedWarning:
    """A warning, at most every ten seconds."""
    return RateLimitedWarning(NamedLogger(logging.getLogger("test")), interval=10, clock=clock)


def test_first_is_logged_at_once(
    warn: RateLimitedWarning, caplog: pytest.LogCaptureFixture
) -> None:
    """The first warning is logged, at level WARNING."""
    warn("%s is %d%% full", "a", 90)

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "a is 90% full")
    ]


def test_many_are_counted(
    warn: RateLimitedWarning, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Warnings within the interval are counted, and the next one that is logged says how many."""
    for _ in range(1001):
        warn("again %s", "a")
    clock.now += 9.9
    warn("again %s", "b")
    assert caplog.messages == ["again a"]

    clock.now += 0.1
    warn("again %s", "c")
    assert caplog.messages[1:] == ["again c (1001 more like this were not logged)"]

    clock.now += 10
    warn("again %s", "d")
    assert caplog.messages[2:] == ["again d"]


def test_default_clock_runs(caplog: pytest.LogCaptureFixture) -> None:
    """By default real time counts, so that two warnings in a row are one."""
    warn = RateLimitedWarning(NamedLogger(logging.getLogger("test")))
    warn("one")
    warn("two")

    assert caplog.messages == ["one"]


def test_due(warn: RateLimitedWarning, clock: Clock) -> None:
    """Whoever asks first is told whether the next one is logged."""
    assert warn.due
    warn("once")
    assert not warn.due
    clock.now += 10
    assert warn.due
