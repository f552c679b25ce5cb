"""`normal`: the queues of normal channels, and what the process holds of them."""

from __future__ import annotations

import asyncio

import pytest

from channels_rabbitmq.config.options import Options
from channels_rabbitmq.local.normal_channels import (
    NormalState,
    queue_arguments,
    queue_name,
    renewal_interval,
)


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


def test_the_longest_expiry() -> None:
    """RabbitMQ's 32 bits are not exceeded."""
    options = Options.from_config({"expiry": 4294967.295})
    assert queue_arguments(options, "c")["x-expires"] == 2**32 - 1


class TestBoxes:
    """What the process holds."""

    async def test_a_message_wakes_the_first_in_line(self) -> None:
        """Each message wakes one of those who wait."""
        boxes = NormalState(60)
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        boxes.box("c").waiters += [first, second]
        assert boxes.waited_for == ["c"]
        boxes.hold("c", {"n": 1}, b"1", 0.0)
        assert first.done()
        assert not second.done()
        assert boxes.take(boxes.box("c")) == {"n": 1}
        boxes.fail_waiters(ValueError(), "other")
        assert not second.done()
        boxes.fail_waiters(ValueError())
        assert isinstance(second.exception(), ValueError)

    def test_expired_messages_are_not_given(self) -> None:
        """What was held for too long is dropped when it is asked for."""
        boxes = NormalState(10)
        boxes.hold("c", {"n": 1}, b"1", 0.0)
        boxes.hold("c", {"n": 2}, b"2", 1.0)
        assert boxes.ready(boxes.box("c"), 10.5)
        assert boxes.take(boxes.box("c")) == {"n": 2}
        assert not boxes.ready(boxes.box("c"), 10.5)

    def test_put_back_comes_first(self) -> None:
        """A message whose reader was cancelled keeps its place."""
        boxes = NormalState(10)
        boxes.hold("c", {"n": 2}, b"2", 0.0)
        boxes.put_back("c", {"n": 1}, b"1", 0.0)
        assert [delivery.body for _, delivery in boxes.take_all(0.0)] == [b"1", b"2"]
        assert boxes.unused

    def test_memberships(self) -> None:
        """Who made a membership remembers it, once."""
        boxes = NormalState(10)
        assert boxes.join("g", "c")
        assert not boxes.join("g", "c")
        assert boxes.join("g", "d")
        assert list(boxes.members("g")) == ["c", "d"]
        assert not boxes.unused
        boxes.leave("g", "c")
        boxes.leave("h", "c")
        assert boxes.memberships == [("g", "d")]
        boxes.leave("g", "d")
        assert not boxes.groups

    def test_clear(self) -> None:
        """After a flush nothing is held or grouped, and those who wait still do."""
        boxes = NormalState(10)
        boxes.join("g", "c")
        boxes.note_use("c", 0.0, 60.0)
        boxes.hold("c", {}, b"", 0.0)
        assert boxes.clear() == [("g", "c")]
        assert boxes.unused
        assert not boxes.used

    def test_many_names_are_forgotten(self) -> None:
        """A process that sends to ever new channels does not grow."""
        boxes = NormalState(10)
        for n in range(5000):
            boxes.note_use(f"reply.{n}", float(n), 60.0)
            boxes.box(f"reply.{n}")
        assert len(boxes.used) < 600
        assert "reply.4999" in boxes.used
