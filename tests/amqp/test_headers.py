"""Text headers among a message's properties, written and read, from whatever bytes."""

from __future__ import annotations

import pamqp.commands
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.amqp.headers import encode_headers, read_headers

#: Text headers, few and short.
headers = st.dictionaries(
    st.text(st.characters(codec="ascii"), min_size=1, max_size=20), st.text(max_size=20), max_size=5
)


def others(**properties: object) -> bytes:
    """Properties as another client encodes them."""
    return pamqp.commands.Basic.Properties(**properties).marshal()  # type: ignore[arg-type]


@given(headers)
def test_round_trip(written: dict[str, str]) -> None:
    """What is written is read again, by us and by pamqp."""
    properties = encode_headers(written)
    if not written:
        assert properties is None
        return
    assert properties is not None
    assert read_headers(properties) == written
    theirs = pamqp.commands.Basic.Properties()
    flags = int.from_bytes(properties[:2], "big")
    theirs.unmarshal(flags, properties[2:])
    assert theirs.headers == written


def test_other_clients_properties() -> None:
    """Text is found among headers of all types, and behind other properties."""
    assert read_headers(
        others(
            content_type="text/plain",
            content_encoding="utf-8",
            headers={
                "traceparent": "00-1-2-01",
                "number": 5,
                "large": 2**40,
                "yes": True,
                "list": [1, "x", {"a": "b"}],
                "table": {"traceparent": "not this one"},
                "nothing": None,
                "fraction": 1.5,
                "last": "text",
            },
            delivery_mode=2,
            message_id="5",
        )
    ) == {"traceparent": "00-1-2-01", "last": "text"}
    assert read_headers(others(delivery_mode=2, content_type="a")) == {}
    assert read_headers(b"") == {}
    assert read_headers(b"\x00\x00") == {}


def test_limits() -> None:
    """Headers that are too long are not written at all, and no more than 64 are read."""
    assert encode_headers({"a": "x" * 3000}) is None
    assert encode_headers({"k" * 300: "x"}) is None
    many = {f"key{number}": "x" for number in range(100)}
    properties = encode_headers(many)
    assert properties is not None
    assert len(read_headers(properties)) == 64


@given(st.binary(max_size=100))
def test_any_bytes(noise: bytes) -> None:
    """Whatever a stranger writes is read to an end, and gives text or nothing."""
    found = read_headers(noise)
    found |= read_headers(b"\x20\x00" + noise)
    found |= read_headers(b"\xff\xfe" + noise)
    assert all(isinstance(value, str) for value in found.values())


@pytest.mark.parametrize("cut", range(40))
def test_cut_off(cut: int) -> None:
    """Properties that end too early give what is whole."""
    properties = encode_headers({"a": "1", "b": "2", "traceparent": "00-1-2-01"})
    assert properties is not None
    found = read_headers(properties[:cut])
    assert found.items() <= {"a": "1", "b": "2", "traceparent": "00-1-2-01"}.items()
