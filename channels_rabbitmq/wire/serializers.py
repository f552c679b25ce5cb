"""How messages become bytes and come back, as the options say: serializer and encryption.

Chosen once, when the layer is made, so that the usual way (msgpack, no encryption) costs nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..config.options import Options
from . import messages
from .encryption import Cipher, looks_encrypted
from .messages import BadMessage, Decode, Encode, Message
from .sizes import TINY, weigh_json

#: JSON has no bytes: they travel as a map of this key to their base64.
BYTES_KEY = "__asgi_bytes__"

_LEAST_INT, _MOST_INT = -(2**63), 2**64 - 1  # as msgpack has it
_MOST_DEPTH = 200


class Serializer(Protocol):
    """What ``serializer_format`` names by its dotted path: a class, made without arguments."""

    def serialize(self, message: dict[str, Any]) -> bytes:
        """The message as bytes. What it raises reaches the caller of ``send()``."""

    def deserialize(self, body: bytes) -> dict[str, Any]:
        """The message again, a new one each time. A body on which it raises is dropped."""


@dataclass(frozen=True)
class Codec:
    """The functions that turn a message into a body and back."""

    encode: Encode
    #: Makes a body plain; None where bodies are plain already. Raises BadMessage.
    decrypt: Callable[[bytes], bytes] | None
    #: The same for normal channels, whose messages wait nowhere but in their queues.
    decrypt_normal: Callable[[bytes], bytes] | None
    #: Reads a plain body.
    decode: Decode
    #: Gives a plain body with what is to be kept of its AMQP properties; None to keep nothing.
    annotate: Callable[[bytes, bytes], bytes] | None = None

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
    serialize: Callable[[Message], bytes]
    match options.serializer_format:
        case "msgpack":
            serialize, encode, decode = messages.to_msgpack, messages.encode, messages.decode
        case "json":
            serialize, encode, decode = to_json, encode_json, decode_json
        case path:
            serializer = _import_serializer(path)
            serialize = _bytes_of(serializer)
            encode = messages.encoder(serialize)
            decode = messages.decoder(serializer.deserialize, "deserialize() raised")
    if not options.symmetric_encryption_keys:
        return Codec(encode, None, None, decode)
    cipher = Cipher(options.symmetric_encryption_keys, options.prefix)
    # max_message_size is for what travels, so it is checked after encryption.
    encode = messages.encoder(lambda message: cipher.encrypt(serialize(message)))
    return Codec(
        encode,
        partial(cipher.decrypt, most_age=options.expiry + options.local_expiry),
        partial(cipher.decrypt, most_age=options.expiry),
        decode,
    )


# JSON


def to_json(message: Message) -> bytes:
    """Serialize as JSON in UTF-8; raise TypeError or ValueError for what could not be read back."""
    try:
        text = json.dumps(
            _to_json(message, 0), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        body = text.encode()
    except UnicodeEncodeError:
        raise ValueError("a message has text that is not valid Unicode") from None
    except ValueError as err:
        raise ValueError(f"a message cannot be sent as JSON: {err}") from None
    if len(body) > TINY:
        messages.refuse_heavy(body, weigh_json)
    return body


def from_json(body: bytes) -> object:
    """Read JSON, with ``bytes`` in it."""
    return json.loads(body, object_hook=_from_json)


encode_json = messages.encoder(to_json)
decode_json = messages.decoder(from_json, "reading JSON raised", weigh_json)


def _to_json(value: dict[str, Any], depth: int) -> dict[str, Any]:
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


def _from_json(value: dict[str, Any]) -> object:
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
    except ImportError as err:
        raise ImproperlyConfigured(f"{wrong} cannot be imported: {err}") from err
    if isinstance(serializer, type):
        serializer = serializer()
    for method in ("serialize", "deserialize"):
        if not callable(getattr(serializer, method, None)):
            raise ImproperlyConfigured(f"{wrong} has no method {method}().")
    made: Serializer = serializer
    return made


def _bytes_of(serializer: Serializer) -> Callable[[Message], bytes]:
    def serialize(message: Message) -> bytes:
        body: object = serializer.serialize(message)
        if not isinstance(body, bytes):
            raise TypeError(f"serialize() must give bytes, not {type(body).__name__}")
        return body

    return serialize
