"""Spans for OpenTelemetry; with the extra ``opentelemetry``, which brings ``opentelemetry-api``.

::

    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_rabbitmq.contrib.opentelemetry.TracedChannelLayer",
            "CONFIG": {...},
        },
    }

``send`` and ``group_send`` are producer spans. Their context travels in the message's AMQP headers,
by whichever propagator is set, so that the ``receive`` spans of other processes link to them. A
receiver without tracing, or of version 4.0.1, does not look at headers.

Names and attributes follow https://opentelemetry.io/docs/specs/semconv/messaging/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

try:
    from opentelemetry import propagate, trace
    from opentelemetry.trace import Link, SpanKind
    from opentelemetry.util.types import AttributeValue
except ImportError as err:
    raise ImportError(
        f'{__name__} needs an extra: pip install "channels_rabbitmq[opentelemetry]" ({err})',
        name=err.name,
    ) from err

from ..amqp.headers import PropertiesBody, encode_headers, read_headers
from ..core import RabbitmqChannelLayer
from ..events import Event
from ..wire.messages import Envelope
from ..wire.serializers import Codec

__all__ = ["TracedChannelLayer", "add_event_to_span"]

#: Uses whichever provider is set, also where that is set later.
_tracer = trace.get_tracer("channels_rabbitmq")

#: What a received message has its sender's context in, until ``receive()`` takes that out.
_CONTEXT_KEY = "__channels_rabbitmq_context__"


class _Traced(bytes):
    """A body with the context that it was sent in, as JSON."""

    context: str


class TracedChannelLayer(RabbitmqChannelLayer):
    """A :class:`.RabbitmqChannelLayer` whose messages are traced from process to process."""

    def _make_codec(self) -> Codec:
        codec = super()._make_codec()

        def encode(kind: str, name: str, message: Mapping[str, Any], max_size: int) -> bytes:
            return _with_context(codec.encode(kind, name, message, max_size))

        def decode(body: bytes) -> Envelope:
            envelope = codec.decode(body)
            if isinstance(body, _Traced):
                envelope[2][_CONTEXT_KEY] = body.context
            return envelope

        return replace(codec, encode=encode, decode=decode, annotate=_annotate)

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """The same as :meth:`.RabbitmqChannelLayer.send`, in a producer span."""
        with _tracer.start_as_current_span(
            "send", kind=SpanKind.PRODUCER, attributes=_attributes("send", channel)
        ):
            await super().send(channel, message)

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """The same as :meth:`.RabbitmqChannelLayer.group_send`, in a producer span."""
        with _tracer.start_as_current_span(
            "group_send", kind=SpanKind.PRODUCER, attributes=_attributes("send", group)
        ):
            await super().group_send(group, message)

    async def receive(self, channel: str) -> dict[str, Any]:
        """The same as :meth:`.RabbitmqChannelLayer.receive`, with a span for what it returns.

        That span links to the one that the message was sent in. It does not last: the time spent on
        waiting tells nothing.
        """
        message = await super().receive(channel)
        self._trace_received(channel, message)
        return message

    async def receive_many(
        self, channels: Sequence[str], block: bool = False
    ) -> tuple[str, dict[str, Any]] | tuple[None, None]:
        """The same as :meth:`.RabbitmqChannelLayer.receive_many`, with a span as in receive()."""
        channel, message = received = await super().receive_many(channels, block)
        if channel is not None and message is not None:
            self._trace_received(channel, message)
        return received

    def _trace_received(self, channel: str, message: dict[str, Any]) -> None:
        links = _links(message.pop(_CONTEXT_KEY, None))
        _tracer.start_span(
            "receive",
            kind=SpanKind.CONSUMER,
            links=links,
            attributes=_attributes("receive", channel),
        ).end()


def add_event_to_span(event: Event) -> None:
    """Add an event to the current span, if there is one: for the option ``on_event``.

    Events of sending are told of where ``send()`` is called, so they become the span's.
    """
    attributes: dict[str, AttributeValue] = {
        "cause": event.cause,
        "name": event.name,
        "count": event.count,
        "detail": event.detail,
    }
    trace.get_current_span().add_event(
        f"channels_rabbitmq.{event.kind.value}",
        {f"channels_rabbitmq.{key}": value for key, value in attributes.items() if value},
    )


def _attributes(operation: str, destination: str) -> dict[str, AttributeValue]:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.type": operation,
        "messaging.destination.name": destination,
    }


def _with_context(body: bytes) -> bytes:
    """Give a body the headers of the context that is current."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    properties = encode_headers(carrier)
    if properties is None:
        return body
    traced = PropertiesBody(body)
    traced.properties = properties
    return traced


def _annotate(body: bytes, properties: bytes) -> bytes:
    """Keep the headers with a body that was received, until that is decoded."""
    headers = read_headers(properties)
    carrier = {key: headers[key] for key in propagate.get_global_textmap().fields if key in headers}
    if not carrier:
        return body
    traced = _Traced(body)
    traced.context = json.dumps(carrier)
    return traced


def _links(context: object) -> list[Link]:
    """Link to the span that a message was sent in, if that is known."""
    if not isinstance(context, str):
        return []
    try:
        carrier = json.loads(context)
    except ValueError:  # somebody else has put that into the message
        return []
    if not isinstance(carrier, dict):
        return []
    texts = {key: value for key, value in carrier.items() if isinstance(value, str)}
    sender = trace.get_current_span(propagate.extract(texts)).get_span_context()
    return [Link(sender)] if sender.is_valid else []
