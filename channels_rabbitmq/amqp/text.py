"""Text that a server sent, made fit for a log."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Escape whatever is not printable, such as newlines, ESC and U+202E, as Python does.

    A server, or whoever answers in its place, could otherwise forge lines of a log or steer the
    terminal that shows it. ``"a\nb"`` becomes ``r"a\nb"``.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
