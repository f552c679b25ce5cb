"""What may be shown of a server's text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.amqp.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("NOT_FOUND - no queue 'é 雪' in vhost '/'", "NOT_FOUND - no queue 'é 雪' in vhost '/'"),
        ("two\r\nlines", r"two\r\nlines"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u2028b\x85\x00", r"a\u2028b\x85\x00"),
        ("\ud800", r"\ud800"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    """Letters of all scripts stay; control, format and separator characters are escaped."""
    assert printable(text) == shown


@given(st.text())
def test_printable_is_one_line(text: str) -> None:
    """Whatever a server sends, what is shown is printable, on one line."""
    assert printable(text).isprintable()
    assert len(printable(text).splitlines()) <= 1
