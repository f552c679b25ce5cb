"""
``CONFIG`` -> one frozen, validated `Options`; no I/O but reading certificate files.

Everything wrong with a configuration is found here, when the layer is made, and raised as
``django.core.exceptions.ImproperlyConfigured``. The text names the option and what it may be. Of
the value it tells the type, and the value itself only if it is a number: no text holds a password,
a key or a URL.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypedDict, TypeGuard

from django.core.exceptions import ImproperlyConfigured

from ..amqp.endpoint import Endpoint
from . import hints as moving
from . import tls
from . import url as uri

DEFAULT_HOST: Final = "amqp://guest:guest@127.0.0.1"

MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "host": "AMQP URL of RabbitMQ, or a list of URLs, which are tried in random order",
        "ssl_context": "ssl.SSLContext for TLS whichever scheme the URL has; the port is then 5671",
        "expiry": "least seconds that a message waits on RabbitMQ before it may be dropped",
        "local_capacity": "messages held in this process's memory, 1 to 65535",
        "local_expiry": "least seconds that a received message is held for receive(); as expiry",
        "remote_capacity": "messages that RabbitMQ stores for each process before it refuses more",
        "groups_exchange": "name of the direct exchange that carries the messages to groups",
        "send_timeout": "most seconds that any call waits for RabbitMQ",
        "max_message_size": "most bytes of one message on the wire",
        "prefix": "keeps projects apart that share a virtual host; a part of every name in it",
        "group_expiry": "whole seconds from the latest group_add() to a membership's end; 0: never",
        "capacity": "messages that RabbitMQ stores for each normal channel",
        "channel_capacity": "dict of a pattern of channel names -> the capacity of such a channel",
        "symmetric_encryption_keys": "list of secrets: the first encrypts messages, all decrypt",
        "serializer_format": "'msgpack', 'json', or the dotted path of a class of your own",
        "on_disconnect": "function to call when the connection to RabbitMQ was lost",
        "on_reconnect": "function to call when RabbitMQ is back after that",
    }
)
"""Every option of ``CONFIG`` -> one line that says what it means, with its unit."""

# RabbitMQ keeps an expiry in milliseconds and takes no more than 32 bits of them.
_LEAST_SECONDS: Final = 0.001
_MOST_SECONDS: Final = (2**32 - 1) / 1000
# basic.qos has 16 bits for the prefetch count, and 0 means "no limit" there.
_MOST_LOCAL: Final = 2**16 - 1
_MOST_REMOTE: Final = 2**31 - 1
# RabbitMQ takes no larger message, however it is configured.
_MOST_MESSAGE_BYTES: Final = 512 * 1024 * 1024
# A queue's name has at most 255 bytes: "asgi.channel:", the prefix, ":" and a name of up to 200.
_MOST_PREFIX: Final = 255 - len("asgi.channel::") - 200
# What a channel's name may have: the name of the process's queue is a part of it.
_PREFIX: Final = re.compile(rf"[A-Za-z0-9_.-]{{0,{_MOST_PREFIX}}}", re.ASCII)
# AMQP 0-9-1's exchange-name, with the characters that RabbitMQ's users have besides.
_EXCHANGE_NAME: Final = re.compile(r"[A-Za-z0-9_.:@#,/ -]{1,127}")


#: A hook: called without arguments, on the event loop that the connection lives on.
Hook = Callable[[], "Awaitable[object] | object"]


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
    channel_capacity: Mapping[str, int] | Mapping[str | re.Pattern[str], int] | None
    symmetric_encryption_keys: list[str] | tuple[str, ...] | None
    serializer_format: str
    on_disconnect: Hook | None
    on_reconnect: Hook | None


class Config(OtherOptions, total=False):
    """Types of the options of ``CONFIG``, for annotations and for type checkers."""

    host: str | list[str] | tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """
    A layer's whole configuration, validated. `MEANINGS` explains the options by their names.

    ``host`` and ``ssl_context`` together are ``endpoints``; all other options are as in ``CONFIG``.
    """

    endpoints: tuple[Endpoint, ...]
    """Where RabbitMQ is: at least one."""
    expiry: float = 60.0
    """Least seconds that a message waits on RabbitMQ before it may be dropped."""
    local_capacity: int = 100
    """Messages held in this process's memory: the consumer's prefetch count."""
    local_expiry: float = 60.0
    """Least seconds that a received message is held for ``receive()``. Default: ``expiry``."""
    remote_capacity: int = 100
    """Messages that RabbitMQ stores for each process: ``x-max-length``."""
    groups_exchange: str = "groups"
    """Name of the direct exchange."""
    send_timeout: float = 10.0
    """Most seconds that any call waits for RabbitMQ."""
    max_message_size: int = 16 * 1024 * 1024
    """Most bytes of one message on the wire. Default: the limit of RabbitMQ 4."""
    prefix: str = ""
    """A part of every name on RabbitMQ, for projects that share a virtual host."""
    group_expiry: int = 0
    """Whole seconds from the latest ``group_add()`` to the end of a membership; 0 is no end."""
    capacity: int = 100
    """Messages that RabbitMQ stores for each normal channel: ``x-max-length``."""
    channel_capacity: tuple[tuple[re.Pattern[str], int], ...] = ()
    """Patterns of channel names, and the capacity of such channels; the first that matches."""
    symmetric_encryption_keys: tuple[str, ...] = field(default=(), repr=False)
    """Secrets: the first encrypts, all decrypt. None means that nothing is encrypted."""
    serializer_format: str = "msgpack"
    """``msgpack``, ``json``, or the dotted path of a class."""
    on_disconnect: Hook | None = None
    """Called when the connection was lost."""
    on_reconnect: Hook | None = None
    """Called when there is one again."""

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

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Options:
        """
        Validate ``CONFIG``.

        Raises ``ImproperlyConfigured`` that names the option, what it is and what it may be.
        """
        _refuse_unknown(config)
        expiry = _seconds(config, "expiry", cls.expiry)
        # None is how version 4.0.1 spelled "as expiry".
        has_local_expiry = config.get("local_expiry") is not None
        return cls(
            endpoints=_endpoints(config),
            expiry=expiry,
            local_capacity=_integer(config, "local_capacity", cls.local_capacity, _MOST_LOCAL),
            local_expiry=_seconds(config, "local_expiry", expiry) if has_local_expiry else expiry,
            remote_capacity=_integer(config, "remote_capacity", cls.remote_capacity, _MOST_REMOTE),
            groups_exchange=_exchange(config, "groups_exchange", cls.groups_exchange),
            send_timeout=_seconds(config, "send_timeout", cls.send_timeout),
            max_message_size=_integer(
                config, "max_message_size", cls.max_message_size, _MOST_MESSAGE_BYTES
            ),
            prefix=_prefix(config, "prefix"),
            group_expiry=_integer(config, "group_expiry", cls.group_expiry, _MOST_REMOTE, least=0),
            capacity=_integer(config, "capacity", cls.capacity, _MOST_REMOTE),
            channel_capacity=_capacities(config, "channel_capacity"),
            symmetric_encryption_keys=_keys(config, "symmetric_encryption_keys"),
            serializer_format=_format(config, "serializer_format", cls.serializer_format),
            on_disconnect=_hook(config, "on_disconnect"),
            on_reconnect=_hook(config, "on_reconnect"),
        )


def _refuse_unknown(config: Mapping[str, object]) -> None:
    unknown = [name for name in config if name not in MEANINGS]
    if not unknown:
        return
    sentences = [_unknown(name) for name in unknown]
    raise ImproperlyConfigured(" ".join([*sentences, f"The options are: {', '.join(MEANINGS)}."]))


def _unknown(name: str) -> str:
    sentence = f"Option {name!r} is not known to channels_rabbitmq"
    hint = moving.HINTS.get(name)
    if hint is not None:
        return f"{sentence}: {hint}."
    close = difflib.get_close_matches(str(name).lower(), MEANINGS, n=3)
    if close:
        return f"{sentence}; did you mean {' or '.join(map(repr, close))}?"
    return f"{sentence}."


def _wrong(name: str, value: object, allowed: str) -> ImproperlyConfigured:
    # Numbers are harmless to show; anything else might be a secret in the wrong place.
    # Python refuses to print an int of thousands of digits.
    number = isinstance(value, float) or (type(value) is int and abs(value) < 10**30)
    shown = repr(value) if number else f"a value of type {type(value).__name__}"
    return ImproperlyConfigured(f"Option {name!r} must be {allowed}, not {shown}.")


def _seconds(config: Mapping[str, object], name: str, default: float) -> float:
    value = config.get(name, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        # NaN is in no range.
        or not _LEAST_SECONDS <= value <= _MOST_SECONDS
    ):
        raise _wrong(
            name, value, f"a number of seconds from {_LEAST_SECONDS} to {_MOST_SECONDS:.3f}"
        )
    return float(value)


def _integer(
    config: Mapping[str, object], name: str, default: int, most: int, *, least: int = 1
) -> int:
    value = config.get(name, default)
    if not _is_integer(value, least, most):
        raise _wrong(name, value, f"a whole number from {least} to {most}")
    return int(value)


def _is_integer(value: object, least: int, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _prefix(config: Mapping[str, object], name: str) -> str:
    value = config.get(name, "")
    if not isinstance(value, str):
        raise _wrong(name, value, "a str")
    if not _PREFIX.fullmatch(value):
        raise ImproperlyConfigured(
            f"Option {name!r} must be a str of at most {_MOST_PREFIX} ASCII letters, digits, "
            "hyphens, underscores and full stops: with it, a name of 200 characters still fits "
            "into AMQP's 255 bytes."
        )
    return value


def _capacities(config: Mapping[str, object], name: str) -> tuple[tuple[re.Pattern[str], int], ...]:
    value = config.get(name)
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
        if not _is_integer(capacity, 1, _MOST_REMOTE):
            raise _wrong(
                name, capacity, f"a dict whose values are whole numbers from 1 to {_MOST_REMOTE}"
            )
        found.append((compiled, capacity))
    return tuple(found)


def _keys(config: Mapping[str, object], name: str) -> tuple[str, ...]:
    value = config.get(name)
    if value is None:
        return ()
    # A str is a sequence of str too, and the mistake would encrypt by single letters.
    if not isinstance(value, (list, tuple)):
        raise _wrong(name, value, "a list of str")
    for key in value:
        if not isinstance(key, str) or not key:
            raise ImproperlyConfigured(f"Option {name!r} must be a list of str, none empty.")
    return tuple(value)


def _format(config: Mapping[str, object], name: str, default: str) -> str:
    value = config.get(name, default)
    if not isinstance(value, str) or not value:
        raise _wrong(name, value, "'msgpack', 'json' or the dotted path of a class (str)")
    return value


def _hook(config: Mapping[str, object], name: str) -> Hook | None:
    value = config.get(name)
    if value is not None and not callable(value):
        raise _wrong(name, value, "a function, plain or async, or None")
    return value


def _exchange(config: Mapping[str, object], name: str, default: str) -> str:
    value = config.get(name, default)
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


def _endpoints(config: Mapping[str, object]) -> tuple[Endpoint, ...]:
    context = config.get("ssl_context")
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise _wrong("ssl_context", context, "an ssl.SSLContext or None")
    if context is not None:
        try:
            tls.check_client(context)
        except tls.InvalidTls as error:
            raise ImproperlyConfigured(f"Option 'ssl_context' is wrong: {error}.") from error
    hosts = config.get("host", DEFAULT_HOST)
    if isinstance(hosts, str):
        named_urls: list[tuple[str, object]] = [("host", hosts)]
    elif isinstance(hosts, (list, tuple)) and hosts:
        named_urls = [(f"host[{index}]", url) for index, url in enumerate(hosts)]
    else:
        problem = "an AMQP URL (str) or a list of at least one"
        if isinstance(hosts, (list, tuple)):
            raise ImproperlyConfigured(f"Option 'host' must be {problem}; the list is empty.")
        raise _wrong("host", hosts, problem)

    # Nodes of one cluster mostly share their files, and a context is costly to fill.
    contexts: dict[tls.TlsParameters, ssl.SSLContext] = {}
    endpoints = []
    for name, url in named_urls:
        if not isinstance(url, str):
            raise _wrong(name, url, "an AMQP URL (str)")
        try:
            endpoints.append(_endpoint(uri.parse(url), context, contexts))
        except (uri.InvalidUrl, tls.InvalidTls) as error:
            raise ImproperlyConfigured(f"Option {name!r} cannot be used: {error}.") from error
    return tuple(endpoints)


def _endpoint(
    parsed: uri.AmqpUri,
    ssl_context: ssl.SSLContext | None,
    contexts: dict[tls.TlsParameters, ssl.SSLContext],
) -> Endpoint:
    context = _context(parsed, ssl_context, contexts)
    if context is None and parsed.auth_mechanisms == ("EXTERNAL",):
        raise uri.InvalidUrl(
            "auth_mechanism=external needs TLS with a client certificate: an amqps:// URL with the "
            "parameters 'certfile' and 'keyfile', or the option 'ssl_context'"
        )
    asked = parsed.tls_parameters.server_name_indication
    server_name: str | None = None
    if context is not None:
        if asked != tls.SNI_DISABLE:
            # A scope (fe80::1%eth0) is for routing and is in no certificate.
            server_name = asked or parsed.host.partition("%")[0]
        tls.check_server_name(context, server_name)
    return Endpoint(
        host=parsed.host,
        port=parsed.port or (uri.DEFAULT_PORT if context is None else uri.DEFAULT_TLS_PORT),
        username=parsed.username,
        password=parsed.password,
        virtual_host=parsed.virtual_host,
        tls=context,
        server_hostname=server_name,
        heartbeat=parsed.heartbeat,
        connect_timeout=parsed.connect_timeout,
        auth_mechanisms=parsed.auth_mechanisms,
        channel_max=parsed.channel_max,
        frame_max=parsed.frame_max,
    )


def _context(
    parsed: uri.AmqpUri,
    ssl_context: ssl.SSLContext | None,
    contexts: dict[tls.TlsParameters, ssl.SSLContext],
) -> ssl.SSLContext | None:
    """Choose the context of one URL: the option, else what its parameters ask for, else none."""
    if ssl_context is not None:
        # Two sources for one thing: whichever won, somebody would trust the wrong certificates.
        clash = [name for name in parsed.tls_parameter_names if name in tls.CONTEXT_PARAMETERS]
        if clash:
            raise uri.InvalidUrl(
                f"the URL has {', '.join(map(repr, clash))} although the option 'ssl_context' is "
                "given; use one of them, or load the files into the context"
            )
        return ssl_context
    if not parsed.tls:
        if parsed.tls_parameter_names:
            names = ", ".join(map(repr, parsed.tls_parameter_names))
            # Left unsaid, the connection would be in clear text, against the writer's intention.
            raise uri.InvalidUrl(
                f"the URL has {names} but no TLS; write amqps:// instead of amqp://"
            )
        return None
    if parsed.auth_mechanisms == ("EXTERNAL",) and parsed.tls_parameters.certfile is None:
        raise uri.InvalidUrl(
            "auth_mechanism=external needs a client certificate: the parameters 'certfile' and "
            "'keyfile', or the option 'ssl_context'"
        )
    if parsed.tls_parameters not in contexts:
        contexts[parsed.tls_parameters] = tls.build_context(parsed.tls_parameters)
    return contexts[parsed.tls_parameters]
