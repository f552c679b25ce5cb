"""``CONFIG`` -> one frozen, validated :class:`Options`; no I/O but reading certificate files.

Everything wrong with a configuration is found here, when the layer is made, and raised as
:class:`django.core.exceptions.ImproperlyConfigured`. The text names the option and what it may be.
Of the value it tells the type, and the value itself only if it is a number: neither the text nor
the traceback holds a password, a key or a URL.
"""

from __future__ import annotations

import difflib
import enum
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypedDict

from django.core.exceptions import ImproperlyConfigured

from ..amqp.endpoint import Endpoint
from ..events import EventHook
from . import parsers, tls
from .connection_name import ConnectionName
from .hints import HINTS
from .parsers import Hook
from .url import InvalidUrl, parse

__all__ = [
    "DEFAULT_HOST",
    "OPTIONS",
    "Config",
    "Fault",
    "Hook",
    "Option",
    "Options",
    "OtherOptions",
    "Refusal",
    "make_endpoints",
    "refusals",
]

DEFAULT_HOST = "amqp://guest:guest@127.0.0.1"


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
            parsers.urls,
            "AMQP URL of RabbitMQ, or a list of URLs, which are tried in random order",
        ),
        "ssl_context": Option(
            None,
            parsers.ssl_context,
            "ssl.SSLContext for TLS whichever scheme the URL has; the port is then 5671",
        ),
        "expiry": Option(
            60,
            parsers.seconds,
            "least seconds that a message waits on RabbitMQ before it may be dropped",
        ),
        "local_capacity": Option(
            100,
            parsers.whole(1, parsers.MOST_LOCAL),
            "messages held in this process's memory: the consumer's prefetch count",
        ),
        "local_expiry": Option(
            None,  # version 4.0.1 spelled it so too
            parsers.seconds_or_none,
            "least seconds that a received message is held for receive(); as expiry",
        ),
        "remote_capacity": Option(
            100,
            parsers.whole(1, parsers.MOST_REMOTE),
            "messages that RabbitMQ stores for each process before it refuses more: x-max-length",
        ),
        "groups_exchange": Option(
            "groups",
            parsers.exchange,
            "name of the direct exchange that carries the messages to groups",
        ),
        "send_timeout": Option(
            10, parsers.seconds, "most seconds that any call waits for RabbitMQ"
        ),
        "max_reconnect_delay": Option(
            5,
            parsers.seconds,
            "most seconds between two attempts to connect; the first comes after about 0.5",
        ),
        "group_send_raises": Option(
            False,
            parsers.flag,
            "whether group_send() raises NotConnected where RabbitMQ did not take the message",
        ),
        "connection_name": Option(
            None,
            parsers.connection_name,
            "what logs and RabbitMQ's management call the connection; "
            "project, program, host and process id",
        ),
        "max_message_size": Option(
            16 * 1024 * 1024,  # the limit of RabbitMQ 4
            parsers.whole(1, parsers.MOST_MESSAGE_BYTES),
            "most bytes of one message on the wire",
        ),
        "prefix": Option(
            "",
            parsers.prefix,
            "keeps projects apart that share a virtual host; a part of every name in it",
        ),
        "group_expiry": Option(
            0,
            parsers.whole(0, parsers.MOST_REMOTE),
            "whole seconds from the latest group_add() to a membership's end; 0: never",
        ),
        "capacity": Option(
            100,
            parsers.whole(1, parsers.MOST_REMOTE),
            "messages that RabbitMQ stores for each normal channel: x-max-length",
        ),
        "channel_capacity": Option(
            None,
            parsers.capacities,
            "dict of a pattern of channel names -> the capacity of such a channel; first match",
        ),
        "normal_queue_type": Option(
            "classic",
            parsers.queue_type,
            "type of the queues of normal channels: 'classic', or 'quorum', which survive a node",
        ),
        "symmetric_encryption_keys": Option(
            None, parsers.keys, "list of secrets: the first encrypts messages, all decrypt"
        ),
        "serializer_format": Option(
            "msgpack",
            parsers.serializer,
            "'msgpack', 'json', or the dotted path of a class of your own",
        ),
        "on_disconnect": Option(
            None,
            parsers.hook,
            "function, or its dotted path, to call when the connection to RabbitMQ was lost",
        ),
        "on_reconnect": Option(
            None,
            parsers.hook,
            "function, or its dotted path, to call when RabbitMQ is back after that",
        ),
        "on_event": Option(
            None,
            parsers.event_hook,
            "plain function, or its dotted path, to call with each Event: drops, refusals, outages",
        ),
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
    max_reconnect_delay: float
    group_send_raises: bool
    connection_name: str | None
    max_message_size: int
    prefix: str
    group_expiry: int
    capacity: int
    channel_capacity: Mapping[str | re.Pattern[str], int] | None
    normal_queue_type: Literal["classic", "quorum"]
    symmetric_encryption_keys: list[str] | tuple[str, ...] | None
    serializer_format: str
    on_disconnect: Hook | str | None
    on_reconnect: Hook | str | None
    on_event: EventHook | str | None


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
    max_reconnect_delay: float
    group_send_raises: bool
    connection_name: ConnectionName
    max_message_size: int
    prefix: str
    group_expiry: int
    capacity: int
    channel_capacity: tuple[tuple[re.Pattern[str], int], ...]
    normal_queue_type: str
    symmetric_encryption_keys: tuple[str, ...] = field(repr=False)
    serializer_format: str
    #: As given: a dotted path is followed when the layer is first used.
    on_disconnect: Hook | str | None
    on_reconnect: Hook | str | None
    on_event: EventHook | str | None

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

    def __reduce__(self) -> str:
        raise TypeError("Options hold passwords and keys and cannot be pickled or copied")

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
    values["endpoints"] = make_endpoints(values.pop("host"), values.pop("ssl_context"))
    return values


#: TLS contexts by what they were made of; under None is the one for URLs that ask for nothing.
_Contexts = dict[tls.TlsParameters | None, ssl.SSLContext | None]


def make_endpoints(
    urls: list[tuple[str, str]], ssl_context: ssl.SSLContext | None
) -> tuple[Endpoint, ...]:
    """What URLs, each after where it stands in the configuration, lead to.

    Raises :class:`django.core.exceptions.ImproperlyConfigured`, from frames that have the URLs in
    their variables.
    """
    # Nodes of one cluster mostly share their files, and a context is costly to fill.
    contexts: _Contexts = {None: ssl_context}
    endpoints = []
    for place, url in urls:
        try:
            endpoints.append(_endpoint(url, contexts))
        except (InvalidUrl, tls.InvalidTls) as err:
            raise ImproperlyConfigured(_cannot_be_used(place, err)) from err
    return tuple(endpoints)


def _endpoint(url: str, contexts: _Contexts) -> Endpoint:
    endpoint, parameters = parse(url, has_context=contexts[None] is not None)
    if parameters is not None and parameters not in contexts:
        contexts[parameters] = tls.build_context(parameters)
    context = contexts[parameters]
    if context is not None:
        tls.check_client(context, endpoint.server_hostname)
    return replace(endpoint, tls=context)


def _cannot_be_used(place: str, error: Exception) -> str:
    return f"Option {place!r} cannot be used: {error}."


# Everything that is wrong


class Fault(enum.Enum):
    """How an option is wrong."""

    #: There is no such option.
    UNKNOWN = "unknown"
    #: There is none here: it belongs to another channel layer or library.
    FOREIGN = "foreign"
    #: The value is of the wrong kind, or out of range.
    VALUE = "value"
    #: A URL cannot be understood.
    URL = "url"
    #: TLS cannot be set up as a URL, with ``ssl_context``, asks for it.
    TLS = "tls"


class Refusal(NamedTuple):
    """One thing that is wrong with a configuration. The text is fit for a log."""

    fault: Fault
    option: str
    text: str


def refusals(config: Mapping[str, object]) -> list[Refusal]:
    """Everything that :meth:`Options.from_config` would refuse; empty if it would not."""
    found = [
        Refusal(Fault.FOREIGN if name in HINTS else Fault.UNKNOWN, name, _unknown(name))
        for name in config
        if name not in OPTIONS
    ]
    values: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        try:
            values[name] = option.parse(name, config.get(name, option.default))
        except ImproperlyConfigured as err:
            found.append(Refusal(Fault.VALUE, name, str(err)))
    # A context that is wrong leaves the URLs to be looked at as if there were none.
    contexts: _Contexts = {None: values.get("ssl_context")}
    for place, url in values.get("host", ()):
        try:
            _endpoint(url, contexts)
        except InvalidUrl as err:
            found.append(Refusal(Fault.URL, place, _cannot_be_used(place, err)))
        except tls.InvalidTls as err:
            found.append(Refusal(Fault.TLS, place, _cannot_be_used(place, err)))
    return found
