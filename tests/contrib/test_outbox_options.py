"""The outbox's options, validated."""

from __future__ import annotations

import ssl
import traceback
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from channels_rabbitmq.broadcaster import RabbitmqBackend
from channels_rabbitmq.contrib.outbox_options import OutboxOptions, RoutingKey

EVENT = {"id": "5e8c", "type": "order.placed", "source": "/shop", "subject": "7"}


def test_defaults() -> None:
    """Nothing needs to be given."""
    options = OutboxOptions.from_dict({})
    (endpoint,) = options.endpoints
    assert str(endpoint) == "127.0.0.1:5672/%2F"
    assert (options.exchange, options.exchange_type, options.mode) == (
        "events",
        "topic",
        "structured",
    )
    assert options.routing_key.fill(EVENT) == "order.placed"
    assert (options.stream, options.max_length_bytes) == (None, None)
    assert (options.publish_timeout, options.health_timeout) == (10, 5)


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{type}", "order.placed"),
        ("shop.{type}.{subject}", "shop.order.placed.7"),
        ("{source}/{id}", "/shop/5e8c"),
        ("orders", "orders"),
        ("", ""),
        ("{{{type}}}", "{order.placed}"),
    ],
)
def test_routing_key(template: str, filled: str) -> None:
    """Attributes in braces are filled in, and double braces are braces."""
    assert RoutingKey(template).fill(EVENT) == filled


def test_routing_key_without_the_attribute() -> None:
    """An attribute that an event does not have is empty."""
    assert RoutingKey("a.{subject}.b").fill({}) == "a..b"


@pytest.mark.parametrize("template", ["{data}", "{type.__class__}", "{}", "{type!r}", "{type:>9}"])
def test_wrong_routing_key(template: str) -> None:
    """Anything else in braces is refused: templates also come from the database."""
    with pytest.raises(ValueError, match=r"may have \{id\}, .* and nothing else in braces"):
        RoutingKey(template)


def test_urls() -> None:
    """Several URLs are several nodes; TLS is as in the layer's ``host``."""
    options = OutboxOptions.from_dict({"url": ["amqp://a", "amqps://b?verify=verify_none"]})
    assert [str(endpoint) for endpoint in options.endpoints] == ["a:5672/%2F", "b:5671/%2F"]
    assert options.endpoints[1].tls is not None
    context = ssl.create_default_context()
    (endpoint,) = OutboxOptions.from_dict({"url": "amqp://a", "ssl_context": context}).endpoints
    assert (endpoint.port, endpoint.tls) == (5671, context)


def test_stream() -> None:
    """A stream gets all of a topic or fanout exchange, or is what is published to."""
    topic = OutboxOptions.from_dict({"stream": "all", "max_length_bytes": 10**9})
    assert (topic.stream, topic.max_length_bytes, topic.stream_key) == ("all", 10**9, "#")
    fanout = OutboxOptions.from_dict({"stream": "all", "exchange_type": "fanout"})
    assert fanout.stream_key == ""
    direct = OutboxOptions.from_dict({"stream": "{all}", "exchange": ""})
    assert direct.routing_key.fill(EVENT) == "{all}"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"urll": "amqp://a"}, "'urll' is not known to RabbitmqBackend; did you mean 'url'"),
        ({"xyz": 1}, "'xyz' is not known to RabbitmqBackend. The options are: url, ssl_context"),
        ({"url": 5}, "'url' must be an AMQP URL"),
        ({"url": "redis://a"}, "'url' cannot be used: the URL's scheme must be amqp or amqps"),
        ({"url": ["amqp://a", "x"]}, r"'url\[1\]' cannot be used"),
        ({"ssl_context": True}, "'ssl_context' must be an ssl.SSLContext or None"),
        ({"exchange": "amq.topic"}, "'exchange' must not start with 'amq.'"),
        ({"exchange": None}, "'exchange' must be the name of an exchange"),
        ({"exchange_type": "x"}, "'exchange_type' must be one of 'direct', 'fanout'"),
        ({"routing_key": 5}, "'routing_key' cannot be used: it is no str"),
        ({"routing_key": "{data}"}, "'routing_key' cannot be used: a routing key may have"),
        ({"routing_key": "{"}, "'routing_key' cannot be used"),
        ({"stream": 5}, "'stream' must be the name of a queue"),
        ({"stream": ""}, "'stream' must be the name of a queue: 1 to 255 bytes"),
        ({"stream": "amq.x"}, "'stream' must be the name of a queue: .*'amq.'"),
        ({"stream": "s", "exchange_type": "direct"}, "'stream' needs the 'exchange_type' 'fanout'"),
        ({"stream": "s", "exchange": "", "routing_key": "x"}, "'routing_key' must be left out"),
        ({"max_length_bytes": 5}, "'max_length_bytes' needs the option 'stream'"),
        ({"stream": "s", "max_length_bytes": 0}, "'max_length_bytes' must be a whole number"),
        ({"mode": "batch"}, "'mode' must be one of 'structured', 'binary'"),
        ({"publish_timeout": 0}, "'publish_timeout' must be a number of seconds"),
        ({"health_timeout": "5"}, "'health_timeout' must be a number of seconds"),
        ([], "OPTIONS must be a dict, not a list"),
    ],
)
def test_wrong_options(options: dict[str, object], text: str) -> None:
    """What is wrong is said by the option's name, as the backend is made."""
    with pytest.raises(ImproperlyConfigured, match=text):
        RabbitmqBackend(options)


def test_no_secret_is_shown() -> None:
    """Neither the error nor the variables of its frames have the password."""
    options = {"url": "amqp://user:hunter2@a", "mode": "x"}
    with pytest.raises(ImproperlyConfigured) as caught:
        RabbitmqBackend(options)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    below = shown.stack[1:]
    assert {Path(frame.filename).name for frame in below} == {"broadcaster.py", "outbox_options.py"}
    assert "hunter2" not in "".join(str(frame.locals) for frame in below) + str(caught.value)
    assert "hunter2" not in repr(RabbitmqBackend({"url": "amqp://user:hunter2@a"}).options)
