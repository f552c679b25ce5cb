"""The queues of normal channels: names, arguments, and declaring them."""

from __future__ import annotations

import pytest

from channels_rabbitmq.broker.normal_queues import (
    queue_arguments,
    queue_name,
    renewal_interval,
)
from channels_rabbitmq.config.options import Options


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
