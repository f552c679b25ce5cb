"""A CloudEvent as an AMQP message; no I/O.

References: the `CloudEvents specification
<https://github.com/cloudevents/spec/blob/main/cloudevents/spec.md>`_, its `JSON format
<https://github.com/cloudevents/spec/blob/main/cloudevents/formats/json-format.md>`_, and its `AMQP
binding <https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/amqp-protocol-binding.md>`_,
whose application properties are the message's ``headers`` in AMQP 0-9-1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from ..connection import MessageProperties

__all__ = ["EncodedEvent", "encode_binary", "encode_structured"]

#: Comes before the names of attributes in headers. The binding also has ``cloudEvents:``, which
#: clients of JMS cannot read.
_PREFIX = "cloudEvents_"
_STRUCTURED_TYPE = "application/cloudevents+json; charset=utf-8"
#: What the specification requires of every event.
_REQUIRED = ("id", "source", "specversion", "type")
_PERSISTENT = 2
#: Media types whose content is JSON.
_JSON = re.compile(r"\s*[^;\s]+/([^;\s]+\+)?json\s*(;.*)?", re.IGNORECASE)


class EncodedEvent(NamedTuple):
    """The body and the properties of a message."""

    body: bytes
    properties: MessageProperties


def encode_structured(event: Mapping[str, object]) -> EncodedEvent:
    """The whole event as JSON, in the body.

    Raises :class:`ValueError` for an event without what each must have, and :class:`TypeError` or
    :class:`ValueError` for data that JSON cannot hold.
    """
    identity = _require_valid(event)
    return EncodedEvent(
        _to_json(event),
        {
            "content_type": _STRUCTURED_TYPE,
            "delivery_mode": _PERSISTENT,
            "message_id": identity,
        },
    )


def encode_binary(event: Mapping[str, object]) -> EncodedEvent:
    """The event's data as the body, its attributes as headers.

    Data is JSON where ``datacontenttype`` says so or is not there; else it must be text. Raises
    as :func:`encode_structured` does.
    """
    identity = _require_valid(event)
    content_type = str(event.get("datacontenttype") or "application/json")
    data = event.get("data")
    if data is None:
        body = b""
    elif _JSON.fullmatch(content_type):
        body = _to_json(data)
    elif isinstance(data, str):
        body = data.encode()
    else:
        kind = type(data).__name__
        raise TypeError(f"an event's data of type {kind} must have a JSON datacontenttype")
    return EncodedEvent(
        body,
        {
            "content_type": content_type,
            "delivery_mode": _PERSISTENT,
            "message_id": identity,
            "headers": {
                f"{_PREFIX}{name}": str(value)
                for name, value in event.items()
                if name not in ("data", "datacontenttype")
            },
        },
    )


def _require_valid(event: Mapping[str, object]) -> str:
    for name in _REQUIRED:
        value = event.get(name)
        if not isinstance(value, str) or not value:
            raise ValueError(f"a CloudEvent must have a {name!r} that is not empty")
    return str(event["id"])


def _to_json(value: object) -> bytes:
    try:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
    except (TypeError, ValueError, RecursionError) as err:
        # The text of some of these quotes the value.
        kind = TypeError if isinstance(err, TypeError) else ValueError
    raise kind("an event's data must be what JSON can hold")
