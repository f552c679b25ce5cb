"""Messages <-> bytes on the wire, without I/O.

The body is one msgpack map: the message, and the key ``__asgi_channel__`` or ``__asgi_group__``
that says whom it is for. Version 4.0.1 writes and reads the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import msgpack
from channels.exceptions import MessageTooLarge

#: A message, as the Channel Layer Specification has it: nested str-keyed dicts, lists, str,
#: bytes, int (64 bits), float, bool and None.
Message = dict[str, object]

CHANNEL_KEY = "__asgi_channel__"
GROUP_KEY = "__asgi_group__"

_SCALARS = frozenset({str, bytes, int, float, bool, type(None)})

_packb = msgpack.packb
_unpackb = msgpack.unpackb


class BadMessage(ValueError):
    """Bytes from the network that are not a message of ours."""


#: A decoded body: CHANNEL_KEY or GROUP_KEY, the name of that channel or group, and the message.
#: (A plain tuple, because one is made for each receiver of each message.)
Envelope = tuple[str, str, Message]


def encode(kind: str, name: str, message: Mapping[str, object], max_size: int) -> bytes:
    """The body for one message.

    Raises :class:`TypeError` or :class:`ValueError` for a message that a receiver could not be
    given, and :class:`channels.exceptions.MessageTooLarge` above ``max_size`` bytes.
    """
    if not isinstance(message, dict):
        raise TypeError(f"a message must be a dict, not {type(message).__name__}")
    if CHANNEL_KEY in message or GROUP_KEY in message:
        raise ValueError(f"a message must not have the keys {CHANNEL_KEY} and {GROUP_KEY}")
    nested = False
    for key, value in message.items():
        if type(key) is not str and not isinstance(key, str):
            _refuse_key(key)
        if type(value) not in _SCALARS:
            nested = True
    try:
        body: bytes = _packb({**message, kind: name})
    except OverflowError:
        raise ValueError("a message has an int beyond 64 bits") from None
    except UnicodeEncodeError:
        raise ValueError("a message has text that is not valid Unicode") from None
    except TypeError as err:
        raise TypeError(f"a message has a value that cannot be sent: {_kind(err)}") from None
    except ValueError as err:
        raise ValueError(f"a message cannot be sent: {err}") from None
    if nested:
        _check_nested(body)
    if len(body) > max_size:
        raise MessageTooLarge(
            f"the message has {len(body)} bytes; max_message_size allows {max_size}"
        )
    return body


def decode(body: bytes) -> Envelope:
    """Read a body; raise :class:`BadMessage` if it is none of ours."""
    try:
        data = _unpackb(body)
    # msgpack raises many kinds, and hostile bytes find them all.
    except Exception as err:
        raise BadMessage(f"not msgpack ({type(err).__name__})") from None
    if type(data) is not dict:
        raise BadMessage("not a msgpack map")
    return open_envelope(data)


def open_envelope(data: dict[str, object]) -> Envelope:
    """Take the receiver's name out of a decoded map; raise :class:`BadMessage` without one."""
    group = data.pop(GROUP_KEY, None)
    channel = data.pop(CHANNEL_KEY, None)
    if type(group) is str and channel is None:
        return GROUP_KEY, group, data
    if type(channel) is str and group is None:
        return CHANNEL_KEY, channel, data
    raise BadMessage(f"neither {CHANNEL_KEY} nor {GROUP_KEY} names a receiver")


def is_flat(message: Message | None) -> bool:
    """Whether nothing in a decoded message can be changed, so that ``copy()`` makes it private."""
    return type(message) is dict and _SCALARS.issuperset(map(type, message.values()))


def _refuse_key(key: object) -> NoReturn:
    raise TypeError(f"the keys of a message must be str, not {type(key).__name__}")


def _kind(error: TypeError) -> str:
    """The kind of value that msgpack refused; its own text may quote the value."""
    text = str(error)
    start = text.find("'")
    end = text.find("'", start + 1)
    return text[start + 1 : end] if 0 <= start < end else "its type is not known to msgpack"


def _check_pairs(pairs: list[tuple[object, object]]) -> None:
    for key, _ in pairs:
        if type(key) is not str:
            _refuse_key(key)


def _refuse_ext(code: int, data: bytes) -> NoReturn:
    raise TypeError("a message has a value that cannot be sent: msgpack.ExtType")


def _check_nested(body: bytes) -> None:
    """Read the body back as a receiver will: its depth, and the keys at every level."""
    try:
        _unpackb(body, object_pairs_hook=_check_pairs, ext_hook=_refuse_ext, strict_map_key=False)
    except TypeError:
        raise
    except ValueError as err:
        raise ValueError(f"a message cannot be sent: {err or 'nested too deeply'}") from None
