"""django-broadcaster's transactional outbox, published to RabbitMQ.

`django-broadcaster <https://pypi.org/project/django-broadcaster/>`_ stores events in the database,
in the transaction that they are about; its worker hands them to a publisher backend, such as this
one, until that has taken them. Settings::

    OUTBOX_PUBLISHERS = {
        "default": {
            "BACKEND": "channels_rabbitmq.broadcaster.RabbitmqBackend",
            "OPTIONS": {"url": "amqp://guest:guest@127.0.0.1"},
        },
    }

This module imports nothing of that package but in :func:`register`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .amqp.log import NamedLogger
from .config.connection_name import ConnectionName
from .connection import Connection
from .contrib.blocking_publisher import BlockingPublisher
from .contrib.cloud_events import encode_binary, encode_structured
from .contrib.outbox_options import OutboxOptions, RoutingKey
from .errors import NotFound, RabbitmqError, describe
from .log import RateLimitedWarning

__all__ = ["OutboxEvent", "RabbitmqBackend", "register"]

logger = logging.getLogger(__name__)

#: What an event's own ``publisher_config`` may have.
_OVERRIDES = ("exchange", "routing_key")
_BACKEND = f"{__name__}.RabbitmqBackend"


class OutboxEvent(Protocol):
    """What the backend needs of an event; ``django_broadcaster.models.OutboxEvent`` has it."""

    @property
    def publisher_config(self) -> Mapping[str, object]:
        """The event's own ``exchange`` and ``routing_key``, if it has any."""

    def to_cloud_event(self) -> Mapping[str, object]:
        """The event's attributes and ``data``, as CloudEvents names them."""


class RabbitmqBackend:
    """Publishes the events of an outbox, each as one persistent message.

    Made from a dict of options, which docs/outbox.rst describes; a wrong one raises
    :class:`django.core.exceptions.ImproperlyConfigured`. Making it does no I/O. It may be used from
    any thread, and on both sides of a fork.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        try:
            self.options = OutboxOptions.from_dict(config)
        finally:
            # Debug pages and error trackers show the variables of this frame; see OutboxOptions.
            del config
        name = _Name()
        # The publisher must not refer to the backend, which would never be collected then.
        self._publisher = BlockingPublisher(
            self.options.endpoints, partial(_declare, self.options), name
        )
        self._encode = encode_binary if self.options.mode == "binary" else encode_structured
        self._log = NamedLogger(logger, name)
        self._warn_unhealthy = RateLimitedWarning(self._log)

    def get_name(self) -> str:
        """What django-broadcaster calls the backend."""
        return "RabbitMQ"

    def publish(self, event: OutboxEvent) -> bool:
        """Publish an event; return True once RabbitMQ has confirmed that a queue stored it.

        ``publisher_config`` of the event may have an ``exchange``, which must be there, and a
        ``routing_key``, a template as the option is.

        Raises :class:`~channels_rabbitmq.errors.NotConnected` if RabbitMQ is away, takes no
        messages, or did not confirm the event within ``publish_timeout``,
        :class:`.MessageReturned` if no queue was bound for it, :class:`.ServerSentNack` if one did
        not store it, :class:`.ChannelClosedByServer` if RabbitMQ refused it, and
        :class:`TypeError` or :class:`ValueError` for an event that cannot be sent. After an error
        RabbitMQ may have it all the same: receivers tell by the ``message_id``, which is the
        event's id, that they have had it.
        """
        cloud_event = event.to_cloud_event()
        exchange, routing_key = self._route(event.publisher_config or {})
        self._publisher.publish(
            exchange,
            routing_key.fill(cloud_event),
            self._encode(cloud_event),
            timeout=self.options.publish_timeout,
        )
        return True

    def health_check(self) -> bool:
        """Whether RabbitMQ answers, within ``health_timeout``, and takes messages; never raises.

        It costs nothing where RabbitMQ confirmed an event within the last second.
        """
        try:
            self._publisher.check(timeout=self.options.health_timeout)
        except RabbitmqError as err:
            self._warn_unhealthy("The outbox cannot publish: %s", describe(err))
            return False
        except Exception:
            self._log.exception("A bug in channels_rabbitmq; the outbox cannot publish")
            return False
        return True

    def close(self) -> None:
        """Close the connection. The next call makes another; the end of the process closes too."""
        self._publisher.close()

    def _route(self, own: Mapping[str, object]) -> tuple[str, RoutingKey]:
        for name in own:
            if name not in _OVERRIDES:
                raise ValueError(
                    f"an event's publisher_config may have {' and '.join(_OVERRIDES)}, not {name!r}"
                )
            if not isinstance(own[name], str):
                kind = type(own[name]).__name__
                raise TypeError(f"{name!r} in publisher_config must be a str, not {kind}")
        exchange = str(own.get("exchange", self.options.exchange))
        if "routing_key" in own:
            return exchange, RoutingKey(str(own["routing_key"]))
        return exchange, self.options.routing_key


class _Name(ConnectionName):
    """What the connection is called: as the process's layer, and what it is for."""

    def __str__(self) -> str:
        return f"{super().__str__()} outbox"


async def _declare(options: OutboxOptions, connection: Connection) -> None:
    """Declare exchange and stream unless they are there: as they are, they will do."""
    if options.exchange:
        try:
            await connection.exchange_declare(options.exchange, passive=True)
        except NotFound:
            await connection.exchange_declare(
                options.exchange, exchange_type=options.exchange_type, durable=True
            )
    if options.stream is None:
        return
    try:
        await connection.queue_declare(options.stream, passive=True)
    except NotFound:
        arguments: dict[str, str | int] = {"x-queue-type": "stream"}
        if options.max_length_bytes is not None:
            arguments["x-max-length-bytes"] = options.max_length_bytes
        await connection.queue_declare(
            options.stream,
            durable=True,
            arguments=arguments,  # type: ignore[arg-type]  # pamqp's dict is invariant
        )
    if options.exchange:
        await connection.queue_bind(
            options.stream, options.exchange, routing_key=options.stream_key
        )


def register() -> None:
    """Give django-broadcaster the publishers of ``OUTBOX_PUBLISHERS`` that are on RabbitMQ.

    For the ``ready()`` of an ``AppConfig``; may be called again. Of its own that package loads the
    backend for Redis only. Raises :class:`django.core.exceptions.ImproperlyConfigured`.
    """
    from django_broadcaster.backends import PublisherBackend

    PublisherBackend.register(RabbitmqBackend)
    backends: dict[str, object] = _import_publisher()._backends
    configured = [(name, entry.get("BACKEND")) for name, entry in _configured().items()]
    for name, backend in configured:
        if backend == _BACKEND and name not in backends:
            backends[name] = _make(name)
    # As in the settings: an event that names no publisher goes to the first.
    for name, _ in configured:
        if name in backends:
            backends[name] = backends.pop(name)


def _configured() -> Mapping[str, Mapping[str, Any]]:
    return getattr(settings, "OUTBOX_PUBLISHERS", {})


def _make(name: str) -> RabbitmqBackend:
    try:
        return RabbitmqBackend(_configured()[name].get("OPTIONS", {}))
    except ImproperlyConfigured as err:
        refused = str(err)
    raise ImproperlyConfigured(f"OUTBOX_PUBLISHERS[{name!r}]: {refused}")


def _import_publisher() -> Any:
    """The publisher that the package makes as it is imported, without its warning about ours."""

    def is_for_others(record: logging.LogRecord) -> bool:
        return _BACKEND not in record.getMessage()

    theirs = logging.getLogger("django_broadcaster.publishers")
    theirs.addFilter(is_for_others)
    try:
        from django_broadcaster.publishers import publisher
    finally:
        theirs.removeFilter(is_for_others)
    return publisher
