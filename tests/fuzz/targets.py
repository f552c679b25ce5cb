"""What is fuzzed: each target takes any bytes, and raises if they did what none may do."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgpack
import pamqp.commands
import pamqp.frame
from channels.exceptions import MessageTooLarge

from channels_rabbitmq.amqp.channel import Channel
from channels_rabbitmq.amqp.endpoint import Endpoint
from channels_rabbitmq.amqp.frames import HEARTBEAT, Decoder, Method
from channels_rabbitmq.amqp.protocol import Protocol
from channels_rabbitmq.config.url import InvalidUrl, parse
from channels_rabbitmq.errors import AmqpError, BadBytesFromServer
from channels_rabbitmq.wire import messages, serializers
from tests.helpers.scripted import content

Basic = pamqp.commands.Basic
Connection = pamqp.commands.Connection

FRAME_MAX = 4096
#: The most bytes of a body that the consumer takes.
MAX_BODY = 300


def frames(channel: int, *methods: Method) -> bytes:
    """The frames of methods without content."""
    return b"".join(pamqp.frame.marshal(method, channel) for method in methods)


HANDSHAKE = (
    frames(0, Connection.Start(0, 9, {"product": "RabbitMQ"}, "PLAIN", "en_US")),
    frames(0, Connection.Tune(8, FRAME_MAX, 0)),
    frames(0, Connection.OpenOk()),
)

#: What a server may send, to begin with.
SESSION = (
    HEARTBEAT,
    frames(1, pamqp.commands.Channel.OpenOk(), pamqp.commands.Confirm.SelectOk()),
    frames(2, pamqp.commands.Channel.OpenOk(), Basic.ConsumeOk("c")),
    frames(1, Basic.Ack(1), Basic.Ack(3, True), Basic.Nack(4, True)),
    content(2, Basic.Deliver("c", 1, False, "groups", "room"), b"body"),
    content(2, Basic.Deliver("c", 1, True, "", "q"), bytes(MAX_BODY + 1), 100),
    content(1, Basic.Return(312, "NO_ROUTE", "", "q"), b"x"),
    frames(0, Connection.Blocked("low"), Connection.Unblocked()),
    frames(1, pamqp.commands.Channel.Flow(False)),
    frames(1, pamqp.commands.Channel.Close(404, "NOT_FOUND", 60, 40)),
    frames(2, Basic.Cancel("c", True), pamqp.commands.Channel.CloseOk()),
    frames(1, pamqp.commands.Queue.DeclareOk("q", 1, 1), Basic.QosOk()),
    frames(0, Connection.Close(320, "CONNECTION_FORCED", 0, 0)),
    frames(0, Connection.CloseOk()),
)


def _cut(data: bytes, step: int) -> Iterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise RuntimeError(text)


class _Events:
    """Notes what a decoder hands on."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def handle_delivery(
        self, channel: int, delivery_tag: int, redelivered: bool, body: bytes
    ) -> None:
        # As Channel does: one that came whole is handed on whatever its size is.
        if len(body) > MAX_BODY:
            self.handle_oversized(channel, delivery_tag, len(body))
        else:
            self.events.append(("delivery", channel, delivery_tag, redelivered, body))

    def handle_confirm(self, channel: int, delivery_tag: int, multiple: bool) -> None:
        self.events.append(("confirm", channel, delivery_tag, multiple))

    def body_limit(self, channel: int, method: Method | None) -> int:
        return MAX_BODY

    def handle_oversized(self, channel: int, delivery_tag: int, size: int) -> None:
        self.events.append(("oversized", channel, delivery_tag, size))

    def handle_content(self, channel: int, method: Method, body: bytes) -> None:
        self.events.append(("content", channel, method.name, str(dict(method)), body))

    def handle_method(self, channel: int, method: Method) -> None:
        self.events.append(("method", channel, method.name, str(dict(method))))


def _decode(pieces: Iterable[bytes]) -> tuple[list[tuple[object, ...]], bool]:
    handler = _Events()
    decoder = Decoder(handler, FRAME_MAX)
    try:
        for piece in pieces:
            decoder.feed(piece)
            held = decoder._have + sum(
                len(part) for open_one in decoder._contents.values() for part in open_one.parts
            )
            _require(held <= 2 * FRAME_MAX + len(decoder._contents) * MAX_BODY, "too much is held")
    except BadBytesFromServer:
        return handler.events, True
    return handler.events, False


def decoder(data: bytes) -> None:
    """Frames are the same however they are cut, or refused; nothing else is raised."""
    step = 1 + data[0] % 50 if data else 1
    whole = _decode([data[1:]] if len(data) <= FRAME_MAX else _cut(data[1:], FRAME_MAX))
    _require(whole == _decode(_cut(data[1:], step)), "cuts change what is decoded")


_loop: asyncio.AbstractEventLoop | None = None


class _Transport(asyncio.Transport):
    """Takes everything, and tells the protocol when it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    abort = close


def protocol(data: bytes) -> None:
    """Whatever a server sends, at any time, nothing is raised and nothing waits for ever."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
    loop = _loop
    endpoint = Endpoint("h", 5672, "guest", "guest", "/", None, None, 0, 5.0)
    made = Protocol(endpoint, loop)
    transport = _Transport()
    made.connection_made(transport)
    futures: list[asyncio.Future[Any]] = []
    # Low bits: how far the handshake is; high bits: how the rest is cut.
    first = data[0] if data else 0
    for step in HANDSHAKE[: min(first & 7, 3)]:
        made.data_received(step)
    if made.open:
        publisher = made.open_channel(confirm=True)
        made.open_channel(on_delivery=_take, max_body=MAX_BODY, on_oversized=_pass_over)
        futures += (publisher.publish("", "q", b"x" * n, mandatory=n > 2) for n in range(5))
        futures.append(publisher.call(pamqp.commands.Queue.Declare(queue="q")))
    for piece in _cut(data[1:], 1 + (first >> 3) * 7):
        if transport.closed:
            break
        made.data_received(piece)
    _run(loop)
    _require(isinstance(made.error, (AmqpError, ConnectionError, type(None))), repr(made.error))
    made.abort()
    made.connection_lost(None)
    _run(loop)
    for future in (*futures, made.closed, made.opened):
        _require(future.done() or future is made.opened, "something waits for ever")
        if future.done():
            error = future.exception()
            _require(isinstance(error, (AmqpError, ConnectionError, type(None))), repr(error))


def _take(channel: Channel, delivery_tag: int, redelivered: bool, body: bytes) -> None:
    _require(len(body) <= MAX_BODY, "a body is larger than the limit")
    channel.ack(delivery_tag)


def _pass_over(channel: Channel, delivery_tag: int, size: int) -> None:
    _require(size > MAX_BODY, "a body is no larger than the limit")
    channel.ack(delivery_tag)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop do what is due."""
    for _ in range(2):
        loop.call_soon(loop.stop)
        loop.run_forever()


#: Each serializer: how it decodes and encodes.
_CODECS = (
    (messages.decode, messages.encode),
    (serializers.decode_json, serializers.encode_json),
)


def message(data: bytes) -> None:
    """A body is a message, which can be sent on as it is, or :class:`.BadMessage`."""
    for decode, encode in _CODECS:
        try:
            kind, name, content = decode(data)
        except messages.BadMessage as err:
            _require(str(err).isprintable(), "the reason can forge lines of a log")
            continue
        try:
            body = encode(kind, name, content, len(data) + 1000)
        except (TypeError, ValueError, MessageTooLarge):
            continue  # others may send what we would not
        _require(repr(decode(body)) == repr((kind, name, content)), "it changed on the way")


def url(data: bytes) -> None:
    """A URL makes an endpoint that can be connected to, or :class:`.InvalidUrl`."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        endpoint, _ = parse(text)
    except InvalidUrl as err:
        _require(str(err).isprintable(), "the reason can forge lines of a log")
        return
    _require(0 < endpoint.port < 65536, "a port that is none")
    _require(bool(endpoint.host) and endpoint.host.isprintable(), "a host that is none")
    _require(endpoint.connect_timeout > 0 and endpoint.heartbeat >= 0, "a time that is none")
    for value in (endpoint.username, endpoint.password, endpoint.virtual_host):
        value.encode()  # it will have to
    _require("\n" not in repr(endpoint) and "\n" not in str(endpoint), "a forged line")


#: The targets by name, each with inputs to begin with.
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "decoder": (decoder, [b"\x05" + part for part in (*HANDSHAKE, *SESSION)]),
    "protocol": (
        protocol,
        [bytes((n,)) + part for n, part in enumerate(HANDSHAKE)]
        + [b"\xff" + part for part in SESSION]
        + [b"\x0b" + one + two for one, two in itertools.pairwise(SESSION)],
    ),
    "message": (
        message,
        [
            msgpack.packb({"type": "a", "n": [1, {"b": None}], "__asgi_group__": "room"}),
            msgpack.packb({"x": b"1", "f": 0.5, "__asgi_channel__": "q!a"}),
            b'{"type":"a","b":{"__asgi_bytes__":"AQI="},"__asgi_group__":"room"}',
        ],
    ),
    "url": (
        url,
        [
            b"amqp://guest:guest@127.0.0.1",
            b"amqps://user:p%40ss@[::1]:5671/my%2Fvhost?heartbeat=20&connection_timeout=100",
            b"amqp://h/?auth_mechanism=plain&auth_mechanism=external&channel_max=64",
            b"amqps://h?verify=verify_none&server_name_indication=a.b&cacertfile=/a%20b",
        ],
    ),
}
