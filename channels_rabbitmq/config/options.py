"""``CONFIG`` -> one frozen, validated :class:`Options`; no I/O but reading certificate files.

Everything wrong with a configuration is found here, when the layer is made, and raised as
:class:`django.core.exceptions.ImproperlyConfigured`. The text names the option and what it may be.
Of the value it tells the type, and the value itself only if it is a number: neither the text nor
the traceback holds a password, a key or a URL.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict, TypeGuard

from django.core.exceptions import ImproperlyConfigured

from ..amqp.endpoint import Endpoint
from . import tls
from .hints import HINTS
from .url import InvalidUrl, parse

DEFAULT_HOST = "amqp://guest:guest@127.0.0.1"

# RabbitMQ keeps an expiry in milliseconds and takes no more than 32 bits of them.
_LEAST_SECONDS = 0.001
_MOST_SECONDS = (2**32 - 1) / 1000
# basic.qos has 16 bits for the prefetch count, and 0 means "no limit" there.
_MOST_LOCAL = 2**16 - 1
_MOST_REMOTE = 2**31 - 1
# RabbitMQ takes no larger message, however it is configured.
_MOST_MESSAGE_BYTES = 512 * 1024 * 1024
# A queue's name has at most 255 bytes: "asgi.channel:", the prefix, ":" and a name of up to 200.
_MOST_PREFIX = 255 - len("asgi.channel::") - 200
# What a channel's name may have: the name of the process's queue is a part of it.
_PREFIX = re.compile(rf"[A-Za-z0-9_.-]{{0,{_MOST_PREFIX}}}", re.ASCII)
# AMQP 0-9-1's exchange-name, with the characters that RabbitMQ's users have besides.
_EXCHANGE_NAME = re.compile(r"[A-Za-z0-9_.:@#,/ -]{1,127}")

#: A hook: called without arguments, on the event loop that the connection lives on.
Hook = Callable[[], "Awaitable[object] | object"]


# Parsers: from an option's name and value to what Options has, or ImproperlyConfigured.


def _wrong(name: str, value: object, allowed: str) -> ImproperlyConfigured:
    # Numbers are harmless to show; anything else might be a secret in the wrong place.
    # Python refuses to print an int of thousands of digits.
    number = isinstance(value, float) or (type(value) is int and abs(value) < 10**30)
    shown = repr(value) if number else f"a value of type {type(value).__name__}"
    return ImproperlyConfigured(f"Option {name!r} must be {allowed}, not {shown}.")


def _urls(name: str, value: object) -> list[tuple[str, str]]:
    """Each URL, after the words that say where it stands in the option."""
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


def _ssl_context(name: str, value: object) -> ssl.SSLContext | None:
    if value is None:
        return None
    if not isinstance(value, ssl.SSLContext):
        raise _wrong(name, value, "an ssl.SSLContext or None")
    try:
        tls.check_client(value)
    except tls.InvalidTls as err:
        raise ImproperlyConfigured(f"Option {name!r} is wrong: {err}.") from err
    return value


def _seconds(name: str, value: object) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        # NaN is in no range.
        or not _LEAST_SECONDS <= value <= _MOST_SECONDS
    ):
        allowed = f"a number of seconds from {_LEAST_SECONDS} to {_MOST_SECONDS:.3f}"
        raise _wrong(name, value, allowed)
    return float(value)


def _seconds_or_none(name: str, value: object) -> float | None:
    return None if value is None else _seconds(name, value)


def _whole(least: int, most: int) -> Callable[[str, object], int]:
    def parse_whole(name: str, value: object) -> int:
        if not _is_whole(value, least, most):
            raise _wrong(name, value, f"a whole number from {least} to {most}")
        return int(value)

    return parse_whole


def _is_whole(value: object, least: int, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _exchange(name: str, value: object) -> str:
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


def _prefix(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a str")
    if not _PREFIX.fullmatch(value):
        raise ImproperlyConfigured(
            f"Option {name!r} must be a str of at most {_MOST_PREFIX} ASCII letters, digits, "
            "hyphens, underscores and full stops: with it, a name of 200 characters still fits "
            "into AMQP's 255 bytes."
        )
    return value


def _capacities(name: str, value: object) -> tuple[tuple[re.Pattern[str], int], ...]:
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
        if not _is_whole(capacity, 1, _MOST_REMOTE):
            allowed = f"a dict whose values are whole numbers from 1 to {_MOST_REMOTE}"
            raise _wrong(name, capacity, allowed)
        found.append((compiled, capacity))
    return tuple(found)


def _keys(name: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    # A str is a sequence of str too, and the mistake would encrypt by single letters.
    if not isinstance(value, (list, tuple)):
        raise _wrong(name, value, "a list of str")
    if not all(isinstance(key, str) and key for key in value):
        raise ImproperlyConfigured(f"Option {name!r} must be a list of str, none empty.")
    return tuple(value)


def _format(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(name, value, "'msgpack', 'json' or the dotted path of a class (str)")
    return value


def _hook(name: str, value: object) -> Hook | None:
    if value is not None and not callable(value):
        raise _wrong(name, value, "a function, plain or async, or None")
    return value


# The options


class Option(NamedTuple):
    """One option of ``CONFIG``."""

    #: What it is where ``CONFIG`` does not have it, before parsing.
    default: object
    parse: Callable[[str, object], object]
    #: What it means, with its unit.
    meaning: str


#: Every option of ``CONFIG``, by name.
OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "host": Option(
            DEFAULT_HOST,
            _urls,
            "AMQP URL of RabbitMQ, or a list of URLs, which are tried in random order",
        ),
        "ssl_context": Option(
            None,
            _ssl_context,
            "ssl.SSLContext for TLS whichever scheme the URL has; the port is then 5671",
        ),
        "expiry": Option(
            60, _seconds, "least seconds that a message waits on RabbitMQ before it may be dropped"
        ),
        "local_capacity": Option(
            100,
            _whole(1, _MOST_LOCAL),
            "messages held in this process's memory: the consumer's prefetch count",
        ),
        "local_expiry": Option(
            None,  # version 4.0.1 spelled it so too
            _seconds_or_none,
            "least seconds that a received message is held for receive(); as expiry",
        ),
        "remote_capacity": Option(
            100,
            _whole(1, _MOST_REMOTE),
            "messages that RabbitMQ stores for each process before it refuses more: x-max-length",
        ),
        "groups_exchange": Option(
            "groups", _exchange, "name of the direct exchange that carries the messages to groups"
        ),
        "send_timeout": Option(10, _seconds, "most seconds that any call waits for RabbitMQ"),
        "max_message_size": Option(
            16 * 1024 * 1024,  # the limit of RabbitMQ 4
            _whole(1, _MOST_MESSAGE_BYTES),
            "most bytes of one message on the wire",
        ),
        "prefix": Option(
            "",
            _prefix,
            "keeps projects apart that share a virtual host; a part of every name in it",
        ),
        "group_expiry": Option(
            0,
            _whole(0, _MOST_REMOTE),
            "whole seconds from the latest group_add() to a membership's end; 0: never",
        ),
        "capacity": Option(
            100,
            _whole(1, _MOST_REMOTE),
            "messages that RabbitMQ stores for each normal channel: x-max-length",
        ),
        "channel_capacity": Option(
            None,
            _capacities,
            "dict of a pattern of channel names -> the capacity of such a channel; first match",
        ),
        "symmetric_encryption_keys": Option(
            None, _keys, "list of secrets: the first encrypts messages, all decrypt"
        ),
        "serializer_format": Option(
            "msgpack", _format, "'msgpack', 'json', or the dotted path of a class of your own"
        ),
        "on_disconnect": Option(
            None, _hook, "function to call when the connection to RabbitMQ was lost"
        ),
        "on_reconnect": Option(None, _hook, "function to call when RabbitMQ is back after that"),
    }
)


class OtherOptions(TypedDict, total=False):
    """Types of the options of ``CONFIG`` except ``host``, which the layer takes by position too."""

    ssl_context: ssl.SSLContext | None
    expiry: float
    local_capacity: int
    local_expiry: float | None
    remote_capacity: int
    groups_exchange: str
    send_timeout: float
    max_message_size: int
    prefix: str
    group_expiry: int
    capacity: int
    channel_capacity: Mapping[str | re.Pattern[str], int] | None
    symmetric_encryption_keys: list[str] | tuple[str, ...] | None
    serializer_format: str
    on_disconnect: Hook | None
    on_reconnect: Hook | None


class Config(OtherOptions, total=False):
    """Types of the options of ``CONFIG``, for annotations and for type checkers."""

    host: str | list[str] | tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """A layer's whole configuration, validated: :data:`OPTIONS` says what each one means."""

    #: Where RabbitMQ is: at least one. From ``host`` and ``ssl_context``.
    endpoints: tuple[Endpoint, ...]
    expiry: float
    local_capacity: int
    local_expiry: float
    remote_capacity: int
    groups_exchange: str
    send_timeout: float
    max_message_size: int
    prefix: str
    group_expiry: int
    capacity: int
    channel_capacity: tuple[tuple[re.Pattern[str], int], ...]
    symmetric_encryption_keys: tuple[str, ...] = field(repr=False)
    serializer_format: str
    on_disconnect: Hook | None
    on_reconnect: Hook | None

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Options:
        """Validate ``CONFIG``.

        Raises :class:`django.core.exceptions.ImproperlyConfigured` that names the option, what it
        is and what it may be.
        """
        try:
            _refuse_unknown(config)
            return cls(**_parse(config))
        except ImproperlyConfigured as err:
            refused = str(err)
        # Raised anew, without what it was raised from: those frames have URLs and keys in their
        # variables, which debug pages and error trackers show.
        del config
        raise ImproperlyConfigured(refused)

    def own_capacity_of(self, channel: str) -> int | None:
        """The entry of ``channel_capacity`` for a channel; None without one."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return None

    def capacity_of(self, channel: str) -> int:
        """How many messages RabbitMQ stores for a normal channel."""
        own = self.own_capacity_of(channel)
        return self.capacity if own is None else own

    @property
    def expiry_ms(self) -> int:
        """``expiry`` in whole milliseconds, as RabbitMQ's ``x-message-ttl`` wants it."""
        return round(self.expiry * 1000)


def _refuse_unknown(config: Mapping[str, object]) -> None:
    unknown = [_unknown(name) for name in config if name not in OPTIONS]
    if unknown:
        raise ImproperlyConfigured(" ".join([*unknown, f"The options are: {', '.join(OPTIONS)}."]))


def _unknown(name: str) -> str:
    sentence = f"Option {name!r} is not known to channels_rabbitmq"
    hint = HINTS.get(name)
    if hint is not None:
        return f"{sentence}: {hint}."
    close = difflib.get_close_matches(str(name).lower(), OPTIONS, n=3)
    if close:
        return f"{sentence}; did you mean {' or '.join(map(repr, close))}?"
    return f"{sentence}."


def _parse(config: Mapping[str, object]) -> dict[str, Any]:
    """What :class:`Options` is made of."""
    values: dict[str, Any] = {
        name: option.parse(name, config.get(name, option.default))
        for name, option in OPTIONS.items()
    }
    if values["local_expiry"] is None:
        values["local_expiry"] = values["expiry"]
    values["endpoints"] = _endpoints(values.pop("host"), values.pop("ssl_context"))
    return values


def _endpoints(
    urls: list[tuple[str, str]], ssl_context: ssl.SSLContext | None
) -> tuple[Endpoint, ...]:
    # Nodes of one cluster mostly share their files, and a context is costly to fill.
    contexts: dict[tls.TlsParameters | None, ssl.SSLContext | None] = {None: ssl_context}
    endpoints = []
    for place, url in urls:
        try:
            endpoint, parameters = parse(url, has_context=ssl_context is not None)
            if parameters is not None and parameters not in contexts:
                contexts[parameters] = tls.build_context(parameters)
            context = contexts[parameters]
            if context is not None:
                tls.check_client(context, endpoint.server_hostname)
        except (InvalidUrl, tls.InvalidTls) as err:
            raise ImproperlyConfigured(f"Option {place!r} cannot be used: {err}.") from err
        endpoints.append(replace(endpoint, tls=context))
    return tuple(endpoints)
