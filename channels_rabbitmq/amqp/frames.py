"""Bytes <-> AMQP frames, without I/O.

The three frames of the hot path (``basic.publish`` with its content, ``basic.deliver`` with its
content, ``basic.ack``) are packed and unpacked by hand, and the methods packed that come by the
ten thousand (``queue.bind``, ``queue.unbind``); pamqp does all others.

Reference: AMQP 0-9-1 specification, section 4.2; RabbitMQ's ``amqp0-9-1.extended.xml``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

import pamqp.base
import pamqp.commands
import pamqp.encode
import pamqp.frame

from .errors import BadBytesFromServer

if TYPE_CHECKING:
    from pamqp.common import FieldTable

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

#: A frame is its payload and these: type, channel and size before it, the end octet after it.
FRAME_OVERHEAD = 8
_HEADER_SIZE = FRAME_OVERHEAD - 1

#: The least ``frame_max`` that a peer may ask for (specification, section 4.2.3).
FRAME_MIN_SIZE = 4096

_METHOD, _CONTENT_HEADER, _CONTENT_BODY, _HEARTBEAT = 1, 2, 3, 8
_KINDS = frozenset((_METHOD, _CONTENT_HEADER, _CONTENT_BODY, _HEARTBEAT))
_END = 0xCE
_BASIC = 60
_DELIVER = b"\x00\x3c\x00\x3c"
_ACK = b"\x00\x3c\x00\x50"
_PUBLISH = b"\x00\x3c\x00\x28\x00\x00"
_BIND = b"\x00\x32\x00\x14\x00\x00"
_UNBIND = b"\x00\x32\x00\x32\x00\x00"
_NO_ARGUMENTS = b"\x00\x00\x00\x00"
_START = b"\x00\x0a\x00\x0a"
_START_OK = b"\x00\x0a\x00\x0b"
_CONNECTION_CLOSE = b"\x00\x0a\x00\x32"
_CHANNEL_CLOSE = b"\x00\x14\x00\x28"

#: What a content header says of a message without properties.
NO_PROPERTIES = b"\x00\x00"

_frame_header = struct.Struct(">BHI")
_content_header = struct.Struct(">BHIHHQ")
_plain_content = struct.Struct(">BHIHHQHBBHI")
_tag_and_bit = struct.Struct(">QB")
_ack_frame = struct.Struct(">BHIIQBB")
_reply_code = struct.Struct(">H")
_two_ids = struct.Struct(">HH")
_start_fields = struct.Struct(">BBI")
_size = struct.Struct(">I")

#: The frames whose content belongs to them: content frames on their channel follow each.
_WITH_CONTENT = (pamqp.commands.Basic.Return, pamqp.commands.Basic.GetOk)

#: The ids of all methods that a server may send. The others are for servers to decode: their tables
#: cost time, and pamqp 3 decodes some broken ones for ever.
_SENT_BY_SERVERS = frozenset(
    method.index.to_bytes(4, "big")
    for method in (
        pamqp.commands.Connection.Start,
        pamqp.commands.Connection.Secure,
        pamqp.commands.Connection.Tune,
        pamqp.commands.Connection.OpenOk,
        pamqp.commands.Connection.Close,
        pamqp.commands.Connection.CloseOk,
        pamqp.commands.Connection.Blocked,
        pamqp.commands.Connection.Unblocked,
        pamqp.commands.Connection.UpdateSecretOk,
        pamqp.commands.Channel.OpenOk,
        pamqp.commands.Channel.Flow,
        pamqp.commands.Channel.FlowOk,
        pamqp.commands.Channel.Close,
        pamqp.commands.Channel.CloseOk,
        pamqp.commands.Exchange.DeclareOk,
        pamqp.commands.Exchange.DeleteOk,
        pamqp.commands.Exchange.BindOk,
        pamqp.commands.Exchange.UnbindOk,
        pamqp.commands.Queue.DeclareOk,
        pamqp.commands.Queue.BindOk,
        pamqp.commands.Queue.PurgeOk,
        pamqp.commands.Queue.DeleteOk,
        pamqp.commands.Queue.UnbindOk,
        pamqp.commands.Basic.QosOk,
        pamqp.commands.Basic.ConsumeOk,
        pamqp.commands.Basic.Cancel,
        pamqp.commands.Basic.CancelOk,
        pamqp.commands.Basic.Return,
        pamqp.commands.Basic.Deliver,
        pamqp.commands.Basic.GetOk,
        pamqp.commands.Basic.GetEmpty,
        pamqp.commands.Basic.Ack,
        pamqp.commands.Basic.Nack,
        pamqp.commands.Basic.RecoverOk,
        pamqp.commands.Confirm.SelectOk,
    )
)

#: What every method frame of pamqp is.
Method = pamqp.base.Frame


class FrameHandler(Protocol):
    """Who is told what the server sent. A method that raises ends :meth:`Decoder.feed`."""

    def handle_delivery(
        self, channel: int, delivery_tag: int, redelivered: bool, body: bytes
    ) -> None:
        """A whole ``basic.deliver`` arrived."""

    def body_limit(self, channel: int, method: Method | None) -> int:
        """Give the most bytes of a body to collect; ``method`` is None for a ``basic.deliver``."""

    def handle_oversized(self, channel: int, delivery_tag: int, size: int) -> None:
        """A whole ``basic.deliver`` went by whose body is larger than :meth:`body_limit` says."""

    def handle_confirm(self, channel: int, delivery_tag: int, multiple: bool) -> None:
        """A ``basic.ack`` of what we published arrived."""

    def handle_content(self, channel: int, method: Method, body: bytes) -> None:
        """Any other method that carries content (``basic.return``, ``basic.get-ok``) arrived."""

    def handle_method(self, channel: int, method: Method) -> None:
        """A method without content arrived."""


def encode_method(channel: int, method: Method) -> bytes:
    """The frame of one method, by pamqp."""
    return pamqp.frame.marshal(method, channel)


def encode_start_ok(properties: FieldTable, mechanism: str, response: bytes) -> bytes:
    """The frame of a ``connection.start-ok``; pamqp takes no response that is not text."""
    payload = b"%b%b%b%b%b%b" % (
        _START_OK,
        pamqp.encode.field_table(properties),
        pamqp.encode.short_string(mechanism),
        len(response).to_bytes(4, "big"),
        response,
        pamqp.encode.short_string("en_US"),
    )
    return b"%b%b\xce" % (_frame_header.pack(_METHOD, 0, len(payload)), payload)


def encode_publish(
    channel: int,
    exchange: bytes,
    routing_key: bytes,
    body: bytes,
    frame_max: int,
    mandatory: bool = False,
    properties: bytes = NO_PROPERTIES,
) -> bytes:
    """The frames of one ``basic.publish``: method, content header, content body.

    ``frame_max`` counts the eight bytes around a payload (specification, section 4.2.3).
    ``exchange`` and ``routing_key`` have at most 255 bytes, and the ``properties`` (flags, then
    values: section 4.2.6.1) fit into a frame; the caller has checked that.
    """
    size = len(body)
    method = b"%b%c%b%c%b%c" % (
        _PUBLISH,
        len(exchange),
        exchange,
        len(routing_key),
        routing_key,
        mandatory,
    )
    start = _frame_header.pack(_METHOD, channel, len(method))
    if properties is NO_PROPERTIES and 0 < size <= frame_max - FRAME_OVERHEAD:
        content = _plain_content.pack(
            _CONTENT_HEADER, channel, 14, _BASIC, 0, size, 0, _END, _CONTENT_BODY, channel, size
        )
        return b"%b%b\xce%b%b\xce" % (start, method, content, body)
    parts: list[bytes | memoryview] = [
        start,
        method,
        b"\xce",
        _content_header.pack(_CONTENT_HEADER, channel, 12 + len(properties), _BASIC, 0, size),
        properties,
        b"\xce",
    ]
    step = frame_max - FRAME_OVERHEAD
    view = memoryview(body)
    for at in range(0, size, step):
        part = view[at : at + step]
        parts += (_frame_header.pack(_CONTENT_BODY, channel, len(part)), part, b"\xce")
    return b"".join(parts)


def encode_ack(channel: int, delivery_tag: int, multiple: bool) -> bytes:
    """The frame of a ``basic.ack``."""
    return _ack_frame.pack(_METHOD, channel, 13, 0x003C0050, delivery_tag, multiple, _END)


def encode_bind(channel: int, queue: bytes, exchange: bytes, keys: Sequence[bytes]) -> bytes:
    """The frames that bind a queue for some routing keys; the last one alone is answered.

    A server does what one channel asks for in order, so that answer is for all of them. Names have
    at most 255 bytes; the caller has checked that.
    """
    start = b"%b%c%b%c%b" % (_BIND, len(queue), queue, len(exchange), exchange)
    frames = [_bind_frame(channel, start, key, b"\x01") for key in keys[:-1]]
    frames += [_bind_frame(channel, start, key, b"\x00") for key in keys[-1:]]
    return b"".join(frames)


def encode_unbind(channel: int, queue: bytes, exchange: bytes, keys: Sequence[bytes]) -> bytes:
    """The frames that unbind a queue for some routing keys; each of them is answered."""
    start = b"%b%c%b%c%b" % (_UNBIND, len(queue), queue, len(exchange), exchange)
    return b"".join(_bind_frame(channel, start, key, b"") for key in keys)


def _bind_frame(channel: int, start: bytes, key: bytes, no_wait: bytes) -> bytes:
    size = len(start) + 1 + len(key) + len(no_wait) + len(_NO_ARGUMENTS)
    return b"%b%b%c%b%b%b\xce" % (
        _frame_header.pack(_METHOD, channel, size),
        start,
        len(key),
        key,
        no_wait,
        _NO_ARGUMENTS,
    )


class _Content:
    """A message whose content frames are still arriving."""

    __slots__ = (
        "deliver",
        "delivery_tag",
        "method",
        "missing",
        "parts",
        "properties",
        "redelivered",
        "skipped",
    )

    def __init__(
        self, method: Method | None, delivery_tag: int, redelivered: bool, deliver: bytes = b""
    ) -> None:
        #: The method that opened it; None for a ``basic.deliver``.
        self.method = method
        self.delivery_tag = delivery_tag
        self.redelivered = redelivered
        #: The arguments of the ``basic.deliver``.
        self.deliver = deliver
        #: Flags and values of the content header.
        self.properties = b""
        #: Bytes still to come; -1 until the content header told the size.
        self.missing = -1
        #: The size of a body that is too large to be collected; 0 for one that is collected.
        self.skipped = 0
        self.parts: list[bytes] = []


class Decoder:
    """Splits what the socket gives into frames and hands them on.

    The bytes may be cut anywhere. Cost is linear in the bytes, whatever the cuts.
    """

    def __init__(self, handler: FrameHandler, frame_max: int = 131072) -> None:
        self._handler = handler
        #: The greatest whole frame that the server may send; set anew after ``connection.tune``.
        self.frame_max = frame_max
        #: The start of a frame that is not whole yet, in the pieces it came in.
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = 0
        #: Per channel, the message whose content is arriving.
        self._contents: dict[int, _Content] = {}
        #: The arguments of the ``basic.deliver`` that is handled, or was handled last.
        self._deliver = b""
        #: What its content header says of properties; empty for nothing.
        self._properties = b""

    def routing(self) -> tuple[str, str]:
        """The exchange and the routing key that the message being handled was published with.

        Few deliveries need it, so it is read from the frame when one does. Of a frame that is too
        short for them it gives what there is.
        """
        rest = self._deliver
        rest = rest[1 + int.from_bytes(rest[:1], "big") + 9 :]
        end = 1 + int.from_bytes(rest[:1], "big")
        exchange, rest = rest[1:end], rest[end:]
        key = rest[1 : 1 + int.from_bytes(rest[:1], "big")]
        return exchange.decode(errors="replace"), key.decode(errors="replace")

    def properties(self) -> bytes:
        """Flags and values of the properties of the message being handled; empty for none."""
        return self._properties

    def feed(self, data: bytes) -> None:
        """Handle every frame that is whole now.

        Raises :class:`.BadBytesFromServer` for bytes that are not AMQP; the connection
        must then be given up, because the frame boundaries are lost.
        """
        if self._pieces:
            self._pieces.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._pieces)
            self._pieces = []
        at = self._handle_frames(data)
        left = len(data) - at
        if left:
            self._pieces = [data[at:]]
            self._have = left
            if left < _HEADER_SIZE:
                self._need = _HEADER_SIZE
            else:
                self._need = _frame_header.unpack_from(data, at)[2] + FRAME_OVERHEAD

    def _handle_frames(self, data: bytes) -> int:
        """Handle all whole frames of ``data``; give the offset of what is left."""
        handler = self._handler
        contents = self._contents
        size_max = self.frame_max - FRAME_OVERHEAD
        end = len(data)
        at = 0
        while end - at >= _HEADER_SIZE:
            kind, channel, size = _frame_header.unpack_from(data, at)
            after = at + size + FRAME_OVERHEAD
            if after > end or size > size_max:
                self._require_frame(kind, size)
                break
            if data[after - 1] != _END:
                self._require_frame(kind, size)
                raise BadBytesFromServer("a frame does not end where its size says")
            if kind == _METHOD:
                method_id = data[at + 7 : at + 11]
                if method_id == _DELIVER:
                    if size < 15 or size < 14 + data[at + 11]:
                        raise BadBytesFromServer("a basic.deliver is too short")
                    delivery_tag, redelivered = _tag_and_bit.unpack_from(
                        data, at + 12 + data[at + 11]
                    )
                    # The whole message is mostly here: header frame, then one body frame.
                    if end - after >= 30:
                        kind2, channel2, size2, _, _, body_size = _content_header.unpack_from(
                            data, after
                        )
                        body_at = after + size2 + FRAME_OVERHEAD
                        if kind2 == _CONTENT_HEADER and channel2 == channel and body_at + 8 <= end:
                            kind3, channel3, size3 = _frame_header.unpack_from(data, body_at)
                            done = body_at + size3 + FRAME_OVERHEAD
                            if (
                                0 < size3 == body_size
                                and kind3 == _CONTENT_BODY
                                and channel3 == channel
                                and done <= end
                                and size3 <= size_max
                                and (size2 == 14 or 14 < size2 <= size_max)
                                and data[body_at - 1] == data[done - 1] == _END
                                and channel not in contents
                            ):
                                self._deliver = data[at + 11 : after - 1]
                                self._properties = (
                                    b"" if size2 == 14 else data[after + 19 : body_at - 1]
                                )
                                handler.handle_delivery(
                                    channel,
                                    delivery_tag,
                                    redelivered != 0,
                                    data[body_at + 7 : done - 1],
                                )
                                at = done
                                continue
                    deliver = data[at + 11 : after - 1]
                    self._open_content(
                        channel, _Content(None, delivery_tag, redelivered != 0, deliver)
                    )
                elif method_id == _ACK and size == 13:
                    delivery_tag, multiple = _tag_and_bit.unpack_from(data, at + 11)
                    handler.handle_confirm(channel, delivery_tag, multiple != 0)
                else:
                    self._handle_cold_method(channel, data[at:after])
            elif kind == _CONTENT_HEADER:
                self._handle_content_header(channel, data, at, size)
            elif kind == _CONTENT_BODY:
                self._handle_content_body(channel, data[at + 7 : after - 1])
            else:
                self._require_frame(kind, size)  # a heartbeat says nothing more
            at = after
        return at

    def _require_frame(self, kind: int, size: int) -> None:
        """Raise for what cannot be a frame, whole or not."""
        if kind not in _KINDS:
            raise BadBytesFromServer("a frame of an unknown type; is that an AMQP port?")
        if size + FRAME_OVERHEAD > self.frame_max:
            raise BadBytesFromServer("a frame is larger than was negotiated")

    def _handle_cold_method(self, channel: int, data: bytes) -> None:
        method_id = data[7:11]
        if method_id not in _SENT_BY_SERVERS:
            raise BadBytesFromServer("a method that no server sends")
        try:
            if method_id in (_CHANNEL_CLOSE, _CONNECTION_CLOSE):
                method = _decode_close(data)
            elif method_id == _START:
                method = _decode_start(data)
            else:
                # Of a method frame pamqp makes nothing else.
                method = cast("Method", pamqp.frame.unmarshal(data)[2])
        # pamqp lets whatever its decoding of hostile bytes raises escape.
        except Exception as err:
            raise BadBytesFromServer("a method that cannot be decoded") from err
        if isinstance(method, _WITH_CONTENT):
            self._open_content(channel, _Content(method, 0, False))
        else:
            self._handler.handle_method(channel, method)

    def _open_content(self, channel: int, content: _Content) -> None:
        if channel in self._contents:
            raise BadBytesFromServer("a message began before the one before it ended")
        self._contents[channel] = content

    def _handle_content_header(self, channel: int, data: bytes, at: int, size: int) -> None:
        content = self._contents.get(channel)
        if content is None or content.missing >= 0 or size < 14:
            raise BadBytesFromServer("a content header in the wrong place")
        body_size = content.missing = _content_header.unpack_from(data, at)[5]
        if content.method is None and size > 14:
            content.properties = data[at + 19 : at + _HEADER_SIZE + size]
        if body_size > self._handler.body_limit(channel, content.method):
            content.skipped = body_size
        if body_size == 0:
            self._finish_content(channel, content)

    def _handle_content_body(self, channel: int, part: bytes) -> None:
        content = self._contents.get(channel)
        if content is None or content.missing < len(part):
            raise BadBytesFromServer("a content body in the wrong place")
        if not content.skipped:
            content.parts.append(part)
        content.missing -= len(part)
        if content.missing == 0:
            self._finish_content(channel, content)

    def _finish_content(self, channel: int, content: _Content) -> None:
        del self._contents[channel]
        if content.skipped:
            if content.method is None:
                self._handler.handle_oversized(channel, content.delivery_tag, content.skipped)
            return
        body = content.parts[0] if len(content.parts) == 1 else b"".join(content.parts)
        if content.method is None:
            self._deliver = content.deliver
            self._properties = content.properties
            self._handler.handle_delivery(channel, content.delivery_tag, content.redelivered, body)
        else:
            self._handler.handle_content(channel, content.method, body)


def _decode_start(data: bytes) -> Method:
    """Decode a ``connection.start`` without its table, which nobody here reads.

    It comes before the server has shown who it is. A table can be legal and take a second, or be
    cut off so that pamqp 3 decodes it for ever; so it is skipped by its length.
    """
    major, minor, table_size = _start_fields.unpack_from(data, 11)
    mechanisms, locales_at = _long_string(data, 17 + table_size)
    locales, _ = _long_string(data, locales_at)
    return pamqp.commands.Connection.Start(major, minor, {}, mechanisms, locales)


def _long_string(data: bytes, at: int) -> tuple[str, int]:
    """Decode AMQP's "long string", with whatever bytes it has; give the offset after it too."""
    (size,) = _size.unpack_from(data, at)
    end = at + 4 + size
    if end >= len(data):  # the last byte is the frame's end
        raise ValueError("a string that is longer than its frame")
    return data[at + 4 : end].decode(errors="replace"), end


def _decode_close(data: bytes) -> Method:
    """A ``channel.close`` or ``connection.close``, with whatever bytes its text has.

    RabbitMQ cuts the text at 255 bytes, which may be amid a character.
    """
    (reply_code,) = _reply_code.unpack_from(data, 11)
    text_end = 14 + data[13]
    class_id, method_id = _two_ids.unpack_from(data, text_end)
    close = (
        pamqp.commands.Channel.Close
        if data[7:11] == _CHANNEL_CLOSE
        else pamqp.commands.Connection.Close
    )
    return close(reply_code, data[14:text_end].decode(errors="replace"), class_id, method_id)
