"""Small helpers for futures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


def retrieve(future: asyncio.Future[Any]) -> None:
    """A done-callback that marks the exception as seen, where asking for it is optional."""
    if not future.cancelled():
        future.exception()


def follow(future: asyncio.Future[T]) -> asyncio.Future[T]:
    """A future that ends as the given one does; whoever cancels it cancels nothing else.

    A task that is cancelled cancels the future that it awaits, so no future that others rely on
    may be handed out.
    """
    follower: asyncio.Future[T] = future.get_loop().create_future()

    def detach(done: asyncio.Future[T]) -> None:
        # Many may follow one future for long, such as each send() while RabbitMQ is away.
        future.remove_done_callback(finish)
        retrieve(done)

    def finish(done: asyncio.Future[T]) -> None:
        if follower.done():
            return
        error = done.exception()
        if error is None:
            follower.set_result(done.result())
        else:
            follower.set_exception(error)

    follower.add_done_callback(detach)
    if future.done():
        finish(future)
    else:
        future.add_done_callback(finish)
    return follower


async def wait_until(future: asyncio.Future[T], due: float) -> T:
    """Wait for a future that others rely on, until the loop's clock says ``due``.

    Raises :class:`asyncio.TimeoutError` then. Cheaper than ``asyncio.wait_for()``: no task.
    """
    waiter = follow(future)
    timer = future.get_loop().call_at(due, _time_out, waiter)
    try:
        return await waiter
    finally:
        timer.cancel()


async def in_time(work: Awaitable[T], timeout: float) -> T:
    """Do work within so many seconds, else cancel it and raise :class:`asyncio.TimeoutError`.

    Unlike ``asyncio.wait_for()`` before Python 3.12, it never loses a cancellation.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(retrieve)  # nobody asks when we were cancelled, or too late
    try:
        await asyncio.wait({task}, timeout=timeout)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()


def _time_out(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_exception(asyncio.TimeoutError())
