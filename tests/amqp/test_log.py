"""``amqp.log``: each line begins with the name of the connection that it is about."""

from __future__ import annotations

import logging

import pytest

from channels_rabbitmq.amqp.log import NamedLogger

LOGGER = logging.getLogger("channels_rabbitmq.for_a_test")


class Name:
    """A name that counts how often it is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __str__(self) -> str:
        self.asked += 1
        return "100% web/1"


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_name_comes_first(level: str, caplog: pytest.LogCaptureFixture) -> None:
    """The name is before the line, in brackets, and in the record; percent signs do no harm."""
    caplog.set_level(logging.DEBUG)
    log = NamedLogger(LOGGER, Name())
    getattr(log, level)("%d messages", 3)
    getattr(log, level)("none")

    assert caplog.messages == ["[100% web/1] 3 messages", "[100% web/1] none"]
    record = caplog.records[0]
    assert record.levelname == level.upper()
    assert record.__dict__["connection_name"] == "100% web/1"
    assert record.msg == "[%s] %d messages"  # one line to error trackers, whatever the name
    assert record.funcName == "test_name_comes_first"


def test_without_a_name(caplog: pytest.LogCaptureFixture) -> None:
    """An empty name is left out."""
    NamedLogger(LOGGER).warning("%s", "alone")
    assert caplog.messages == ["alone"]


def test_exception(caplog: pytest.LogCaptureFixture) -> None:
    """An error has its traceback: the one that is handled, or the one that is given."""
    log, given = NamedLogger(LOGGER, "a"), ValueError("given")
    try:
        raise KeyError("handled")
    except KeyError:
        log.exception("one")
    log.error("two", error=given)

    logged = [record.exc_info and record.exc_info[0] for record in caplog.records]
    assert logged == [KeyError, ValueError]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_what_is_not_logged_costs_no_name(caplog: pytest.LogCaptureFixture) -> None:
    """Below the level that is logged, nobody asks for the name."""
    caplog.set_level(logging.WARNING)
    name = Name()
    NamedLogger(LOGGER, name).info("nothing")
    assert name.asked == 0
