"""Messages <-> bytes on the wire, without I/O.

The body is one map: the message, and the key ``__asgi_channel__`` or ``__asgi_group__`` that says
whom it is for. :func:`encode` and :func:`decode` write and read it as msgpack, as version 4.0.1
does; :func:`encoder` and :func:`decoder` make the same of any other serializer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgpack
from channels.exceptions import MessageTooLarge

from ..errors import RabbitmqError
from .sizes import TINY, Weigh, is_heavy, no_garbage, weigh_msgpack

#: A message, as the Channel Layer Specification has it: nested str-keyed dicts, lists, str,
#: bytes, int (64 bits), float, bool and None.
Message = dict[str, Any]

#: A decoded body: CHANNEL_KEY or GROUP_KEY, the name of that channel or group, and the message.
#: (A plain tuple, because one is made for each receiver of each message.)
Envelope = tuple[str, str, Message]

#: CHANNEL_KEY or GROUP_KEY, the name, the message, and the most bytes of a body -> the body.
#: Raises TypeError or ValueError for a message that cannot be sent, and MessageTooLarge.
Encode = Callable[[str, str, Mapping[str, Any], int], bytes]

#: A body -> what is in it. Raises BadMessage if that is no message of ours.
Decode = Callable[[bytes], Envelope]

CHANNEL_KEY = "__asgi_channel__"
GROUP_KEY = "__asgi_group__"

_SCALARS = frozenset({str, bytes, int, float, bool, type(None)})

_packb = msgpack.packb
_unpackb = msgpack.unpackb


#: What is wrong with a body that is_heavy().
_HEAVY = "has more small values than a process should decode at once"


class BadMessage(RabbitmqError, ValueError):
    """Bytes from the network that are not a message of ours."""


class TooHeavy(BadMessage):
    """A body that would take too much memory and time to decode."""


def encoder(serialize: Callable[[Message], bytes]) -> Encode:
    """Make the function that encodes with ``serialize``, and checks what all serializers share."""

    def encode(kind: str, name: str, message: Mapping[str, Any], max_size: int) -> bytes:
        if type(message) is not dict and not isinstance(message, Mapping):
            raise TypeError(f"a message must be a dict, not {type(message).__name__}")
        if CHANNEL_KEY in message or GROUP_KEY in message:
            raise ValueError(f"a message must not have the keys {CHANNEL_KEY} and {GROUP_KEY}")
        body = serialize({**message, kind: name})
        if len(body) > max_size:
            raise MessageTooLarge(
                f"the message has {len(body)} bytes; max_message_size allows {max_size}"
            )
        return body

    return encode


def refuse_heavy(body: bytes, weigh: Weigh) -> None:
    """Raise :class:`MessageTooLarge` for a body that its receivers would refuse to decode."""
    if is_heavy(body, weigh):
        raise MessageTooLarge(f"the message has {len(body)} bytes, and {_HEAVY}")


def decoder(
    deserialize: Callable[[bytes], object], problem: str, weigh: Weigh | None = None
) -> Decode:
    """Make the function that decodes with ``deserialize``; ``problem`` says where that raises."""

    def decode(body: bytes) -> Envelope:
        try:
            if len(body) <= TINY:
                data = deserialize(body)
            else:
                data = _decode_large(body, deserialize, weigh)
        except TooHeavy:
            raise
        # Serializers raise many kinds of errors, and hostile bytes find them all.
        except Exception as err:
            raise BadMessage(f"{problem} {type(err).__name__}") from None
        if not isinstance(data, dict):
            raise BadMessage(f"not a dict but a {type(data).__name__}")
        group = data.pop(GROUP_KEY, None)
        channel = data.pop(CHANNEL_KEY, None)
        if type(group) is str and channel is None:
            return GROUP_KEY, group, data
        if type(channel) is str and group is None:
            return CHANNEL_KEY, channel, data
        raise BadMessage(f"neither {CHANNEL_KEY} nor {GROUP_KEY} names a receiver")

    return decode


def _decode_large(
    body: bytes, deserialize: Callable[[bytes], object], weigh: Weigh | None
) -> object:
    if weigh is not None and is_heavy(body, weigh):
        raise TooHeavy(f"it {_HEAVY}")
    with no_garbage():
        return deserialize(body)


def is_flat(message: Message | None) -> bool:
    """Whether nothing in a decoded message can be changed, so that ``copy()`` makes it private."""
    return type(message) is dict and _SCALARS.issuperset(map(type, message.values()))


def to_msgpack(message: Message) -> bytes:
    """Serialize; raise TypeError or ValueError for what :func:`decode` could not read back."""
    nested = False
    for key, value in message.items():
        if type(key) is not str and not isinstance(key, str):
            _refuse_key(key)
        if type(value) not in _SCALARS:
            nested = True
    try:
        body: bytes = _packb(message)
    except OverflowError:
        raise ValueError("a message has an int beyond 64 bits") from None
    except UnicodeEncodeError:
        raise ValueError("a message has text that is not valid Unicode") from None
    except TypeError as err:
        raise TypeError(f"a message has a value that cannot be sent: {_kind(err)}") from None
    except ValueError as err:
        raise ValueError(f"a message cannot be sent: {err}") from None
    if nested:
        if len(body) <= TINY:
            _check_nested(body)
        else:
            refuse_heavy(body, weigh_msgpack)
            with no_garbage():
                _check_nested(body)
    return body


#: msgpack, the form that version 4.0.1 has too.
encode = encoder(to_msgpack)
decode = decoder(_unpackb, "reading msgpack raised", weigh_msgpack)


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
    except ValueError as err:
        raise ValueError(f"a message cannot be sent: {err or 'nested too deeply'}") from None
