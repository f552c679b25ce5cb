"""The transient event loops that ``async_to_sync()`` makes, one for each call."""

from __future__ import annotations

import asyncio
import sys
import threading

from asgiref.sync import AsyncToSync


def is_transient(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether asgiref made this loop for one call of ``async_to_sync()``.

    asgiref lists such loops; with a version of it that does not, every loop counts as lasting.
    """
    return loop in _listed()


def is_abandoned(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the caller of ``async_to_sync()`` has left without waiting for it, as by Ctrl-C.

    The loop, in a thread of its own, knows nothing of that, and the interpreter does not exit
    before it ends. So look whether the caller's thread is still inside the call.
    """
    thread = getattr(_listed().get(loop), "_work_thread", None)
    if not isinstance(thread, threading.Thread) or thread.ident is None:
        return False
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        if frame.f_code is AsyncToSync.__call__.__code__:
            return False
        frame = frame.f_back
    return True


def _listed() -> dict[asyncio.AbstractEventLoop, object]:
    loops = getattr(AsyncToSync, "loop_thread_executors", None)
    return loops if isinstance(loops, dict) else {}
