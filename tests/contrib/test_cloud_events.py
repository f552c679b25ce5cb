"""A CloudEvent as a message."""

from __future__ import annotations

import json

import pytest

from channels_rabbitmq.contrib.cloud_events import encode_binary, encode_structured

EVENT: dict[str, object] = {
    "specversion": "1.0",
    "type": "order.placed",
    "source": "/shop",
    "id": "5e8c",
    "time": "2026-01-02T03:04:05+00:00",
    "subject": "order 7",
    "datacontenttype": "application/json",
    "dataschema": "https://example.org/order.json",
    "data": {"total": 12.5, "name": "Zoë"},
}


def test_structured() -> None:
    """The body is the whole event, in the JSON format's media type."""
    body, properties = encode_structured(EVENT)
    assert json.loads(body) == EVENT
    assert "Zoë".encode() in body
    assert properties == {
        "content_type": "application/cloudevents+json; charset=utf-8",
        "delivery_mode": 2,
        "message_id": "5e8c",
    }


def test_binary() -> None:
    """The body is the data alone; attributes are headers, but for the data's media type."""
    body, properties = encode_binary(EVENT)
    assert json.loads(body) == EVENT["data"]
    assert properties == {
        "content_type": "application/json",
        "delivery_mode": 2,
        "message_id": "5e8c",
        "headers": {
            "cloudEvents_specversion": "1.0",
            "cloudEvents_type": "order.placed",
            "cloudEvents_source": "/shop",
            "cloudEvents_id": "5e8c",
            "cloudEvents_time": "2026-01-02T03:04:05+00:00",
            "cloudEvents_subject": "order 7",
            "cloudEvents_dataschema": "https://example.org/order.json",
        },
    }


@pytest.mark.parametrize(
    ("content_type", "data", "body"),
    [
        ("application/json", "text", b'"text"'),
        ("application/json; charset=utf-8", [1, None], b"[1,null]"),
        ("application/vnd.shop+json", {"a": True}, b'{"a":true}'),
        ("text/json", 5, b"5"),
        ("", {"a": 1}, b'{"a":1}'),
        ("text/plain", "Zoë", "Zoë".encode()),
        ("application/xml", "<a/>", b"<a/>"),
        ("application/json", None, b""),
    ],
)
def test_binary_data(content_type: str, data: object, body: bytes) -> None:
    """Data is JSON where its media type is, and else the text itself."""
    encoded = encode_binary(EVENT | {"datacontenttype": content_type, "data": data})
    assert encoded.body == body
    assert encoded.properties["content_type"] == (content_type or "application/json")


def test_binary_data_that_is_no_text() -> None:
    """What is neither JSON nor text is refused, by its kind."""
    with pytest.raises(TypeError, match="of type dict must have a JSON datacontenttype"):
        encode_binary(EVENT | {"datacontenttype": "application/xml"})


@pytest.mark.parametrize("encode", [encode_structured, encode_binary])
@pytest.mark.parametrize("name", ["id", "source", "specversion", "type"])
@pytest.mark.parametrize("value", ["", None, 5])
def test_required_attributes(encode: type, name: str, value: object) -> None:
    """An event without what each must have is refused."""
    with pytest.raises(ValueError, match=f"must have a '{name}' that is not empty"):
        encode(EVENT | {name: value})


@pytest.mark.parametrize("encode", [encode_structured, encode_binary])
@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"secret": object()}, TypeError),
        ({"secret": float("nan")}, ValueError),
        ({("secret", 1): 1}, TypeError),
        ({"secret": "\ud800"}, ValueError),
    ],
)
def test_data_that_json_cannot_hold(encode: type, data: object, error: type[Exception]) -> None:
    """The error does not quote the data."""
    with pytest.raises(error, match=r"^an event's data must be what JSON can hold$") as caught:
        encode(EVENT | {"data": data})
    assert caught.value.__context__ is None
