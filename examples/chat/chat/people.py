"""What a person is to others: an id that nobody else can take, and a name that is only a name."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from urllib.parse import parse_qs

NAME_LENGTH = 32
TEXT_LENGTH = 1000

# Not seen themselves, some of them change how what is around them looks: a name in disguise.
_INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
_ZERO_WIDTH_JOINER = "\u200d"  # but this one belongs to emoji, and to some scripts


def public_id(secret: str) -> str:
    """What others know somebody, or a websocket, by; it does not give the secret away."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


def is_id(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{16}", text) is not None


def secret_in(query: bytes, otherwise: str) -> str:
    """The page's secret in its websocket's address: who knows it is that person."""
    return parse_qs(query.decode("ascii", "replace")).get("page", [otherwise])[0]


def clean_name(name: str) -> str:
    """A name on one line, without what cannot be seen; empty if nothing is left."""
    visible = "".join(" " if _is_invisible(character) else character for character in name)
    return " ".join(visible.split())[:NAME_LENGTH].strip(f" {_ZERO_WIDTH_JOINER}")


def clean_text(text: str) -> str:
    """A line as it is sent; surrogates, which no network carries, are replaced."""
    return text.encode(errors="replace").decode().strip()[:TEXT_LENGTH]


def _is_invisible(character: str) -> bool:
    return character != _ZERO_WIDTH_JOINER and unicodedata.category(character) in _INVISIBLE
