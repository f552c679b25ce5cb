"""``wire.sizes``: what would cost too much to decode is refused, and what is only large is not."""

from __future__ import annotations

import gc
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Callable

import msgpack
import pytest
from channels.exceptions import MessageTooLarge
from hypothesis import example, given
from hypothesis import strategies as st

from channels_rabbitmq.wire import messages, serializers
from channels_rabbitmq.wire.encryption import Cipher
from channels_rabbitmq.wire.messages import CHANNEL_KEY, TooHeavy
from channels_rabbitmq.wire.sizes import SMALL, most_memory, no_garbage, weigh_json, weigh_msgpack

MEGABYTE = 1024 * 1024
LARGEST = 16 * MEGABYTE
NAME = "channels_a!b"
#: Memory that one message may cost a process, with its body twice: as it came, and as it is held.
MOST_MEMORY = 200_000_000 - 2 * LARGEST

chance = random.Random(1)

#: Messages of 5 MB as programs have them.
LEGITIMATE: dict[str, Callable[[], object]] = {
    "text": lambda: "x" * 5_000_000,
    "text in another script": lambda: "\u0950" * 1_700_000,
    "bytes": lambda: bytes(range(256)) * 20_000,
    "lines": lambda: ["x" * 50] * 96_000,
    "words": lambda: [f"word{n % 999}" for n in range(650_000)],
    "small integers": lambda: [n % 100 for n in range(5_000_000)],
    "integers": lambda: list(range(1_000_000)),
    "floats": lambda: [chance.random()] * 550_000,
    "points": lambda: [[chance.random(), chance.random()] for _ in range(260_000)],
    "records": lambda: [
        {"id": n, "name": f"user{n % 999}", "score": chance.random(), "ok": True}
        for n in range(110_000)
    ],
}


def msgpack_list(count: int, value: bytes) -> bytes:
    """A body with one list of so many values."""
    start = b"\x82\xb0__asgi_channel__\xac" + NAME.encode() + b"\xa1d\xdd"
    return start + count.to_bytes(4, "big") + value * count


def json_list(count: int, value: bytes) -> bytes:
    """The same as JSON."""
    start = b'{"__asgi_channel__":"' + NAME.encode() + b'","d":['
    return start + (value + b",") * (count - 1) + value + b"]}"


@pytest.mark.parametrize("kind", LEGITIMATE)
def test_legitimate_messages(kind: str) -> None:
    """5 MB of what programs send are sent, and decoded."""
    message = {"d": LEGITIMATE[kind]()}
    body = messages.encode(CHANNEL_KEY, NAME, message, LARGEST)
    assert messages.decode(body) == (CHANNEL_KEY, NAME, message)


def test_the_largest_messages() -> None:
    """Text and bytes may fill ``max_message_size``, whatever that is."""
    for value in ("x" * (LARGEST - 100), b"x" * (LARGEST - 100), "x" * (4 * LARGEST)):
        body = messages.encode(CHANNEL_KEY, NAME, {"d": value}, 5 * LARGEST)
        assert messages.decode(body)[2] == {"d": value}
    text = '",[{' * 3_000_000
    body = serializers.encode_json(CHANNEL_KEY, NAME, {"d": text}, 2 * LARGEST)
    assert serializers.decode_json(body)[2] == {"d": text}


HOSTILE = [
    pytest.param(messages.decode, msgpack_list(8 * MEGABYTE, b"\x90"), id="empty lists"),
    pytest.param(messages.decode, msgpack_list(8 * MEGABYTE, b"\x80"), id="empty dicts"),
    pytest.param(messages.decode, msgpack_list(5 * MEGABYTE, b"\x81\xa0\xc0"), id="dicts"),
    pytest.param(messages.decode, msgpack_list(5 * MEGABYTE, b"\xa2ab"), id="short texts"),
    pytest.param(messages.decode, msgpack_list(5 * MEGABYTE, b"\xcd\x12\x34"), id="integers"),
    pytest.param(messages.decode, msgpack_list(5 * MEGABYTE, b"\xd9\x01a"), id="texts"),
    pytest.param(messages.decode, msgpack_list(5 * MEGABYTE, b"\xc4\x01a"), id="bytes"),
    pytest.param(messages.decode, msgpack_list(2 * MEGABYTE, b"\xd6\xff\0\0\0\0"), id="times"),
    pytest.param(messages.decode, b"\xdd\0\xff\xff\xff" * 900 + bytes(LARGEST - 9000), id="claims"),
    pytest.param(
        messages.decode, b"\xdd\0\x01\xff\xff" * 900 + bytes(128 * 1024), id="claims in little"
    ),
    pytest.param(messages.decode, b"\xdf\0\x10\0\0" + b"\xa5abcde\x01" * MEGABYTE, id="one dict"),
    pytest.param(serializers.decode_json, json_list(5 * MEGABYTE, b"[]"), id="JSON lists"),
    pytest.param(serializers.decode_json, json_list(3 * MEGABYTE, b'"ab"'), id="JSON texts"),
    pytest.param(serializers.decode_json, json_list(8 * MEGABYTE, b"1"), id="JSON integers"),
]


def two_million_steps() -> float:
    """Seconds that a plain loop takes, as machines differ. Half a second is about five of them."""
    began = time.process_time()
    table, total = list(range(256)), 0
    for step in range(2_000_000):
        value = table[step & 255]
        if value:
            total += value
    return time.process_time() - began


@pytest.mark.parametrize(("decode", "body"), HOSTILE)
def test_hostile_bodies(decode: messages.Decode, body: bytes) -> None:
    """They are refused at little cost; texts and bytes once took three times what is allowed."""
    allowed = 4 * two_million_steps()
    began = time.process_time()
    with pytest.raises(TooHeavy, match="more small values"):
        decode(body)
    taken = time.process_time() - began
    allowed += 4 * two_million_steps()  # before and after it: a machine may change its pace
    assert taken < allowed


def test_memory_of_the_look() -> None:
    """It takes little, as it goes through JSON part by part."""
    body = json_list(200_000, b'"ab"')
    tracemalloc.start()
    try:
        weigh_json(body, 6_000_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


TAKEN: dict[str, tuple[messages.Decode, Callable[[int], bytes], int]] = {
    "lists": (messages.decode, lambda count: msgpack_list(count, b"\x91\x90"), 680_000),
    "dicts": (messages.decode, lambda count: msgpack_list(count, b"\x81\xa0\xc0"), 380_000),
    "JSON dicts": (serializers.decode_json, lambda count: json_list(count, b'{"":1}'), 300_000),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_is_just_taken(kind: str) -> None:
    """The costliest bodies that are decoded stay within the memory that a message may cost."""
    decode, make, count = TAKEN[kind]
    weigh = weigh_json if decode is serializers.decode_json else weigh_msgpack
    assert weigh(make(count), most_memory(0)) < most_memory(0)
    assert weigh(make(2 * count), most_memory(0)) > most_memory(0)
    body = make(count // 50)  # tracing takes long
    tracemalloc.start()
    try:
        decode(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak * 50 < MOST_MEMORY


def test_small_bodies_are_not_looked_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look costs as much as decoding, so it is for bodies that could do harm."""
    monkeypatch.setattr(messages, "weigh_msgpack", None)
    body = msgpack_list(SMALL // 2, b"\x90")
    assert len(messages.decode(body)[2]["d"]) == SMALL // 2


@pytest.mark.parametrize(
    ("encode", "count"), [(messages.encode, 1_600_000), (serializers.encode_json, 900_000)]
)
def test_the_sender_refuses_it_too(encode: messages.Encode, count: int) -> None:
    """What the receivers would drop raises MessageTooLarge, and the text says why."""
    with pytest.raises(MessageTooLarge, match="more small values than a process should decode"):
        encode(CHANNEL_KEY, NAME, {"d": [[]] * count}, LARGEST)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text()
    | st.binary(max_size=300),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=50,
)  # fmt: skip


@given(values)
@example(["x" * 31, "x" * 32, b"x" * 256, "x" * 70_000, [0] * 70_000, {"a": [None]}])
def test_it_reads_what_msgpack_writes(value: object) -> None:
    """The look goes from value to value as the decoder will, to the end and no further."""
    body: bytes = msgpack.packb(value)
    weight = weigh_msgpack(body, most_memory(0))
    assert 0 < weight < most_memory(0)
    # With one value more it weighs more: it had not stopped before the end.
    assert weigh_msgpack(body + b"\x90", most_memory(0)) > weight


@given(st.binary(), st.integers(0, 10_000))
def test_no_bytes_do_any_harm(body: bytes, most: int) -> None:
    """Whatever comes gives a number."""
    assert weigh_msgpack(body, most) >= 0
    assert weigh_json(body, most) >= 0


def test_json_texts_do_not_count() -> None:
    """Commas and brackets in a text are none of the JSON's own."""
    body = json.dumps(['\\",[{' * 100, {"a": 1}]).encode()
    plain = json.dumps(["", {"a": 1}]).encode()
    # Enough for the text as such, and not if what is in it counted.
    most = len(body) + 1000
    assert weigh_json(body, most) - len(body) == weigh_json(plain, most) - len(plain)


def test_garbage() -> None:
    """The collector is off while a large body is decoded, and as it was before after that."""
    assert gc.isenabled()
    with no_garbage():
        assert not gc.isenabled()
        with no_garbage():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_encrypted_bodies() -> None:
    """They are looked over once they are plain."""
    cipher = Cipher(["a"])
    body = cipher.decrypt(cipher.encrypt(msgpack_list(2_000_000, b"\x90")), 60)
    with pytest.raises(TooHeavy):
        messages.decode(body)
    assert sys.getsizeof([]) <= 64  # what all of the above reckons with
