"""Telling a hook of events, whatever it does."""

from __future__ import annotations

import logging

import pytest

from channels_rabbitmq.events import Event, EventKind
from channels_rabbitmq.local.counts import BAD_MESSAGE, LOCAL_CAPACITY, LOCAL_EXPIRY, Counts
from channels_rabbitmq.local.notifier import Notifier


def test_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook gets one frozen object, with the time and the connection."""
    monkeypatch.setattr("time.time", lambda: 1234.5)
    told: list[Event] = []
    notifier = Notifier("site@host:1")
    notifier.tell(EventKind.CONNECTED)  # nobody listens
    notifier.hook = told.append
    notifier.tell(EventKind.CONNECTED, detail="host:5672/vhost")
    notifier.tell_blocked("low on memory")
    notifier.tell_blocked(None)
    assert told == [
        Event(EventKind.CONNECTED, 1234.5, "site@host:1", detail="host:5672/vhost"),
        Event(EventKind.BLOCKED, 1234.5, "site@host:1", detail="low on memory"),
        Event(EventKind.UNBLOCKED, 1234.5, "site@host:1"),
    ]
    with pytest.raises(AttributeError):
        told[0].count = 5  # type: ignore[misc]


def test_a_hook_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """What it raises is logged with its traceback, now and then, and harms nothing."""
    now = 100.0

    def fail(event: Event) -> None:
        raise RuntimeError("a bug of the user's")

    notifier = Notifier(clock=lambda: now)
    notifier.hook = fail
    with caplog.at_level(logging.ERROR):
        for _ in range(1000):
            notifier.tell(EventKind.UNSENT)
        assert caplog.messages == ["on_event raised an exception"]
        assert "a bug of the user's" in caplog.text
        now = 111.0
        notifier.tell(EventKind.UNSENT)
    assert len(caplog.messages) == 2


def test_what_is_dropped() -> None:
    """Each channel that loses messages is an event, with their number; so is a bad message."""
    counts = Counts()
    told: list[tuple[EventKind, str, str, int, str]] = []
    counts.events.hook = lambda event: told.append(
        (event.kind, event.cause, event.name, event.count, event.detail)
    )
    lost = counts.dropped.copy()
    lost.update({"q!a": 2, "q!b": 1})
    counts.drop_from(LOCAL_EXPIRY, lost)
    counts.drop_from(LOCAL_CAPACITY, lost)
    counts.drop(LOCAL_CAPACITY, 0, "q!c")
    counts.drop_whole(BAD_MESSAGE, "it is no map")
    assert told == [
        (EventKind.EXPIRED, "", "q!a", 2, ""),
        (EventKind.EXPIRED, "", "q!b", 1, ""),
        (EventKind.DROPPED, "local_capacity", "q!a", 2, ""),
        (EventKind.DROPPED, "local_capacity", "q!b", 1, ""),
        (EventKind.DROPPED, "bad_message", "", 1, "it is no map"),
    ]
    assert counts.dropped == {"local_expiry": 3, "local_capacity": 3, "bad_message": 1}
