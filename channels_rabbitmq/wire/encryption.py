"""Encryption of messages, without I/O: Fernet, with the SHA-256 of each key.

What is encrypted is the prefix, a colon, and the body, which names the group or the channel; Fernet
adds the time. So a body that somebody recorded is taken nowhere else, and not for long.

https://cryptography.io/en/latest/fernet/; the package cryptography comes with the extra
``channels_rabbitmq[cryptography]``.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured

from .messages import BadMessage

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

#: How far the clocks of two machines may be apart, in seconds.
CLOCKS_DIFFER = 300

#: How every Fernet token begins: version 0x80 and the high bytes of a time, in base64.
_TOKEN_START = b"gAAAAA"


class NotDecrypted(BadMessage):
    """A body that was encrypted with another key, or changed on its way."""


class NotEncrypted(BadMessage):
    """A body in plain text, where keys are set."""


class OutOfPlace(BadMessage):
    """A body that was encrypted for another prefix, another receiver or another time."""


class Cipher:
    """Encrypts with the first key, and decrypts with any of them, within one prefix.

    ``clock`` gives the seconds since 1970, as on other machines, give or take
    :data:`CLOCKS_DIFFER`.

    Raises :class:`django.core.exceptions.ImproperlyConfigured` where the package is missing.
    """

    def __init__(
        self, keys: Sequence[str], prefix: str = "", *, clock: Callable[[], float] | None = None
    ) -> None:
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
        #: What a body begins with. No prefix has a colon.
        self._start = f"{prefix}:".encode()
        self._clock = clock or time.time

    def __reduce__(self) -> str:
        raise TypeError("a Cipher holds keys and cannot be pickled or copied")

    def encrypt(self, body: bytes) -> bytes:
        """Encrypt; a third longer, in base64."""
        return self._fernet.encrypt_at_time(self._start + body, int(self._clock()))

    def decrypt(self, body: bytes, most_age: float) -> bytes:
        """Decrypt a body that was encrypted at most so many seconds ago.

        Raises :class:`NotDecrypted`, :class:`NotEncrypted` or :class:`OutOfPlace`.
        """
        try:
            plain = self._fernet.decrypt(body)
        except self._invalid_token:
            if body.startswith(_TOKEN_START):
                raise NotDecrypted("none of symmetric_encryption_keys decrypts it") from None
            raise NotEncrypted(
                "it is not encrypted, and symmetric_encryption_keys is set"
            ) from None
        age = self._clock() - encrypted_at(body)
        if not -CLOCKS_DIFFER <= age <= most_age + CLOCKS_DIFFER:
            raise OutOfPlace(
                f"it was encrypted too long ago, or clocks differ by more than {CLOCKS_DIFFER} s"
            )
        if not plain.startswith(self._start):
            raise OutOfPlace("it was encrypted for another prefix")
        return plain[len(self._start) :]


def encrypted_at(body: bytes) -> int:
    """When a body that :meth:`Cipher.decrypt` takes was encrypted, in seconds since 1970.

    https://github.com/fernet/spec/blob/master/Spec.md: one byte for the version, eight for that.
    """
    return int.from_bytes(base64.urlsafe_b64decode(body[:12])[1:], "big")


def looks_encrypted(body: bytes) -> bool:
    """Whether a body was encrypted, by how it begins. No message in plain text begins so."""
    return body.startswith(_TOKEN_START)


def _fernet_key(key: str) -> bytes:
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())
