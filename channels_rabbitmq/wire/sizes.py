"""How much memory and time a body takes to decode, told without decoding it.

A byte on the wire may become an empty list of 64 bytes in memory. So large bodies are looked over
before they are decoded, and before they are sent: :func:`weigh_msgpack` and :func:`weigh_json`
estimate the memory, by the sizes of CPython's objects, and stop at :func:`most_memory`. Small ones
can do no harm.
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Callable, Iterator

#: A body of at most so many bytes is decoded without a look: it becomes 90 bytes for each at most.
SMALL = 512 * 1024
#: A body of at most so many bytes may even claim arrays as it likes.
TINY = 64 * 1024
#: Bytes of memory that a body of up to 16 MiB may become; with all copies of it that is 200 MB.
_MOST_MEMORY = 96_000_000
_USUAL_SIZE = 16 * 1024 * 1024
#: Memory of any value, the place in its list or dict included.
_VALUE = 48
#: What a list and a dict have besides.
_LIST, _DICT = 16, 136
#: Memory of an entry of a large dict, besides its key and its value.
_ENTRY = 64
#: What a text, or bytes, have besides: both have a header.
_STRING = 16
#: Memory of a one-byte value: those are there already, so it is the place in a list.
_PLACE = 8

#: Estimates the memory that a body becomes; gives up above the second argument.
Weigh = Callable[[bytes, int], int]


def most_memory(size: int) -> int:
    """How many bytes of memory a body of that size may become."""
    return _MOST_MEMORY + 4 * max(0, size - _USUAL_SIZE)


def is_heavy(body: bytes, weigh: Weigh) -> bool:
    """Whether to decode a body, of more than :data:`TINY` bytes, would cost too much."""
    # Fewer arrays of 32 bits than this claim little even if they claim what is not there.
    if len(body) <= SMALL and body.count(b"\xdd") < 64:
        return False
    most = most_memory(len(body))
    return weigh(body, most) > most


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Within it, nothing looks for garbage: there is none in what is being decoded.

    Python looks whenever many containers were made, and takes four times as long for them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# msgpack: https://github.com/msgpack/msgpack/blob/master/spec.md

#: Bytes of a value, by its first byte, if these are 2 to 32 and tell all of it; else 0.
_SIZES = [0] * 256
for _size in range(1, 32):
    _SIZES[0xA0 + _size] = 1 + _size
for _first, _size in (
    *((first, 2) for first in (0xCC, 0xD0)),
    *((first, 3) for first in (0xCD, 0xD1)),
    *((first, 5) for first in (0xCA, 0xCE, 0xD2)),
    *((first, 9) for first in (0xCB, 0xCF, 0xD3)),
):
    _SIZES[_first] = _size
#: Values of one byte: small integers, nil, booleans, and the empty text.
_ONE_BYTE = re.compile(rb"[\x00-\x7f\xa0\xc0\xc2\xc3\xe0-\xff]+")
#: First byte of a container with a length of its own -> bytes of the length.
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
#: First byte of text and of bytes -> bytes of the length.
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}


def weigh_msgpack(body: bytes, most: int) -> int:
    """Estimate the memory that a msgpack body becomes; stop above ``most``.

    Extension types are more than any: no message has them. A body that is cut off, or claims
    elements that are not there, is more as well where the claim is large.
    """
    sizes = _SIZES
    at, end, weight = 0, len(body), 0
    claimed = 0
    for values in range(most // _VALUE):
        if at >= end:
            return weight + values * _VALUE
        first = body[at]
        size = sizes[first]
        if size:
            at += size
            continue
        if 0x80 <= first <= 0x9F:
            at += 1
            weight += _DICT if first <= 0x8F else _LIST
            if weight + values * _VALUE > most:
                break
            continue
        if (first == 0xD9 or first == 0xC4) and at + 1 < end:
            length = body[at + 1]
            at += 2 + length
            weight += _STRING + (4 * length if first == 0xD9 else length)
            if weight + values * _VALUE > most:
                break
            continue
        one_byte = _ONE_BYTE.match(body, at)
        if one_byte is not None:
            weight += _PLACE * (one_byte.end() - at)
            at = one_byte.end()
            continue
        at += 1
        if first in _TEXTS:
            length = int.from_bytes(body[at : at + _TEXTS[first]], "big")
            at += _TEXTS[first] + length
            weight += 4 * length  # a single emoji makes it four bytes for each character
        elif first in _BYTES:
            length = int.from_bytes(body[at : at + _BYTES[first]], "big")
            at += _BYTES[first] + length
            weight += length
        elif first in _ARRAYS or first in _MAPS:
            width = _ARRAYS.get(first) or _MAPS[first]
            length = int.from_bytes(body[at : at + width], "big")
            at += width
            claimed += length
            weight += _LIST if first in _ARRAYS else _DICT + _ENTRY * length
            # Room for the elements of an array is taken before they are read.
            if claimed > end:
                return most + 1
        else:
            return most + 1
        if weight + values * _VALUE > most:
            break
    return most + 1


# JSON

_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
#: So many texts, with what is between them, are looked at together: that takes some memory too.
_PART = re.compile(rb"(?s:[^\"]*+%b){1,20000}+" % _TEXT.pattern)


def weigh_json(body: bytes, most: int) -> int:
    """Estimate the memory that JSON becomes; stop above ``most``."""
    # All of it is text for a moment, which one emoji makes four bytes for each character.
    weight = len(body) if body.isascii() else 4 * len(body)
    upper = weight + _count(body)
    if upper <= most:
        return upper  # even if every comma in a text were one of the JSON's own
    at = 0
    while weight <= most:
        part = _PART.match(body, at)
        if part is None:
            return weight + _count(body[at:])
        weight += _count(_TEXT.sub(b"", part[0]))
        at = part.end()
    return weight


def _count(text: bytes) -> int:
    lists, dicts = text.count(b"["), text.count(b"{")
    values = text.count(b",") + text.count(b":") + lists + dicts
    return values * _VALUE + lists * _LIST + dicts * _DICT
