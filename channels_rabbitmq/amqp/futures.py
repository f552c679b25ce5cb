"""Small helpers for futures."""

from __future__ import annotations

import asyncio
from typing import Any


def retrieve(future: asyncio.Future[Any]) -> None:
    """A done-callback that marks the exception as seen, where asking for it is optional."""
    if not future.cancelled():
        future.exception()
