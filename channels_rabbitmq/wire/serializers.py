"""How messages become bytes and come back, as the options say: serializer and encryption.

Chosen once, when the layer is made, so that the usual way (msgpack, no encryption) costs nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from channels.exceptions import MessageTooLarge
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..config.options import Options
from . import messages
from .encryption import Cipher, looks_encrypted
from .messages import CHANNEL_KEY, GROUP_KEY, BadMessage, Envelope, Message

#: JSON has no bytes: they travel as a map of this key to their base64.
BYTES_KEY = "__asgi_bytes__"

_LEAST_INT, _MOST_INT = -(2**63), 2**64 - 1  # as msgpack has it
_MOST_DEPTH = 200


class Serializer(Protocol):
    """What ``serializer_format`` names by its dotted path: a class, made without arguments."""

    def serialize(self, message: dict[str, object]) -> bytes:
        """The message as bytes. What it raises reaches the caller of ``send()``."""

    def deserialize(self, body: bytes) -> dict[str, object]:
        """The message again, a new one each time. A body on which it raises is dropped."""


#: kind, name, message, and the most bytes -> body
Encode = Callable[[str, str, Message, int], bytes]


@dataclass(frozen=True)
class Codec:
    """The functions that turn a message into a body and back."""

    encode: Encode
    """Raises TypeError, ValueError or MessageTooLarge for a message that cannot be sent."""
    decrypt: Callable[[bytes], bytes] | None
    """Makes a body plain; None where bodies are plain already. Raises BadMessage."""
    decode: Callable[[bytes], Envelope]
    """Reads a plain body. Raises BadMessage."""

    def explain(self, body: bytes, error: BadMessage) -> str:
        """Why a body was dropped, for a log."""
        if self.decrypt is None and looks_encrypted(body):
            return "it is encrypted, and symmetric_encryption_keys is not set"
        return str(error)


def make_codec(options: Options) -> Codec:
    """The codec for ``serializer_format`` and ``symmetric_encryption_keys``.

    Raises :class:`django.core.exceptions.ImproperlyConfigured` for a path that leads nowhere, and
    where the package cryptography is missing.
    """
    encode, decode = _serializing(options.serializer_format)
    if not options.symmetric_encryption_keys:
        return Codec(encode, None, decode)
    cipher = Cipher(options.symmetric_encryption_keys)
    return Codec(_encrypting(encode, cipher), cipher.decrypt, decode)


def _serializing(name: str) -> tuple[Encode, Callable[[bytes], Envelope]]:
    if name == "msgpack":
        return messages.encode, messages.decode
    if name == "json":
        return encode_json, decode_json
    return _custom(_import_serializer(name))


def _encrypting(encode: Encode, cipher: Cipher) -> Encode:
    def encode_encrypted(kind: str, name: str, message: Message, max_size: int) -> bytes:
        # The limit is for what travels; the plain text is shorter.
        body = cipher.encrypt(encode(kind, name, message, max_size))
        _check_size(body, max_size)
        return body

    return encode_encrypted


# JSON


def encode_json(kind: str, name: str, message: Message, max_size: int) -> bytes:
    """Like :func:`channels_rabbitmq.wire.messages.encode`, as JSON in UTF-8."""
    _check_message(message)
    try:
        text = json.dumps(
            {**_to_json(message, 0), kind: name},
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        )
        body = text.encode()
    except UnicodeEncodeError:
        raise ValueError("a message has text that is not valid Unicode") from None
    except ValueError as err:
        raise ValueError(f"a message cannot be sent as JSON: {err}") from None
    _check_size(body, max_size)
    return body


def decode_json(body: bytes) -> Envelope:
    """Like :func:`channels_rabbitmq.wire.messages.decode`, for JSON."""
    try:
        data = json.loads(body, object_hook=_from_json)
    # RecursionError too: hostile bytes find them all.
    except Exception as err:
        raise BadMessage(f"not JSON ({type(err).__name__})") from None
    return _open(data, "JSON")


def _to_json(value: dict[str, object], depth: int) -> dict[str, object]:
    if BYTES_KEY in value:
        raise ValueError(f"the key {BYTES_KEY} stands for bytes")
    made = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"the keys of a message must be str, not {type(key).__name__}")
        made[key] = _item_to_json(item, depth)
    return made


def _item_to_json(value: object, depth: int) -> object:
    if value is None or isinstance(value, (str, bool, float)):
        return value
    if isinstance(value, int):
        if not _LEAST_INT <= value <= _MOST_INT:
            raise ValueError("an int is beyond 64 bits")
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {BYTES_KEY: base64.b64encode(value).decode()}
    if depth >= _MOST_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        return _to_json(value, depth + 1)
    if isinstance(value, (list, tuple)):
        return [_item_to_json(item, depth + 1) for item in value]
    raise TypeError(f"a message has a value that cannot be sent: {type(value).__name__}")


def _from_json(value: dict[str, object]) -> object:
    encoded = value.get(BYTES_KEY)
    if encoded is None:
        return value
    if not isinstance(encoded, str) or len(value) != 1:
        raise binascii.Error("not bytes")
    return base64.b64decode(encoded, validate=True)


# A class of the user's own


def _import_serializer(path: str) -> Serializer:
    wrong = f"Option 'serializer_format' must be 'msgpack', 'json', or lead to a class; {path!r}"
    try:
        serializer = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"{wrong} cannot be imported: {error}") from error
    if isinstance(serializer, type):
        serializer = serializer()
    for method in ("serialize", "deserialize"):
        if not callable(getattr(serializer, method, None)):
            raise ImproperlyConfigured(f"{wrong} has no method {method}().")
    made: Serializer = serializer
    return made


def _custom(serializer: Serializer) -> tuple[Encode, Callable[[bytes], Envelope]]:
    def encode(kind: str, name: str, message: Message, max_size: int) -> bytes:
        _check_message(message)
        body = serializer.serialize({**message, kind: name})
        if not isinstance(body, bytes):
            raise TypeError(f"serialize() must give bytes, not {type(body).__name__}")
        _check_size(body, max_size)
        return body

    def decode(body: bytes) -> Envelope:
        try:
            data = serializer.deserialize(body)
        # Whatever a class of the user's own raises, the reader lives on.
        except Exception as err:
            raise BadMessage(f"deserialize() raised {type(err).__name__}") from None
        return _open(data, "dict")

    return encode, decode


# What they share


def _check_message(message: Mapping[str, object]) -> None:
    if not isinstance(message, dict):
        raise TypeError(f"a message must be a dict, not {type(message).__name__}")
    if CHANNEL_KEY in message or GROUP_KEY in message:
        raise ValueError(f"a message must not have the keys {CHANNEL_KEY} and {GROUP_KEY}")


def _check_size(body: bytes, max_size: int) -> None:
    if len(body) > max_size:
        raise MessageTooLarge(
            f"the message has {len(body)} bytes; max_message_size allows {max_size}"
        )


def _open(data: object, form: str) -> Envelope:
    if not isinstance(data, dict):
        raise BadMessage(f"not a {form} map")
    return messages.open_envelope(data)
