"""Encryption of messages, without I/O: Fernet, with the SHA-256 of each key.

https://cryptography.io/en/latest/fernet/; the package cryptography comes with the extra
``channels_rabbitmq[cryptography]``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured

from .messages import BadMessage

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

#: How every Fernet token begins: version 0x80 and the high bytes of a time, in base64.
_TOKEN_START = b"gAAAAA"


class NotDecrypted(BadMessage):
    """A body that was encrypted with another key, or changed on its way."""


class NotEncrypted(BadMessage):
    """A body in plain text, where keys are set."""


class Cipher:
    """Encrypts with the first key, and decrypts with any of them.

    Raises :class:`django.core.exceptions.ImproperlyConfigured` where the package is missing.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet
        except ImportError as err:
            # Debug pages show the variables of this frame.
            del keys
            raise ImproperlyConfigured(
                "Option 'symmetric_encryption_keys' needs the package cryptography: "
                "pip install channels_rabbitmq[cryptography]"
            ) from err
        self._invalid_token = InvalidToken
        self._fernet: MultiFernet = MultiFernet([Fernet(_fernet_key(key)) for key in keys])

    def encrypt(self, body: bytes) -> bytes:
        """Encrypt; a third longer, in base64."""
        return self._fernet.encrypt(body)

    def decrypt(self, body: bytes) -> bytes:
        """Decrypt; raise :class:`NotDecrypted` or :class:`NotEncrypted` where that cannot be."""
        try:
            return self._fernet.decrypt(body)
        except self._invalid_token:
            if body.startswith(_TOKEN_START):
                raise NotDecrypted("none of symmetric_encryption_keys decrypts it") from None
            raise NotEncrypted(
                "it is not encrypted, and symmetric_encryption_keys is set"
            ) from None


def looks_encrypted(body: bytes) -> bool:
    """Whether a body was encrypted, by how it begins. No message in plain text begins so."""
    return body.startswith(_TOKEN_START)


def _fernet_key(key: str) -> bytes:
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())
