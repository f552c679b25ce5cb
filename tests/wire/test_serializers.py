"""``wire.serializers``: the serializers, encryption around them, and how they are chosen."""

from __future__ import annotations

import json
import pickle
import time

import pytest
from channels.exceptions import MessageTooLarge
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.config.options import Options
from channels_rabbitmq.wire import messages
from channels_rabbitmq.wire.encryption import NotDecrypted, NotEncrypted, OutOfPlace
from channels_rabbitmq.wire.messages import CHANNEL_KEY, GROUP_KEY, BadMessage
from channels_rabbitmq.wire.serializers import (
    BYTES_KEY,
    Codec,
    decode_json,
    encode_json,
    make_codec,
)

MEGABYTE = 1024 * 1024

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text().filter(lambda key: key != BYTES_KEY), inner, max_size=4)
    ),
    max_leaves=10,
)


class Pickled:
    """A serializer as a user might write it."""

    def serialize(self, message: dict[str, object]) -> bytes:
        """Serialize."""
        return pickle.dumps(message)

    def deserialize(self, body: bytes) -> dict[str, object]:
        """Deserialize."""
        made: dict[str, object] = pickle.loads(body)
        return made


class Texting:
    """A serializer that gives the wrong type."""

    def serialize(self, message: dict[str, object]) -> str:
        """Serialize."""
        return json.dumps(message)

    def deserialize(self, body: bytes) -> object:
        """Give something that is no message."""
        return [body]


class HalfDone:
    """A serializer without a way back."""

    def serialize(self, message: dict[str, object]) -> bytes:
        """Serialize."""
        return b""


def codec(**config: object) -> Codec:
    """The codec that a CONFIG asks for."""
    return make_codec(Options.from_config(config))


def test_the_usual_way_costs_nothing() -> None:
    """By default the functions are msgpack's own, with nothing around them."""
    usual = codec()
    assert usual.encode is messages.encode
    assert usual.decode is messages.decode
    assert usual.decrypt is None


class TestJson:
    """``serializer_format="json"``."""

    @given(st.dictionaries(st.text().filter(lambda key: key != BYTES_KEY), VALUES, max_size=4))
    def test_round_trip(self, message: dict[str, object]) -> None:
        """Every message that the specification allows comes back as it was, bytes included."""
        if CHANNEL_KEY in message or GROUP_KEY in message:
            return
        body = encode_json(GROUP_KEY, "g", message, MEGABYTE)
        assert decode_json(body) == (GROUP_KEY, "g", message)

    def test_on_the_wire(self) -> None:
        """It is plain JSON; bytes are base64 in a map of their own."""
        body = encode_json(CHANNEL_KEY, "a!b", {"type": "ü", "data": b"\x00\xff"}, MEGABYTE)
        assert json.loads(body) == {
            "type": "ü",
            "data": {"__asgi_bytes__": "AP8="},
            "__asgi_channel__": "a!b",
        }

    def test_tuples_become_lists(self) -> None:
        """As msgpack has it."""
        body = encode_json(GROUP_KEY, "g", {"a": (1, (2,))}, MEGABYTE)
        assert decode_json(body)[2] == {"a": [1, [2]]}

    @pytest.mark.parametrize(
        ("message", "error"),
        [
            ({"a": {1: 2}}, TypeError),
            ({1: 2}, TypeError),
            ([], TypeError),
            ({"a": object()}, TypeError),
            ({"a": {2}}, TypeError),
            ({"a": 2**64}, ValueError),
            ({"a": float("nan")}, ValueError),
            ({"a": "\ud800"}, ValueError),
            ({"a": {BYTES_KEY: ""}}, ValueError),
            ({CHANNEL_KEY: ""}, ValueError),
            ({GROUP_KEY: ""}, ValueError),
        ],
    )
    def test_what_cannot_be_sent(self, message: dict[str, object], error: type[Exception]) -> None:
        """The sender is told, as with msgpack."""
        with pytest.raises(error):
            encode_json(GROUP_KEY, "g", message, MEGABYTE)

    def test_too_deep(self) -> None:
        """A message that is nested without end is refused by the sender."""
        message: dict[str, object] = {}
        message["a"] = message
        with pytest.raises(ValueError, match="nested too deeply"):
            encode_json(GROUP_KEY, "g", message, MEGABYTE)

    def test_age(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A message of a normal channel is refused earlier: it waits nowhere but in its queue."""
        now = time.time()
        monkeypatch.setattr("channels_rabbitmq.wire.encryption.time.time", lambda: now)
        made = codec(symmetric_encryption_keys=["a"], expiry=100, local_expiry=50)
        assert made.decrypt is not None
        assert made.decrypt_normal is not None
        body = made.encode(GROUP_KEY, "g", {}, MEGABYTE)
        now += 398
        assert made.decrypt_normal(body) == made.decrypt(body)
        now += 4
        with pytest.raises(OutOfPlace):
            made.decrypt_normal(body)
        made.decrypt(body)
        now += 50
        with pytest.raises(OutOfPlace):
            made.decrypt(body)

    def test_too_large(self) -> None:
        """The limit is for the bytes that travel."""
        size = len(encode_json(GROUP_KEY, "g", {"a": "x"}, MEGABYTE))
        encode_json(GROUP_KEY, "g", {"a": "x"}, size)
        with pytest.raises(MessageTooLarge):
            encode_json(GROUP_KEY, "g", {"a": "x"}, size - 1)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\xff",
            b"[]",
            b"1",
            b"{}",
            b'{"__asgi_group__": 1}',
            b'{"__asgi_group__": "g", "__asgi_channel__": "c"}',
            b'{"__asgi_group__": "g", "a": {"__asgi_bytes__": 1}}',
            b'{"__asgi_group__": "g", "a": {"__asgi_bytes__": "!"}}',
            b'{"__asgi_group__": "g", "a": {"__asgi_bytes__": "", "b": 1}}',
            b"[" * 100_000,
        ],
    )
    def test_what_is_no_message(self, body: bytes) -> None:
        """Bad bytes are bad messages, whatever is wrong with them."""
        with pytest.raises(BadMessage):
            decode_json(body)

    @given(st.binary(max_size=50))
    def test_any_bytes(self, body: bytes) -> None:
        """No bytes raise anything else."""
        with pytest.raises(BadMessage):
            decode_json(body)


class TestClass:
    """``serializer_format`` with a dotted path."""

    def test_round_trip(self) -> None:
        """The class gets the whole map, and gives it back."""
        made = codec(serializer_format=f"{__name__}.Pickled")
        body = made.encode(GROUP_KEY, "g", {"a": {1, 2}}, MEGABYTE)
        assert pickle.loads(body) == {"a": {1, 2}, GROUP_KEY: "g"}
        assert made.decode(body) == (GROUP_KEY, "g", {"a": {1, 2}})

    def test_too_large(self) -> None:
        """The limit counts here too."""
        with pytest.raises(MessageTooLarge):
            codec(serializer_format=f"{__name__}.Pickled").encode(GROUP_KEY, "g", {}, 3)

    def test_what_it_raises(self) -> None:
        """On bytes that it cannot read, whatever it raises is a bad message."""
        with pytest.raises(BadMessage, match=r"deserialize\(\) raised UnpicklingError"):
            codec(serializer_format=f"{__name__}.Pickled").decode(b"\x00")

    def test_wrong_types(self) -> None:
        """A class that keeps to neither type is found out on the first message."""
        made = codec(serializer_format=f"{__name__}.Texting")
        with pytest.raises(TypeError, match=r"serialize\(\) must give bytes, not str"):
            made.encode(GROUP_KEY, "g", {}, MEGABYTE)
        with pytest.raises(BadMessage):
            made.decode(b"")

    @pytest.mark.parametrize("path", ["nowhere.Nothing", "json.Nothing", "yaml", "HalfDone"])
    def test_a_path_that_leads_nowhere(self, path: str) -> None:
        """It is found when the layer is made."""
        path = f"{__name__}.{path}" if path == "HalfDone" else path
        with pytest.raises(ImproperlyConfigured, match="Option 'serializer_format'"):
            codec(serializer_format=path)


class TestEncryption:
    """``symmetric_encryption_keys``, with any serializer."""

    @pytest.mark.parametrize("form", ["msgpack", "json", f"{__name__}.Pickled"])
    def test_round_trip(self, form: str) -> None:
        """Nothing of the message can be read on the way, and it comes back as it was."""
        made = codec(serializer_format=form, symmetric_encryption_keys=["a"])
        body = made.encode(GROUP_KEY, "the-group", {"key": "the-text"}, MEGABYTE)
        assert b"the-" not in body
        assert b"key" not in body
        assert made.decrypt is not None
        assert made.decode(made.decrypt(body)) == (GROUP_KEY, "the-group", {"key": "the-text"})

    def test_age(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A message of a normal channel is refused earlier: it waits nowhere but in its queue."""
        made = codec(symmetric_encryption_keys=["a"], expiry=100, local_expiry=50)
        now = time.time()
        body = made.encode(GROUP_KEY, "g", {}, MEGABYTE)
        assert made.decrypt is not None
        assert made.decrypt_normal is not None
        monkeypatch.setattr(time, "time", lambda: now + 440)
        with pytest.raises(OutOfPlace):
            codec(symmetric_encryption_keys=["a"], expiry=100).decrypt_normal(body)  # type: ignore[misc]
        aged = codec(symmetric_encryption_keys=["a"], expiry=100, local_expiry=50)
        aged.decrypt(body)  # type: ignore[misc]
        monkeypatch.setattr(time, "time", lambda: now + 460)
        aged = codec(symmetric_encryption_keys=["a"], expiry=100, local_expiry=50)
        with pytest.raises(OutOfPlace):
            aged.decrypt(body)  # type: ignore[misc]

    def test_too_large(self) -> None:
        """The limit is for the bytes that travel, which are more."""
        made = codec(symmetric_encryption_keys=["a"])
        size = len(made.encode(GROUP_KEY, "g", {"a": "x" * 50}, MEGABYTE))
        made.encode(GROUP_KEY, "g", {"a": "x" * 50}, size)
        with pytest.raises(MessageTooLarge, match=f"the message has {size} bytes"):
            made.encode(GROUP_KEY, "g", {"a": "x" * 50}, size - 1)

    def test_why_a_body_was_dropped(self) -> None:
        """Other key, no key here, no key there: the log tells which."""
        mine, other, plain = (
            codec(symmetric_encryption_keys=["a"]),
            codec(symmetric_encryption_keys=["b"]),
            codec(),
        )
        body = mine.encode(GROUP_KEY, "g", {}, MEGABYTE)
        assert other.decrypt is not None
        with pytest.raises(NotDecrypted):
            other.decrypt(body)
        with pytest.raises(NotEncrypted):
            other.decrypt(plain.encode(GROUP_KEY, "g", {}, MEGABYTE))
        with pytest.raises(BadMessage) as raised:
            plain.decode(body)
        assert plain.explain(body, raised.value) == (
            "it is encrypted, and symmetric_encryption_keys is not set"
        )
        assert plain.explain(b"", BadMessage("why")) == "why"
