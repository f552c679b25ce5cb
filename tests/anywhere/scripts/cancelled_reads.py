"""Reads of a normal channel, cancelled on their way between loops, give their messages back."""

from __future__ import annotations

import asyncio
import contextlib

from asgiref.sync import async_to_sync

from tests.anywhere.scripts.prelude import layer


async def main() -> None:
    """Send and read, and give up at every moment."""
    received = []
    for n in range(30):
        await layer.send("jobs", {"n": n})
        task = asyncio.create_task(layer.receive("jobs"))
        await asyncio.sleep(0.001 * (n % 5))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            received.append((await task)["n"])
    while len(received) < 30:
        received.append((await asyncio.wait_for(layer.receive("jobs"), 5))["n"])
    assert sorted(received) == list(range(30)), received


# Now the connection belongs to a loop that outlives the call, and each read crosses over to it.
async_to_sync(layer.send)("jobs", {"n": "first"})
assert async_to_sync(layer.receive)("jobs") == {"n": "first"}
async_to_sync(main)()
