"""`Options.from_config`: prefix, capacities, keys, serializer and hooks."""

from __future__ import annotations

import re

import pytest
from django.core.exceptions import ImproperlyConfigured

from channels_rabbitmq.config.options import Options


def options(**config: object) -> Options:
    return Options.from_config(config)


def error(**config: object) -> str:
    with pytest.raises(ImproperlyConfigured) as raised:
        Options.from_config(config)
    return str(raised.value)


@pytest.mark.parametrize("prefix", ["", "a", "my-project_2.x", "p" * 41])
def test_prefix(prefix: str) -> None:
    """A prefix has the characters of a channel's name, and leaves room for 200 of those."""
    assert options(prefix=prefix).prefix == prefix


@pytest.mark.parametrize("prefix", ["p" * 42, "asgi:", "a b", "ü", "a!", "a\n"])
def test_wrong_prefix(prefix: str) -> None:
    """Colons would blur where the prefix ends; too long a one would not fit into AMQP."""
    assert "Option 'prefix' must be a str of at most 41 ASCII letters" in error(prefix=prefix)


def test_prefix_of_another_type() -> None:
    """A prefix is text."""
    assert error(prefix=None) == "Option 'prefix' must be a str, not a value of type NoneType."


def test_group_expiry() -> None:
    """It is in whole seconds, and 0 is none."""
    assert options(group_expiry=0).group_expiry == 0
    assert options(group_expiry=86400).group_expiry == 86400
    for value in (-1, 0.5, True, "60", None):
        assert "Option 'group_expiry' must be a whole number from 0" in error(group_expiry=value)


def test_capacity() -> None:
    """It is a number of messages."""
    assert options(capacity=5).capacity == 5
    assert "Option 'capacity' must be a whole number from 1" in error(capacity=0)


def test_channel_capacity() -> None:
    """Patterns are globs or compiled expressions, the first that matches counts."""
    made = options(
        capacity=7,
        channel_capacity={"http.request": 200, "http.response!*": 10, re.compile(r"^web.+"): 5},
    )
    assert made.capacity_of("http.request") == 200
    assert made.capacity_of("http.requests") == 7
    assert made.own_capacity_of("http.response!abc") == 10
    assert made.own_capacity_of("websocket") == 5
    assert made.own_capacity_of("other") is None
    assert options(channel_capacity=None).channel_capacity == ()
    assert options(channel_capacity={"*": 1, "a": 2}).capacity_of("a") == 1


@pytest.mark.parametrize(
    "value", [[], "a", {"a": 0}, {"a": "1"}, {"a": True}, {1: 1}, {re.compile(b"a"): 1}]
)
def test_wrong_channel_capacity(value: object) -> None:
    """What is no pattern or no number is refused by the option's name."""
    assert error(channel_capacity=value).startswith("Option 'channel_capacity' must be a dict")


def test_keys() -> None:
    """They are a list of secrets that no text shows."""
    made = options(symmetric_encryption_keys=["Zw9", "Zw8"])
    assert made.symmetric_encryption_keys == ("Zw9", "Zw8")
    assert "Zw" not in repr(made)
    assert options(symmetric_encryption_keys=None).symmetric_encryption_keys == ()


@pytest.mark.parametrize("value", ["Zw9", b"Zw9", [b"Zw9"], [""], {"Zw9": 1}, 9])
def test_wrong_keys(value: object) -> None:
    """One key alone is the likeliest mistake, and is not shown."""
    message = error(symmetric_encryption_keys=value)
    assert message.startswith("Option 'symmetric_encryption_keys' must be a list of str")
    assert "Zw" not in message


@pytest.mark.parametrize("value", ["", None, int, 3])
def test_wrong_serializer(value: object) -> None:
    """It is named by a text."""
    assert "Option 'serializer_format' must be 'msgpack', 'json' or" in error(
        serializer_format=value
    )


@pytest.mark.parametrize("name", ["on_disconnect", "on_reconnect"])
def test_hooks(name: str) -> None:
    """They are functions, or None."""
    assert getattr(options(**{name: print}), name) is print
    assert getattr(options(**{name: None}), name) is None
    assert f"Option '{name}' must be a function" in error(**{name: "print"})
