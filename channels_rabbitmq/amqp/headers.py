"""Text headers of a message <-> bytes of its properties, without I/O.

Anybody who may publish writes them, so what is not needed is skipped by its length, and what is cut
off ends the reading. Reference: AMQP 0-9-1 specification, sections 4.2.5.5 and 4.2.6.1, with
RabbitMQ's types of fields: https://www.rabbitmq.com/amqp-0-9-1-errata#section_3.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["PropertiesBody", "encode_headers", "read_headers"]

#: The first three properties: two short strings, then the table of headers.
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 0x8000, 0x4000, 0x2000

_LONG_STRING = ord("S")
#: Bytes of the values of each type that has a fixed size.
_SIZES = {
    ord(kind): size
    for kinds, size in (("tbB", 1), ("sUu", 2), ("fiI", 4), ("D", 5), ("lLdT", 8), ("V", 0))
    for kind in kinds
}
#: The types whose values begin with their length: strings, bytes, arrays and tables.
_WITH_LENGTH = frozenset(b"SxAF")

#: Most headers that are read, and most bytes that are written.
_MOST_READ = 64
_MOST_WRITTEN = 2048


class PropertiesBody(bytes):
    """The body of a message that travels with properties: flags, then values."""

    properties: bytes


def encode_headers(headers: Mapping[str, str]) -> bytes | None:
    """Give the properties of a message that has only these headers; None if they are too long."""
    table = b"".join(
        b"%c%b%c%b%b" % (len(key), key, _LONG_STRING, len(value).to_bytes(4, "big"), value)
        for key, value in ((name.encode(), text.encode()) for name, text in headers.items())
        if 0 < len(key) <= 128
    )
    if not table or len(table) > _MOST_WRITTEN:
        return None
    return b"%b%b%b" % (_HEADERS.to_bytes(2, "big"), len(table).to_bytes(4, "big"), table)


def read_headers(properties: bytes) -> dict[str, str]:
    """Read the headers that are text, out of properties of whatever bytes."""
    flags = int.from_bytes(properties[:2], "big")
    at = 2
    if not flags & _HEADERS or flags & 1:  # more flags would follow; nobody sends that
        return {}
    for flag in (_CONTENT_TYPE, _CONTENT_ENCODING):
        if flags & flag:
            at += 1 + int.from_bytes(properties[at : at + 1], "big")
    end = at + 4 + int.from_bytes(properties[at : at + 4], "big")
    at += 4
    found: dict[str, str] = {}
    end = min(end, len(properties))
    for _ in range(_MOST_READ):
        key_end = at + 1 + int.from_bytes(properties[at : at + 1], "big")
        if key_end >= end:
            break
        key, kind, at = properties[at + 1 : key_end], properties[key_end], key_end + 1
        if kind in _WITH_LENGTH:
            size = int.from_bytes(properties[at : at + 4], "big")
            at += 4
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            break
        if at + size > end:
            break
        if kind == _LONG_STRING:
            text = properties[at : at + size].decode(errors="replace")
            found[key.decode(errors="replace")] = text
        at += size
    return found
