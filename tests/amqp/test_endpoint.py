"""What an endpoint tells of itself."""

from __future__ import annotations

import pytest

from tests.helpers.scripted import endpoint


@pytest.mark.parametrize(
    ("host", "virtual_host", "text"),
    [
        ("broker.example", "/", "broker.example:5672/%2F"),
        ("::1", "jobs", "[::1]:5672/jobs"),
        ("fe80::1%eth0", "a b\n", "[fe80::1%eth0]:5672/a%20b%0A"),
    ],
)
def test_str_is_fit_for_logs(host: str, virtual_host: str, text: str) -> None:
    """``str()`` is the address as a URL has it, on one line."""
    assert str(endpoint(5672, host=host, virtual_host=virtual_host)) == text


def test_credentials_are_never_shown() -> None:
    """Neither ``str()`` nor ``repr()`` shows user and password."""
    shown = endpoint(5672, username="someone", password="hunter2")

    assert "someone" not in f"{shown} {shown!r}"
    assert "hunter2" not in f"{shown} {shown!r}"
