"""The parts of the chat that need neither a browser nor RabbitMQ."""

from __future__ import annotations

import pytest

from examples.chat.chat.jobs import PARTS, SIZES, primes_between
from examples.chat.chat.people import clean_name, clean_text, public_id, secret_in


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("  Ada \t Lovelace ", "Ada Lovelace"),
        ("\u202eecarG", "ecarG"),
        ("Gr\u2028ace", "Gr ace"),
        ("\x00\x1b[31mRed", "[31mRed"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("\u200d \u200b\ufeff", ""),
        ("\ud800", ""),
        ("x" * 100, "x" * 32),
        ("Zoë 李", "Zoë 李"),
    ],
)
def test_names(typed: str, shown: str) -> None:
    """A name is one visible line of at most 32 characters; what is left of some is nothing."""
    assert clean_name(typed) == shown


def test_texts() -> None:
    """A line keeps its inner spaces and breaks, and has an end."""
    assert clean_text("  a\n  b \ud800 ") == "a\n  b ?"
    assert len(clean_text("x" * 5000)) == 1000


def test_ids_tell_nothing() -> None:
    """The same secret is the same person, and cannot be told from the id."""
    one, other = (public_id(secret_in(query, "")) for query in (b"page=one", b"page=other&x=1"))
    assert one == public_id("one") != other
    assert "one" not in one
    assert secret_in(b"\xff&page=", "otherwise") == "otherwise"


def test_primes() -> None:
    """Parts of a range add up to the whole, and the whole is what mathematics says."""
    assert [primes_between(0, end) for end in (0, 2, 3, 10, 100)] == [0, 0, 1, 4, 25]
    assert primes_between(0, 1_000_000) == 78_498
    assert sum(primes_between(start, start + 1000) for start in range(0, 100_000, 1000)) == 9_592
    assert all(size % PARTS == 0 for size in SIZES)
