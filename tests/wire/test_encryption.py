"""``wire.encryption``: what it makes of a body, and what it says of one that it cannot read."""

from __future__ import annotations

import base64
import hashlib
import sys
import traceback

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.wire.encryption import (
    Cipher,
    NotDecrypted,
    NotEncrypted,
    OutOfPlace,
    encrypted_at,
    looks_encrypted,
)


@given(st.binary(max_size=500))
def test_round_trip(body: bytes) -> None:
    """What was encrypted comes back as it was."""
    cipher = Cipher(["a key"])
    assert cipher.decrypt(cipher.encrypt(body), 60) == body


def test_it_is_fernet_over_sha256() -> None:
    """Anybody who has the key and knows Fernet can read and write messages."""
    fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256("ein Schlüssel".encode()).digest()))
    cipher = Cipher(["ein Schlüssel"])
    assert fernet.decrypt(cipher.encrypt(b"text")) == b":text"
    assert cipher.decrypt(fernet.encrypt(b":text"), 60) == b"text"


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    """Keys can be changed without a moment in which messages are lost."""
    old, both, new = Cipher(["old"]), Cipher(["new", "old"]), Cipher(["new"])
    assert both.decrypt(old.encrypt(b"text"), 60) == b"text"
    assert new.decrypt(both.encrypt(b"text"), 60) == b"text"
    with pytest.raises(NotDecrypted):
        old.decrypt(both.encrypt(b"text"), 60)


def test_a_body_of_another_key() -> None:
    """It is told apart from plain text."""
    with pytest.raises(NotDecrypted, match="none of symmetric_encryption_keys decrypts it"):
        Cipher(["a"]).decrypt(Cipher(["b"]).encrypt(b"text"), 60)


def test_a_body_that_was_changed() -> None:
    """Fernet authenticates: one bit is enough."""
    body = bytearray(Cipher(["a"]).encrypt(b"text"))
    body[20] ^= 1
    with pytest.raises(NotDecrypted):
        Cipher(["a"]).decrypt(bytes(body), 60)


@given(st.binary(max_size=100).filter(lambda body: not looks_encrypted(body)))
def test_plain_text(body: bytes) -> None:
    """What was not encrypted is refused, and said to be so."""
    with pytest.raises(NotEncrypted, match="it is not encrypted"):
        Cipher(["a"]).decrypt(body, 60)


@pytest.mark.parametrize(("ours", "theirs"), [("", "red"), ("red", ""), ("red", "redder")])
def test_another_prefix(ours: str, theirs: str) -> None:
    """What was encrypted in one project is not taken in another, though the keys are the same."""
    body = Cipher(["a"], theirs).encrypt(b"text")
    assert Cipher(["a"], theirs).decrypt(body, 60) == b"text"
    with pytest.raises(OutOfPlace, match="for another prefix"):
        Cipher(["a"], ours).decrypt(body, 60)


@pytest.mark.parametrize(("age", "taken"), [(-301, False), (-299, True), (359, True), (361, False)])
def test_time(age: int, taken: bool) -> None:
    """A body is taken for as long as a message can be under way, and clocks may differ."""
    now = 1_700_000_000.0
    body = Cipher(["a"], clock=lambda: now - age).encrypt(b"text")
    assert encrypted_at(body) == now - age
    receiver = Cipher(["a"], clock=lambda: now)
    if taken:
        assert receiver.decrypt(body, 60) == b"text"
    else:
        with pytest.raises(OutOfPlace, match="too long ago, or clocks differ"):
            receiver.decrypt(body, 60)


def test_a_time_that_was_changed() -> None:
    """Fernet authenticates the time too."""
    now = 1_700_000_000
    body = Cipher(["a"], clock=lambda: now - 3600).encrypt(b"text")
    forged = base64.urlsafe_b64decode(body)
    forged = forged[:1] + now.to_bytes(8, "big") + forged[9:]
    with pytest.raises(NotDecrypted):
        Cipher(["a"], clock=lambda: now).decrypt(base64.urlsafe_b64encode(forged), 60)


def test_tokens_are_recognised() -> None:
    """A process without keys can say that a message is encrypted."""
    assert looks_encrypted(Cipher(["a"]).encrypt(b""))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install, and no frame that debug pages show has a key."""
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install channels_rabbitmq\[cry") as raised:
        Cipher(["Zw9"])
    frames = list(traceback.walk_tb(raised.value.__traceback__))[1:]
    assert frames
    assert "Zw9" not in str([frame.f_locals for frame, _ in frames])
