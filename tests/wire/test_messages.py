"""``wire.messages``: what may be sent, what it is on the wire, and that no bytes do any harm."""

from __future__ import annotations

import contextlib
import datetime
import enum
import math
from collections import OrderedDict
from types import MappingProxyType

import hypothesis.strategies as st
import msgpack
import pytest
from channels.exceptions import MessageTooLarge
from hypothesis import example, given

from channels_rabbitmq.wire.messages import (
    CHANNEL_KEY,
    GROUP_KEY,
    BadMessage,
    Message,
    decode,
    encode,
    is_flat,
)

LIMIT = 16 * 1024 * 1024
SECRET = "a very private thing"

keys = st.text().filter(lambda key: key not in (CHANNEL_KEY, GROUP_KEY))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)
messages = st.dictionaries(keys, values, max_size=8)


@given(messages, st.sampled_from([CHANNEL_KEY, GROUP_KEY]), st.text(min_size=1))
def test_every_message_round_trips(message: Message, kind: str, name: str) -> None:
    """Every message that the specification allows arrives as it was sent, with its receiver."""
    assert decode(encode(kind, name, message, LIMIT)) == (kind, name, message)


@given(messages)
def test_encoding_leaves_the_message_alone(message: Message) -> None:
    """The sender's dict is not changed."""
    before = dict(message)
    encode(CHANNEL_KEY, "q!c", message, LIMIT)
    assert message == before


def test_wire_format() -> None:
    """The body is one msgpack map: the message, and whom it is for."""
    body = encode(GROUP_KEY, "room", {"type": "chat", "data": b"\0"}, LIMIT)
    assert msgpack.unpackb(body) == {"type": "chat", "data": b"\0", "__asgi_group__": "room"}


def test_not_a_number() -> None:
    """Infinities and NaN are floats like any other."""
    sent: Message = {"inf": math.inf, "nan": math.nan}
    _, _, received = decode(encode(CHANNEL_KEY, "q!c", sent, LIMIT))
    assert received["inf"] == math.inf
    assert math.isnan(received["nan"])


def test_kinds_that_arrive_plain() -> None:
    """Subclasses arrive as what they are a kind of, tuples as lists, byte buffers as bytes."""

    class Number(enum.IntEnum):
        ONE = 1

    class Text(str):
        __slots__ = ()

    message = {
        Text("key"): Text("value"),
        "number": Number.ONE,
        "ordered": OrderedDict(a=1),
        "tuple": (1, 2),
        "buffer": bytearray(b"b"),
    }
    _, _, received = decode(encode(CHANNEL_KEY, "q!c", message, LIMIT))
    assert received == {
        "key": "value",
        "number": 1,
        "ordered": {"a": 1},
        "tuple": [1, 2],
        "buffer": b"b",
    }
    assert {type(key) for key in received} == {str}
    assert type(received["key"]) is str


@given(st.binary())
@example(msgpack.packb({"no": "receiver"}))
@example(msgpack.packb({CHANNEL_KEY: "a", GROUP_KEY: "b"}))
@example(msgpack.packb({CHANNEL_KEY: 5}))
@example(msgpack.packb({CHANNEL_KEY: b"bytes"}))
@example(msgpack.packb([CHANNEL_KEY]))
@example(msgpack.packb({5: 6, CHANNEL_KEY: "a"}))
@example(msgpack.packb({CHANNEL_KEY: "a"}) + b"more")
@example(msgpack.packb({CHANNEL_KEY: "a"})[:-1])
@example(b"")
@example(b"\xdf\xff\xff\xff\xff")  # a map of 4 billion pairs, it says
@example(b"\xc6\xff\xff\xff\xff")  # 4 GB of bytes, it says
@example(b"\x91" * 100_000)  # lists in lists
@example(b"\x81\xa1a" * 100_000)  # maps in maps
@example(b"\xd7\xff" + b"\xff" * 8)  # a timestamp beyond time
@example(b"\x81\xa1\xff\x01")  # a key that is not Unicode
@example(b"\x81\x90\x01")  # a list as a key
@example(b"\xc1")
def test_bytes_do_no_harm(body: bytes) -> None:
    """Bytes from the network are a message, or BadMessage; nothing else ever comes of them."""
    with contextlib.suppress(BadMessage):
        kind, name, message = decode(body)
        assert kind in (CHANNEL_KEY, GROUP_KEY)
        assert isinstance(name, str)
        assert isinstance(message, dict)


@given(messages, st.data())
def test_damaged_bytes_do_no_harm(message: Message, data: st.DataObject) -> None:
    """A message with one byte changed, or cut short, is read or refused, never worse."""
    body = bytearray(encode(CHANNEL_KEY, "q!c", message, LIMIT))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] = data.draw(st.integers(0, 255))
    for damaged in (bytes(body), bytes(body[:place])):
        with contextlib.suppress(BadMessage):
            decode(damaged)


def test_reasons_tell_no_payload() -> None:
    """What is said about bad bytes does not quote them."""
    for body in (
        SECRET.encode(),
        msgpack.packb(SECRET),
        msgpack.packb({SECRET: SECRET}),
        msgpack.packb({5: SECRET}),
        msgpack.packb({CHANNEL_KEY: [SECRET]}),
    ):
        with pytest.raises(BadMessage) as caught:
            decode(body)
        assert SECRET not in str(caught.value)
        assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("message", [None, "text", b"bytes", 5, ["a"], [("a", 1)]])
def test_only_dicts_are_sent(message: object) -> None:
    """What is no dict is refused with a TypeError."""
    with pytest.raises(TypeError, match="must be a dict"):
        encode(CHANNEL_KEY, "q!c", message, LIMIT)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [5, b"bytes", None, True, ("a",), 1.5])
@pytest.mark.parametrize("wrap", [dict, lambda d: {"a": d}, lambda d: {"a": [{"b": d}]}])
def test_only_str_keys_are_sent(key: object, wrap: object) -> None:
    """A key that is no str is refused at every depth."""
    message = wrap({key: SECRET})  # type: ignore[operator]
    with pytest.raises(TypeError, match="keys of a message must be str") as caught:
        encode(CHANNEL_KEY, "q!c", message, LIMIT)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        1j,
        datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        datetime.date(2020, 1, 1),
        len,
        msgpack.ExtType(5, b"x"),
        float,
        range(3),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"b": v}])
def test_other_types_are_refused(value: object, wrap: object) -> None:
    """Types that the specification does not name raise TypeError, at every depth."""
    message = {"a": wrap(value), "other": SECRET}  # type: ignore[operator]
    with pytest.raises(TypeError, match="cannot be sent") as caught:
        encode(CHANNEL_KEY, "q!c", message, LIMIT)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**100])
def test_great_ints_are_refused(number: int) -> None:
    """An int beyond 64 bits raises ValueError."""
    with pytest.raises(ValueError, match="64 bits"):
        encode(CHANNEL_KEY, "q!c", {"a": [number]}, LIMIT)


@pytest.mark.parametrize("message", [{"a": "\ud800"}, {"\ud800": "a"}, {"a": {"\ud800": 1}}])
def test_surrogates_are_refused(message: Message) -> None:
    """Text that has no UTF-8 raises ValueError."""
    with pytest.raises(ValueError, match="Unicode"):
        encode(CHANNEL_KEY, "q!c", message, LIMIT)


@pytest.mark.parametrize("key", [CHANNEL_KEY, GROUP_KEY])
def test_own_keys_are_refused(key: str) -> None:
    """The keys that say whom a message is for cannot be in the message."""
    with pytest.raises(ValueError, match=key):
        encode(CHANNEL_KEY, "q!c", {key: "a"}, LIMIT)


def test_any_mapping_is_sent() -> None:
    """A mapping that is no dict is sent as one."""
    message = MappingProxyType({"type": "chat", "list": [1]})
    body = encode(GROUP_KEY, "room", message, LIMIT)
    assert decode(body) == (GROUP_KEY, "room", {"type": "chat", "list": [1]})


def test_circular_structures_are_refused() -> None:
    """A list or dict within itself raises ValueError."""
    loop: list[object] = [SECRET]
    loop.append(loop)
    message: Message = {"a": {}}
    message["a"] = message
    for circular in ({"a": loop}, message):
        with pytest.raises(ValueError, match="cannot be sent") as caught:
            encode(CHANNEL_KEY, "q!c", circular, LIMIT)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("depth", [10, 100, 400, 510, 512, 1022, 1024, 5000, 100_000])
@pytest.mark.parametrize("kind", ["lists", "dicts"])
def test_depth(depth: int, kind: str) -> None:
    """What is nested too deeply for a receiver raises ValueError in the sender."""
    value: object = 1
    for _ in range(depth):
        value = [value] if kind == "lists" else {"k": value}
    # msgpack decides where exactly; what it lets through must arrive.
    refused = pytest.raises(ValueError, match="cannot be sent")
    with refused if depth >= 5000 else contextlib.suppress(ValueError if depth > 400 else ()):
        _, _, message = decode(encode(CHANNEL_KEY, "q!c", {"a": value}, LIMIT))
        received = message["a"]
        for _ in range(depth):
            received = received[0] if kind == "lists" else received["k"]
        assert received == 1


def test_size_limit() -> None:
    """A body may have max_message_size bytes, all included, and not one more."""
    size = len(encode(CHANNEL_KEY, "q!c", {"a": b"x" * 1000}, LIMIT))
    assert len(encode(CHANNEL_KEY, "q!c", {"a": b"x" * 1000}, size)) == size
    with pytest.raises(MessageTooLarge, match=str(size)):
        encode(CHANNEL_KEY, "q!c", {"a": b"x" * 1000}, size - 1)


@given(messages)
def test_flat_messages(message: Message) -> None:
    """A message is flat if no value in it can be changed."""
    assert is_flat(message) is not any(
        isinstance(value, (list, dict)) for value in message.values()
    )
    assert not is_flat(None)
