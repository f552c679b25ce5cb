"""``OPTIONS`` of the outbox's backend -> :class:`OutboxOptions`; no I/O but reading certificates.

What is wrong raises :class:`django.core.exceptions.ImproperlyConfigured`, which names the option
and what it may be, and holds no URL: see :mod:`channels_rabbitmq.config.options`.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..amqp.endpoint import Endpoint
from ..config import parsers
from ..config.options import DEFAULT_HOST, Option, make_endpoints

__all__ = ["OUTBOX_OPTIONS", "OutboxOptions", "RoutingKey"]

_EXCHANGE_TYPES = ("direct", "fanout", "headers", "topic")
#: The key that binds a stream to all of an exchange, by the exchange's type.
_ALL = {"fanout": "", "topic": "#"}
_MODES = ("structured", "binary")
#: Attributes of a CloudEvent that a routing key may have.
_ATTRIBUTES = ("id", "source", "subject", "type")


class RoutingKey:
    """A template such as ``orders.{type}``, with attributes of an event in braces."""

    def __init__(self, template: str) -> None:
        #: Text and attribute in turn; an attribute is None where the text ends the template.
        self._parts: list[tuple[str, str | None]] = []
        for text, name, format_spec, conversion in string.Formatter().parse(template):
            if name is not None and (name not in _ATTRIBUTES or format_spec or conversion):
                names = ", ".join(f"{{{attribute}}}" for attribute in _ATTRIBUTES)
                raise ValueError(f"a routing key may have {names} and nothing else in braces")
            self._parts.append((text, name))

    def fill(self, event: Mapping[str, object]) -> str:
        """The routing key of an event. An attribute that it does not have is empty."""
        return "".join(
            text if name is None else f"{text}{event.get(name, '')}" for text, name in self._parts
        )


@dataclass(frozen=True)
class OutboxOptions:
    """The whole configuration, validated: :data:`OUTBOX_OPTIONS` says what each one means."""

    endpoints: tuple[Endpoint, ...]
    exchange: str
    exchange_type: str
    routing_key: RoutingKey
    stream: str | None
    max_length_bytes: int | None
    mode: str
    publish_timeout: float
    health_timeout: float

    @classmethod
    def from_dict(cls, options: Mapping[str, object]) -> OutboxOptions:
        """Validate ``OPTIONS``. Raises :class:`django.core.exceptions.ImproperlyConfigured`."""
        try:
            return cls(**_parse(options))
        except ImproperlyConfigured as err:
            refused = str(err)
        # Raised anew: the frames below have the URL in their variables.
        del options
        raise ImproperlyConfigured(refused)

    @property
    def stream_key(self) -> str:
        """The key that binds the stream to the exchange."""
        return _ALL[self.exchange_type]


def _exchange(name: str, value: object) -> str:
    return "" if value == "" else parsers.exchange(name, value)


def _routing_key(name: str, value: object) -> RoutingKey | None:
    if value is None:
        return None
    try:
        if not isinstance(value, str):
            raise ValueError("it is no str")
        return RoutingKey(value)
    except ValueError as err:
        raise ImproperlyConfigured(f"Option {name!r} cannot be used: {err}.") from None


#: Every option, by name.
OUTBOX_OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "url": Option(
            DEFAULT_HOST,
            parsers.urls,
            "AMQP URL of RabbitMQ, or a list of URLs, which are tried in random order",
        ),
        "ssl_context": Option(
            None,
            parsers.ssl_context,
            "ssl.SSLContext for TLS whichever scheme the URL has; the port is then 5671",
        ),
        "exchange": Option(
            "events",
            _exchange,
            "exchange to publish to; '': the default one, whose routing keys are queues",
        ),
        "exchange_type": Option(
            "topic",
            parsers.one_of(*_EXCHANGE_TYPES),
            "what to declare the exchange as where it is missing, durable",
        ),
        "routing_key": Option(
            None,
            _routing_key,
            "template of the routing key; by default '{type}', the stream for the exchange ''",
        ),
        "stream": Option(
            None,
            parsers.queue_or_none,
            "stream that keeps all events; declared and bound to the exchange",
        ),
        "max_length_bytes": Option(
            None, parsers.bytes_or_none, "most bytes that the stream keeps, where it is declared"
        ),
        "mode": Option(
            "structured",
            parsers.one_of(*_MODES),
            "'structured': the whole event is the body; 'binary': its data, attributes in headers",
        ),
        "publish_timeout": Option(
            10, parsers.seconds, "most seconds that publishing an event takes, connecting included"
        ),
        "health_timeout": Option(5, parsers.seconds, "most seconds that a health check takes"),
    }
)


def _parse(options: Mapping[str, object]) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise ImproperlyConfigured(f"OPTIONS must be a dict, not a {type(options).__name__}.")
    for name in options:
        if name not in OUTBOX_OPTIONS:
            raise ImproperlyConfigured(_unknown(str(name)))
    values: dict[str, Any] = {
        name: option.parse(name, options.get(name, option.default))
        for name, option in OUTBOX_OPTIONS.items()
    }
    values["endpoints"] = make_endpoints(values.pop("url"), values.pop("ssl_context"))
    _check_stream(values, "routing_key" in options)
    values["routing_key"] = values["routing_key"] or RoutingKey("{type}")
    return values


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), OUTBOX_OPTIONS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return (
        f"Option {name!r} is not known to RabbitmqBackend{hint} "
        f"The options are: {', '.join(OUTBOX_OPTIONS)}."
    )


def _check_stream(values: dict[str, Any], has_routing_key: bool) -> None:
    stream = values["stream"]
    if stream is None:
        if values["max_length_bytes"] is not None:
            raise ImproperlyConfigured("Option 'max_length_bytes' needs the option 'stream'.")
    elif values["exchange"] == "":
        if has_routing_key:
            raise ImproperlyConfigured(
                "Option 'routing_key' must be left out with a 'stream' and the exchange '': "
                "the routing key is the stream's name."
            )
        values["routing_key"] = RoutingKey(stream.replace("{", "{{").replace("}", "}}"))
    elif values["exchange_type"] not in _ALL:
        raise ImproperlyConfigured(
            f"Option 'stream' needs the 'exchange_type' {' or '.join(map(repr, _ALL))}: "
            "no binding gives it all messages of another."
        )
