"""Deafness is concluded from what is known of a probe, by a clock that the tests read for it."""

from __future__ import annotations

import msgpack
import pytest

from channels_rabbitmq.broker.probe import PATIENCE, Probe


@pytest.fixture
def probe() -> Probe:
    """A probe that was confirmed at second 100, after 7 deliveries."""
    probe = Probe("channels_a", backlog=10, expiry=60)
    probe.send()
    probe.confirm(100.0, 7)
    return probe


def test_what_it_is() -> None:
    """It is for this process alone; others, and version 4.0.1, take it for an empty group's."""
    probe, other = Probe("channels_a", 10, 60), Probe("channels_a", 10, 60)
    assert probe.routing_key == "!probe.channels_a"
    assert probe.body != other.body
    assert msgpack.unpackb(probe.body)["__asgi_group__"] == "!probe"


def test_before_it_is_confirmed() -> None:
    """Without a confirm nothing is known, and nothing concluded: a nack is a sign of life."""
    probe = Probe("channels_a", 10, 60)
    probe.send()
    assert probe.under_way
    assert not any(probe.is_lost(now, 0, full=False) for now in range(100))


def test_it_arrives(probe: Probe) -> None:
    """Then all is well, however much is delivered after it."""
    assert not probe.is_lost(101.0, 8, full=False)
    probe.end()
    assert not probe.is_lost(120.0, 1000, full=False)


def test_it_arrives_before_its_confirm() -> None:
    """RabbitMQ delivers on one AMQP channel and confirms on another, in any order."""
    probe = Probe("channels_a", 10, 60)
    probe.send()
    probe.end()
    probe.confirm(100.0, 1)
    assert not any(probe.is_lost(100.0 + now, 1, full=False) for now in range(50))


def test_nothing_arrives_while_the_window_is_open(probe: Probe) -> None:
    """It is lost once the window has been open for long enough."""
    assert not probe.is_lost(101.0, 7, full=False)
    assert not probe.is_lost(101.0 + PATIENCE - 0.1, 7, full=False)
    assert probe.is_lost(101.0 + PATIENCE, 7, full=False)


def test_it_waits_behind_a_full_window(probe: Probe) -> None:
    """That is back-pressure: the time begins when the window opens."""
    for second in range(101, 150):
        assert not probe.is_lost(float(second), 7, full=True)
    assert not probe.is_lost(150.0, 7, full=False)
    assert not probe.is_lost(150.0 + PATIENCE - 0.1, 7, full=False)


def test_it_waits_behind_a_backlog(probe: Probe) -> None:
    """As long as what arrives can have been before it, it is not lost; after that, it is."""
    for count in range(8, 28):
        assert not probe.is_lost(100.0 + count, count, full=False)
    assert probe.is_lost(130.0, 28, full=False)


def test_it_expires(probe: Probe) -> None:
    """A probe that RabbitMQ dropped from the queue over its age says nothing."""
    assert not probe.is_lost(160.0, 1000, full=False)
    assert not probe.under_way
