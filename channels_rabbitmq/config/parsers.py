"""What the options may be: a parser for each kind.

A parser takes an option's name and its value from ``CONFIG``. It gives the value that the layer
works with, or raises :class:`django.core.exceptions.ImproperlyConfigured`.
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeGuard

from django.core.exceptions import ImproperlyConfigured

from ..events import EventHook
from . import tls
from .connection_name import ConnectionName

# RabbitMQ keeps an expiry in milliseconds and takes no more than 32 bits of them.
LEAST_SECONDS = 0.001
MOST_SECONDS = (2**32 - 1) / 1000
# basic.qos has 16 bits for the prefetch count, and 0 means "no limit" there.
MOST_LOCAL = 2**16 - 1
MOST_REMOTE = 2**31 - 1
# RabbitMQ takes no larger message, however it is configured.
MOST_MESSAGE_BYTES = 512 * 1024 * 1024
# A queue's name has at most 255 bytes: "asgi.channel:", the prefix, ":" and a name of up to 200.
MOST_PREFIX = 255 - len("asgi.channel::") - 200
# What a channel's name may have: the name of the process's queue is a part of it.
_PREFIX = re.compile(rf"[A-Za-z0-9_.-]{{0,{MOST_PREFIX}}}", re.ASCII)
# AMQP 0-9-1's exchange-name, with the characters that RabbitMQ's users have besides.
_EXCHANGE_NAME = re.compile(r"[A-Za-z0-9_.:@#,/ -]{1,127}")

#: What a connection is called: printable ASCII, short enough to be in a consumer's tag.
_CONNECTION_NAME = re.compile(r"[ -~]{1,200}")

#: ``package.module.name``.
_DOTTED_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_NO_PATH = "a text that is no dotted path"

#: A hook: called without arguments, on the event loop that the connection lives on.
Hook = Callable[[], "Awaitable[object] | object"]


def _wrong(
    name: str, value: object, allowed: str, *, text: str | None = None
) -> ImproperlyConfigured:
    """Say what an option must be, and what it is: ``text`` where a str may do, but not this one."""
    # Numbers are harmless to show; anything else might be a secret in the wrong place.
    # Python refuses to print an int of thousands of digits.
    number = isinstance(value, float) or (type(value) is int and abs(value) < 10**30)
    shown = repr(value) if number else f"a value of type {type(value).__name__}"
    if text is not None and isinstance(value, str):
        shown = text
    return ImproperlyConfigured(f"Option {name!r} must be {allowed}, not {shown}.")


def urls(name: str, value: object) -> list[tuple[str, str]]:
    """The URLs, each after the words that say where it stands in the option."""
    allowed = "an AMQP URL (str) or a list of at least one"
    if isinstance(value, str):
        return [(name, value)]
    if not isinstance(value, (list, tuple)):
        raise _wrong(name, value, allowed)
    if not value:
        raise ImproperlyConfigured(f"Option {name!r} must be {allowed}; the list is empty.")
    places = [(f"{name}[{index}]", url) for index, url in enumerate(value)]
    for place, url in places:
        if not isinstance(url, str):
            raise _wrong(place, url, "an AMQP URL (str)")
    return places


def ssl_context(name: str, value: object) -> ssl.SSLContext | None:
    """A context that a client can use, or None."""
    if value is None:
        return None
    if not isinstance(value, ssl.SSLContext):
        raise _wrong(name, value, "an ssl.SSLContext or None")
    try:
        tls.check_client(value)
    except tls.InvalidTls as err:
        raise ImproperlyConfigured(f"Option {name!r} is wrong: {err}.") from err
    return value


def seconds(name: str, value: object) -> float:
    """A number of seconds that RabbitMQ can keep."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        # NaN is in no range.
        or not LEAST_SECONDS <= value <= MOST_SECONDS
    ):
        allowed = f"a number of seconds from {LEAST_SECONDS} to {MOST_SECONDS:.3f}"
        raise _wrong(name, value, allowed)
    return float(value)


def seconds_or_none(name: str, value: object) -> float | None:
    """A number of seconds, or None."""
    return None if value is None else seconds(name, value)


def flag(name: str, value: object) -> bool:
    """A bool, and nothing that only looks like one: any text but the empty one would be true."""
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return value


def whole(least: int, most: int) -> Callable[[str, object], int]:
    """Make the parser for whole numbers of a range."""

    def parse_whole(name: str, value: object) -> int:
        if not _is_whole(value, least, most):
            raise _wrong(name, value, f"a whole number from {least} to {most}")
        return int(value)

    return parse_whole


def _is_whole(value: object, least: int, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def exchange(name: str, value: object) -> str:
    """The name of an exchange that users may declare."""
    if not isinstance(value, str):
        raise _wrong(name, value, "the name of an exchange (str)")
    if not _EXCHANGE_NAME.fullmatch(value):
        raise ImproperlyConfigured(
            f"Option {name!r} must be the name of an exchange: 1 to 127 ASCII letters, digits, "
            "spaces and characters of - _ . : @ # , /"
        )
    if value.startswith("amq."):
        raise ImproperlyConfigured(
            f"Option {name!r} must not start with 'amq.': RabbitMQ keeps these names to itself."
        )
    return value


def prefix(name: str, value: object) -> str:
    """A prefix that leaves room for the longest names."""
    if not isinstance(value, str):
        raise _wrong(name, value, "a str")
    if not _PREFIX.fullmatch(value):
        raise ImproperlyConfigured(
            f"Option {name!r} must be a str of at most {MOST_PREFIX} ASCII letters, digits, "
            "hyphens, underscores and full stops: with it, a name of 200 characters still fits "
            "into AMQP's 255 bytes."
        )
    return value


def connection_name(name: str, value: object) -> ConnectionName:
    """A name that is fit for logs and for consumers' tags, or None for the default."""
    if value is None:
        return ConnectionName()
    if not isinstance(value, str):
        raise _wrong(name, value, "a str or None")
    if not _CONNECTION_NAME.fullmatch(value):
        raise ImproperlyConfigured(
            f"Option {name!r} must have 1 to 200 characters of printable ASCII."
        )
    return ConnectionName(value)


def capacities(name: str, value: object) -> tuple[tuple[re.Pattern[str], int], ...]:
    """Patterns of channels and the capacities of these, in the order of ``CONFIG``."""
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a dict of pattern -> capacity")
    found = []
    for pattern, capacity in value.items():
        if isinstance(pattern, str):
            compiled = re.compile(fnmatch.translate(pattern))
        elif isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
            compiled = pattern
        else:
            raise _wrong(name, pattern, "a dict whose keys are globs (str) or compiled patterns")
        if not _is_whole(capacity, 1, MOST_REMOTE):
            allowed = f"a dict whose values are whole numbers from 1 to {MOST_REMOTE}"
            raise _wrong(name, capacity, allowed)
        found.append((compiled, capacity))
    return tuple(found)


def keys(name: str, value: object) -> tuple[str, ...]:
    """Secrets; none where the value is None."""
    if value is None:
        return ()
    # A str is a sequence of str too, and the mistake would encrypt by single letters.
    if not isinstance(value, (list, tuple)):
        raise _wrong(name, value, "a list of str")
    if not all(isinstance(key, str) and key for key in value):
        raise ImproperlyConfigured(f"Option {name!r} must be a list of str, none empty.")
    return tuple(value)


def serializer(name: str, value: object) -> str:
    """The name of a serializer."""
    if not isinstance(value, str) or not value:
        allowed = "'msgpack', 'json' or the dotted path of a class (str)"
        raise _wrong(name, value, allowed, text="an empty one")
    return value


def one_of(*allowed: str) -> Callable[[str, object], str]:
    """Make the parser for one of a few words."""

    def parse_one_of(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            words = f"one of {', '.join(map(repr, allowed))}"
            raise _wrong(name, value, words, text="another text")
        return value

    return parse_one_of


def queue_or_none(name: str, value: object) -> str | None:
    """The name of a queue that users may declare, or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise _wrong(name, value, "the name of a queue (str) or None")
    if not 0 < len(value.encode()) <= 255 or value.startswith("amq."):
        raise ImproperlyConfigured(
            f"Option {name!r} must be the name of a queue: 1 to 255 bytes, not beginning with "
            "'amq.', which RabbitMQ keeps to itself."
        )
    return value


def bytes_or_none(name: str, value: object) -> int | None:
    """A number of bytes, or None."""
    return None if value is None else whole(1, 2**63 - 1)(name, value)


def queue_type(name: str, value: object) -> str:
    """A type of queues that many may consume."""
    if not isinstance(value, str) or value not in ("classic", "quorum"):
        raise _wrong(name, value, "'classic' or 'quorum'", text="another text")
    return value


def event_hook(name: str, value: object) -> EventHook | str | None:
    """A plain function that takes an event, the dotted path to it, or None."""
    if value is None or (callable(value) and not is_async(value)):
        return value
    if isinstance(value, str) and _DOTTED_PATH.fullmatch(value):
        return value
    allowed = "a plain function, the dotted path of one, or None"
    if callable(value):
        raise ImproperlyConfigured(f"Option {name!r} must be {allowed}, not an async one.")
    raise _wrong(name, value, allowed, text=_NO_PATH)


def is_async(function: Callable[..., object]) -> bool:
    """Whether calling it gives something to await, as far as that shows without calling."""
    while isinstance(function, functools.partial):
        function = function.func
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
        for each in (function, type(function).__call__)
    )


def hook(name: str, value: object) -> Hook | str | None:
    """Something to call, the dotted path to it, or None."""
    if value is None or callable(value):
        return value
    if isinstance(value, str) and _DOTTED_PATH.fullmatch(value):
        return value
    allowed = "a function, plain or async, the dotted path of one, or None"
    raise _wrong(name, value, allowed, text=_NO_PATH)
