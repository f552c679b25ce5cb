"""Bytes <-> frames: against pamqp, cut anywhere, and with bytes that are not AMQP."""

from __future__ import annotations

import itertools
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

import pamqp.base
import pamqp.body
import pamqp.commands
import pamqp.frame
import pamqp.header
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.amqp.frames import (
    FRAME_OVERHEAD,
    HEARTBEAT,
    PROTOCOL_HEADER,
    Decoder,
    Method,
    encode_ack,
    encode_bind,
    encode_method,
    encode_publish,
    encode_start_ok,
    encode_unbind,
)
from channels_rabbitmq.errors import BadBytesFromServer
from tests.helpers.scripted import content

if TYPE_CHECKING:
    from pamqp.common import FieldTable

Event = tuple[object, ...]


class Recorder:
    """Notes what a decoder hands on."""

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.events: list[Event] = []
        self.limit = limit

    def handle_delivery(
        self, channel: int, delivery_tag: int, redelivered: bool, body: bytes
    ) -> None:
        self.events.append(("delivery", channel, delivery_tag, redelivered, body))

    def body_limit(self, channel: int, method: Method | None) -> int:
        return self.limit

    def handle_oversized(self, channel: int, delivery_tag: int, size: int) -> None:
        self.events.append(("oversized", channel, delivery_tag, size))

    def handle_confirm(self, channel: int, delivery_tag: int, multiple: bool) -> None:
        self.events.append(("confirm", channel, delivery_tag, multiple))

    def handle_content(self, channel: int, method: Method, body: bytes) -> None:
        self.events.append(("content", channel, method.name, dict(method), body))

    def handle_method(self, channel: int, method: Method) -> None:
        self.events.append(("method", channel, method.name, dict(method)))


def decode(*pieces: bytes, frame_max: int = 131072) -> list[Event]:
    """What a decoder makes of the pieces."""
    recorder = Recorder()
    decoder = Decoder(recorder, frame_max)
    for piece in pieces:
        decoder.feed(piece)
    return recorder.events


def outcome(*pieces: bytes, frame_max: int = 131072) -> tuple[list[Event], bool]:
    """What a decoder makes of the pieces, and whether it refused them in the end."""
    recorder = Recorder()
    decoder = Decoder(recorder, frame_max)
    try:
        for piece in pieces:
            decoder.feed(piece)
    except BadBytesFromServer:
        return recorder.events, True
    return recorder.events, False


def frame(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    """Any frame at all."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def delivery(
    channel: int, tag: int, body: bytes, *, redelivered: bool = False, step: int = 131064
) -> bytes:
    """The frames of a message for a consumer."""
    method = pamqp.commands.Basic.Deliver("ctag", tag, redelivered, "groups", "room")
    return content(channel, method, body, step)


def read_frames(data: bytes) -> list[tuple[int, object]]:
    """Channel and frame of each frame in what we would send, by pamqp."""
    frames: list[tuple[int, object]] = []
    while data:
        size, channel, found = pamqp.frame.unmarshal(data)
        frames.append((channel, found))
        data = data[size:]
    return frames


def read_publish(data: bytes) -> tuple[pamqp.commands.Basic.Publish, bytes, list[int]]:
    """Method, body and sizes of the body frames of what we would send, by pamqp."""
    frames = [found for _, found in read_frames(data)]
    method, header = frames[:2]
    assert isinstance(method, pamqp.commands.Basic.Publish)
    assert isinstance(header, pamqp.header.ContentHeader)
    bodies = [cast("pamqp.body.ContentBody", found).value for found in frames[2:]]
    assert header.body_size == sum(map(len, bodies))
    return method, b"".join(bodies), [len(body) for body in bodies]


# Sending


@given(
    channel=st.integers(1, 65535),
    exchange=st.text(max_size=60),
    routing_key=st.text(max_size=60),
    body=st.binary(max_size=300),
    frame_max=st.integers(9, 200),
    mandatory=st.booleans(),
)
def test_publish_is_what_pamqp_reads(
    channel: int, exchange: str, routing_key: str, body: bytes, frame_max: int, mandatory: bool
) -> None:
    """A publish packed by hand says to pamqp what was meant, in frames of the size agreed on."""
    data = encode_publish(
        channel, exchange.encode(), routing_key.encode(), body, frame_max, mandatory
    )

    method, read, sizes = read_publish(data)
    assert (method.exchange, method.routing_key, method.mandatory, method.immediate) == (
        exchange,
        routing_key,
        mandatory,
        False,
    )
    assert read == body
    assert all(0 < size <= frame_max - FRAME_OVERHEAD for size in sizes)
    assert {number for number, _ in read_frames(data)} == {channel}


@pytest.mark.parametrize(
    ("over", "sizes"),
    [(-9, [4087]), (-8, [4088]), (-7, [4088, 1]), (0, [4088, 8]), (1, [4088, 9])],
)
def test_frame_max_counts_the_frame_around_the_payload(over: int, sizes: list[int]) -> None:
    """A body of frame_max - 8 bytes is one frame, and one more byte makes it two."""
    data = encode_publish(1, b"", b"q", bytes(4096 + over), 4096)

    assert read_publish(data)[2] == sizes


def test_empty_body_has_no_body_frame() -> None:
    """An empty message is a method and a content header."""
    assert read_publish(encode_publish(1, b"", b"q", b"", 4096))[1:] == (b"", [])


def test_publish_with_properties() -> None:
    """Properties travel in the content header."""
    properties = pamqp.commands.Basic.Properties(delivery_mode=2, headers={"a": 1})

    data = encode_publish(3, b"x", b"q", b"body", 4096, False, properties.marshal())

    header = read_frames(data)[1][1]
    assert isinstance(header, pamqp.header.ContentHeader)
    assert header.properties == properties
    assert read_publish(data)[1] == b"body"


@given(st.integers(0, 65535), st.integers(0, 2**63 - 1), st.booleans())
def test_ack_is_what_pamqp_packs(channel: int, tag: int, multiple: bool) -> None:
    """An ack packed by hand is pamqp's, byte by byte."""
    assert encode_ack(channel, tag, multiple) == pamqp.frame.marshal(
        pamqp.commands.Basic.Ack(tag, multiple), channel
    )


def test_start_ok_is_what_pamqp_packs() -> None:
    """A start-ok packed by hand is pamqp's, byte by byte."""
    properties: FieldTable = {"product": "p", "capabilities": {"basic.nack": True}}

    data = encode_start_ok(properties, "PLAIN", b"\0guest\0p\xc3\xa4ss")

    assert data == pamqp.frame.marshal(
        pamqp.commands.Connection.StartOk(properties, "PLAIN", "\0guest\0päss", "en_US"), 0
    )


# Receiving

METHODS: list[Method] = [
    pamqp.commands.Channel.OpenOk(),
    pamqp.commands.Channel.Close(404, "NOT_FOUND - no exchange 'x'", 60, 40),
    pamqp.commands.Channel.CloseOk(),
    pamqp.commands.Channel.Flow(False),
    pamqp.commands.Confirm.SelectOk(),
    pamqp.commands.Queue.DeclareOk("q", 3, 1),
    pamqp.commands.Basic.Nack(7, True, False),
    pamqp.commands.Basic.Cancel("ctag", True),
    pamqp.commands.Connection.Blocked("low on memory"),
    pamqp.commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0),
]


def frames_of_one_event() -> st.SearchStrategy[tuple[bytes, Event | None]]:
    """Whole frames, with what a decoder hands on for them."""
    channels = st.integers(1, 3)
    tags = st.integers(1, 2**63 - 1)
    bodies = st.binary(max_size=40)
    returned = pamqp.commands.Basic.Return(312, "NO_ROUTE", "x", "key")
    got = pamqp.commands.Basic.GetOk(1, False, "x", "key", 0)
    return st.one_of(
        st.builds(
            lambda channel, tag, body, redelivered, step: (
                delivery(channel, tag, body, redelivered=redelivered, step=step),
                ("delivery", channel, tag, redelivered, body),
            ),
            channels,
            tags,
            bodies,
            st.booleans(),
            st.sampled_from([1, 7, 1000]),
        ),
        st.builds(
            lambda channel, tag, multiple: (
                pamqp.frame.marshal(pamqp.commands.Basic.Ack(tag, multiple), channel),
                ("confirm", channel, tag, multiple),
            ),
            channels,
            st.integers(1, 2**63 - 1),
            st.booleans(),
        ),
        st.builds(
            lambda channel, method, body: (
                content(channel, method, body, 5),
                ("content", channel, method.name, dict(method), body),
            ),
            channels,
            st.sampled_from([returned, got]),
            bodies,
        ),
        st.builds(
            lambda channel, method: (
                pamqp.frame.marshal(method, channel),
                ("method", channel, method.name, dict(method)),
            ),
            channels,
            st.sampled_from(METHODS),
        ),
        st.just((HEARTBEAT, None)),
    )


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes, cut at places that may be the same or beyond the end."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(frames_of_one_event(), max_size=12), st.lists(st.integers(0, 10_000), max_size=30))
def test_cuts_change_nothing(parts: list[tuple[bytes, Event | None]], places: list[int]) -> None:
    """However the socket cuts a stream of frames, each is handed on once, whole and in order."""
    stream = b"".join(data for data, _ in parts)
    expected = [event for _, event in parts if event is not None]

    assert decode(stream) == expected
    assert decode(*cut(stream, places)) == expected


@given(st.lists(frames_of_one_event(), min_size=1, max_size=4))
def test_bytes_one_by_one(parts: list[tuple[bytes, Event | None]]) -> None:
    """A stream that comes byte by byte gives the same events."""
    stream = b"".join(data for data, _ in parts)

    assert decode(*(stream[at : at + 1] for at in range(len(stream)))) == decode(stream)


@given(st.lists(st.binary(max_size=60), max_size=8), st.integers(8, 300))
def test_arbitrary_bytes(pieces: list[bytes], frame_max: int) -> None:
    """Bytes that are anything at all raise BadBytesFromServer or nothing."""
    outcome(*pieces, frame_max=frame_max)


@given(st.integers(1, 3), st.integers(0, 3), st.binary(max_size=80))
def test_arbitrary_payloads(kind: int, channel: int, payload: bytes) -> None:
    """Whole frames with any payload raise BadBytesFromServer or nothing."""
    outcome(frame(kind, channel, payload))


@given(
    class_and_method=st.sampled_from(sorted(pamqp.commands.INDEX_MAPPING)),
    arguments=st.binary(max_size=60),
)
def test_arbitrary_arguments(class_and_method: int, arguments: bytes) -> None:
    """Every method that there is, with any arguments, raises BadBytesFromServer or nothing."""
    outcome(frame(1, 1, struct.pack(">I", class_and_method) + arguments))


@given(
    st.lists(frames_of_one_event(), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.lists(st.integers(0, 10_000), max_size=10),
)
def test_damaged_frames_are_judged_alike_however_cut(
    parts: list[tuple[bytes, Event | None]], damage: list[tuple[int, int]], places: list[int]
) -> None:
    """A damaged stream gives the same events and the same verdict for every way of cutting it."""
    stream = bytearray(b"".join(data for data, _ in parts))
    for place, value in damage:
        stream[place % len(stream)] = value

    assert outcome(bytes(stream), frame_max=200) == outcome(
        *cut(bytes(stream), places), frame_max=200
    )


def starts(data: bytes) -> Iterator[int]:
    """Where each frame begins."""
    at = 0
    while at < len(data):
        yield at
        at += FRAME_OVERHEAD + int.from_bytes(data[at + 3 : at + 7], "big")


def test_messages_of_two_channels_may_interleave() -> None:
    """Content frames belong to the message of their own channel."""
    first, second = delivery(1, 1, b"ab", step=1), delivery(2, 1, b"cd", step=1)
    lengths = [
        FRAME_OVERHEAD + int.from_bytes(first[at + 3 : at + 7], "big") for at in starts(first)
    ]
    mixed = b""
    at = 0
    for length in lengths:
        mixed += first[at : at + length] + second[at : at + length]
        at += length

    assert decode(mixed) == [
        ("delivery", 1, 1, False, b"ab"),
        ("delivery", 2, 1, False, b"cd"),
    ]


def test_message_with_properties() -> None:
    """Another client's message with properties is read like any other."""
    properties = pamqp.commands.Basic.Properties(headers={"key": "value"}, delivery_mode=2)
    method = pamqp.commands.Basic.Deliver("ctag", 1, False, "", "q")
    data = b"".join(
        pamqp.frame.marshal(part, 1)
        for part in (
            method,
            pamqp.header.ContentHeader(0, 4, properties),
            pamqp.body.ContentBody(b"body"),
        )
    )

    assert decode(data) == [("delivery", 1, 1, False, b"body")]


def deliver_method() -> bytes:
    """A ``basic.deliver`` for the channel 1."""
    return pamqp.frame.marshal(pamqp.commands.Basic.Deliver("ctag", 1, False, "", "q"), 1)


def header(body_size: int) -> bytes:
    """A content header that announces that many bytes."""
    return pamqp.frame.marshal(pamqp.header.ContentHeader(body_size=body_size), 1)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: b"HTTP/1.1 400 Bad Request\r\n\r\n", "unknown type; is that an AMQP port"),
        (lambda: PROTOCOL_HEADER, "unknown type"),
        (lambda: b"\x15\x03\x01\x00\x02\x02\x46", "unknown type"),
        (lambda: frame(4, 0, b""), "unknown type"),
        (lambda: frame(8, 0, b"", b"\xcf"), "does not end"),
        (lambda: struct.pack(">BHI", 1, 0, 131065), "larger than was negotiated"),
        (lambda: frame(3, 0, bytes(131065)), "larger than was negotiated"),
        (lambda: frame(1, 1, b"\x00\x3c\x00\x3c\x00"), "deliver is too short"),
        (lambda: frame(1, 1, b"\x00\x3c\x00\x3c\xff" + bytes(60)), "deliver is too short"),
        (lambda: frame(1, 1, b"\x00\x01\x00\x01"), "no server sends"),
        (lambda: frame(1, 1, b"\x00"), "no server sends"),
        (lambda: frame(1, 0, b"\x00\x0a\x00\x1e\x00"), "cannot be decoded"),
        (lambda: start_method(b"", table_size=2**31), "cannot be decoded"),
        (lambda: start_method(b"", text_size=2**31), "cannot be decoded"),
        (lambda: frame(1, 1, b"\x00\x14\x00\x28\x01\x94\xffshort"), "cannot be decoded"),
        (lambda: header(1), "header in the wrong place"),
        (lambda: deliver_method() + header(1) + header(1), "header in the wrong place"),
        (lambda: deliver_method() + frame(2, 1, bytes(13)), "header in the wrong place"),
        (lambda: deliver_method() + deliver_method(), "began before"),
        (lambda: deliver_method() + frame(3, 1, b"x"), "body in the wrong place"),
        (lambda: deliver_method() + header(1) + frame(3, 1, b"xy"), "body in the wrong place"),
        (lambda: frame(3, 1, b"x"), "body in the wrong place"),
    ],
)
def test_bytes_that_are_not_amqp(make: Callable[[], bytes], complaint: str) -> None:
    """What is wrong with bad bytes is said, without the bytes."""
    with pytest.raises(BadBytesFromServer, match=complaint):
        decode(make())


def test_unknown_type_is_refused_before_the_frame_is_whole() -> None:
    """A server of another kind is found out by its first bytes, not after a frame's worth."""
    with pytest.raises(BadBytesFromServer, match="unknown type"):
        decode(b"SSH-2.0-Op")


def test_frame_max_can_change() -> None:
    """A frame of the size that was negotiated passes, and one byte more does not."""
    decoder = Decoder(Recorder())
    decoder.frame_max = 4096
    decoder.feed(deliver_method() + header(10_000))
    decoder.feed(frame(3, 1, bytes(4088)))

    with pytest.raises(BadBytesFromServer, match="larger"):
        decoder.feed(frame(3, 1, bytes(4089)))


#: Field values that pamqp 3 decodes for ever, or for long: an array that was cut off, an array of
#: that, and a legal table that fills a frame.
TRUNCATED_ARRAY = b"\x01aA\x00\x00\x00\xff"
NESTED_ARRAY = b"\x01aA\x00\x00\x00\x05A\x00\x00\x00\xff"
MANY_FIELDS = b"\x01aV" * 43_000


def start_method(table: bytes, table_size: int | None = None, text_size: int = 5) -> bytes:
    """A ``connection.start`` with any bytes as its table."""
    size = struct.pack(">I", len(table) if table_size is None else table_size)
    texts = struct.pack(">I", text_size) + b"PLAIN" + struct.pack(">I", 5) + b"en_US"
    return frame(1, 0, b"\x00\x0a\x00\x0a\x00\x09" + size + table + texts)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("table", [b"", TRUNCATED_ARRAY, NESTED_ARRAY, MANY_FIELDS])
def test_table_of_connection_start_is_skipped(table: bytes) -> None:
    """The server's properties cost nothing, whatever they are; what comes after them is read."""
    started = time.perf_counter()
    ((_, channel, name, values),) = decode(start_method(table))

    assert (channel, name) == (0, "Connection.Start")
    assert values["mechanisms"] == "PLAIN"
    assert values["locales"] == "en_US"
    assert time.perf_counter() - started < 1


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "method",
    [
        pamqp.commands.Connection.StartOk,
        pamqp.commands.Exchange.Declare,
        pamqp.commands.Queue.Bind,
        pamqp.commands.Basic.Consume,
        pamqp.commands.Basic.Publish,
    ],
)
def test_methods_of_clients_are_refused(method: type[Method]) -> None:
    """A method that only clients send is refused before any of it is decoded."""
    payload = method.index.to_bytes(4, "big") + bytes(3) + TRUNCATED_ARRAY

    with pytest.raises(BadBytesFromServer, match="a method that no server sends"):
        decode(frame(1, 0, payload))


@pytest.mark.parametrize("closing", [pamqp.commands.Channel.Close, pamqp.commands.Connection.Close])
def test_reply_text_that_was_cut_amid_a_character(
    closing: type[pamqp.commands.Channel.Close] | type[pamqp.commands.Connection.Close],
) -> None:
    """RabbitMQ cuts long reply texts at a byte, and the frame is still understood."""
    text = ("é" * 130).encode()[:255]
    start = encode_method(1, closing(404, "", 60, 40))[7:11]
    payload = start + struct.pack(">HB", 404, len(text)) + text + struct.pack(">HH", 60, 40)

    ((_, channel, name, values),) = decode(frame(1, 1, payload))

    assert (channel, name) == (1, closing.name)
    assert values == {
        "reply_code": 404,
        "reply_text": "é" * 127 + "\ufffd",
        "class_id": 60,
        "method_id": 40,
    }


def test_error_of_a_handler_is_its_own() -> None:
    """What a handler raises passes through, so that bugs are not taken for bad bytes."""

    class Failing(Recorder):
        def handle_confirm(self, channel: int, delivery_tag: int, multiple: bool) -> None:
            raise LookupError

    with pytest.raises(LookupError):
        Decoder(Failing()).feed(encode_ack(1, 1, False))


def test_large_message_in_many_small_reads() -> None:
    """A message of five megabytes that comes in pieces of a kilobyte is put together."""
    body = bytes(range(256)) * 20_000
    stream = delivery(1, 1, body)
    pieces = [stream[at : at + 1000] for at in range(0, len(stream), 1000)]

    assert decode(*pieces) == [("delivery", 1, 1, False, body)]


# Size first


def test_oversized_body_is_not_collected() -> None:
    """A body whose header announces more than the limit costs no memory, and what follows comes."""
    recorder = Recorder(limit=1_000_000)
    decoder = Decoder(recorder)
    part = frame(3, 1, bytes(100_000))
    deliver = encode_method(1, pamqp.commands.Basic.Deliver("c", 1, False, "", "q"))
    decoder.feed(deliver + frame(2, 1, struct.pack(">HHQH", 60, 0, 50_000_000, 0)))
    tracemalloc.start()
    try:
        for _ in range(500):
            decoder.feed(part)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    decoder.feed(delivery(1, 2, b"small"))
    assert recorder.events == [
        ("oversized", 1, 1, 50_000_000),
        ("delivery", 1, 2, False, b"small"),
    ]


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 100))
def test_limit_of_bodies(size: int, limit: int, step: int) -> None:
    """However a body is cut, it is collected exactly if it is not larger than the limit.

    (One that came whole, with its header, is handed on: :class:`.Channel` looks at its size.)
    """
    recorder = Recorder(limit)
    decoder = Decoder(recorder)
    for byte in delivery(1, 1, bytes(size), step=step):
        decoder.feed(bytes((byte,)))
    if size <= limit:
        assert recorder.events == [("delivery", 1, 1, False, bytes(size))]
    else:
        assert recorder.events == [("oversized", 1, 1, size)]


def test_oversized_return_is_passed_over() -> None:
    """A message that comes back, and is larger than any that was sent, is nobody's."""
    recorder = Recorder(limit=10)
    decoder = Decoder(recorder)
    returned = pamqp.commands.Basic.Return(312, "NO_ROUTE", "", "q")
    decoder.feed(content(1, returned, bytes(11)) + content(1, returned, bytes(10)))
    assert [event[4] for event in recorder.events] == [bytes(10)]


# Routing


@pytest.mark.parametrize("size", [10, 0])
@pytest.mark.parametrize("cut", [None, 1, 30])
def test_routing(size: int, cut: int | None) -> None:
    """While a message is handled, the decoder tells what it was published with."""
    told: list[tuple[str, str]] = []

    class Asker(Recorder):
        def handle_delivery(self, *args: object) -> None:
            told.append(decoder.routing())

    decoder = Decoder(Asker(), 4096)
    expected = []
    for tag, (exchange, key) in enumerate([("groups", "room"), ("", "q"), ("x" * 127, "y" * 255)]):
        deliver = pamqp.commands.Basic.Deliver("tag" * tag, tag + 1, False, exchange, key)
        data = content(1, deliver, b"x" * size)
        for at in range(0, len(data), cut or len(data)):
            decoder.feed(data[at : at + (cut or len(data))])
        expected.append((exchange, key))
    assert told == expected


@given(st.binary(max_size=20))
def test_routing_of_nonsense(arguments: bytes) -> None:
    """A basic.deliver that is too short has nothing to tell, and breaks nothing."""
    decoder = Decoder(Recorder())
    decoder._deliver = arguments
    exchange, key = decoder.routing()
    assert len(exchange) + len(key) <= len(arguments)


def test_unknown_frame_is_refused_at_its_header() -> None:
    """A frame of an unknown type is refused with its seventh byte, however that comes."""
    start = b"\x05\x00\x00\x00\x00\x00\x24"
    for cut in range(1, 7):
        assert outcome(start[:cut], start[cut:]) == ([], True)


@given(
    st.lists(st.text("abc_.!:-é€ ", max_size=60), min_size=1, max_size=5),
    st.text("abc_.:-", min_size=1, max_size=60),
    st.integers(1, 65535),
)
def test_bindings_by_hand(keys: list[str], queue: str, channel: int) -> None:
    """They are what pamqp makes of them; only the last bind is answered."""
    names = [key.encode() for key in keys]
    binds = encode_bind(channel, queue.encode(), b"groups", names)
    assert binds == b"".join(
        encode_method(
            channel,
            pamqp.commands.Queue.Bind(
                queue=queue, exchange="groups", routing_key=key, nowait=number < len(keys)
            ),
        )
        for number, key in enumerate(keys, 1)
    )
    assert encode_unbind(channel, queue.encode(), b"groups", names) == b"".join(
        encode_method(
            channel, pamqp.commands.Queue.Unbind(queue=queue, exchange="groups", routing_key=key)
        )
        for key in keys
    )
