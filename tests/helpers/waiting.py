"""Waiting for a condition, in tests of every kind."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")


async def until(
    condition: Callable[[], T] | Callable[[], Awaitable[T]],
    timeout: float = 10,
    step: float = 0.01,
) -> T:
    """Poll *condition*, plain or async, until what it returns is true, and return that.

    Fails with the condition's own source text, and the last value, after *timeout* seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        result = cast("T", await value if inspect.isawaitable(value) else value)
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"still {result!r} after {timeout:g} s: {_text(condition)}")
        await asyncio.sleep(step)


def _text(condition: Callable[[], object]) -> str:
    try:
        return " ".join(inspect.getsource(condition).split())
    except (OSError, TypeError):
        return repr(condition)
