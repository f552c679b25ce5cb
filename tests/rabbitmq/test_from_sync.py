"""Normal channels, flush and the rest from plain sync code and from a second event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from tests.helpers.processes import ROOT

SCRIPT = """
import asyncio, sys, threading
from asgiref.sync import async_to_sync
from django.conf import settings
settings.configure()
from channels_rabbitmq.core import RabbitmqChannelLayer

layer = RabbitmqChannelLayer(sys.argv[1])
for n in range(20):
    async_to_sync(layer.send)("jobs", {"n": n})
assert [async_to_sync(layer.receive)("jobs")["n"] for _ in range(10)] == list(range(10))
assert async_to_sync(layer.receive_many_blocking)(["jobs"]) == ("jobs", {"n": 10})
channel = async_to_sync(layer.new_channel)()
async_to_sync(layer.group_add)("g", channel)
async_to_sync(layer.group_add)("g", "jobs")
assert async_to_sync(layer.group_members)("g") == sorted([channel, "jobs"])
async_to_sync(layer.flush)()
assert async_to_sync(layer.group_members)("g") == []
assert async_to_sync(layer.receive_many)(["jobs", channel]) == (None, None)

async def cancelled():
    # Reads that are cancelled on their way over the bridge give their messages back.
    received = []
    for n in range(30):
        await layer.send("jobs", {"n": n})
        task = asyncio.create_task(layer.receive("jobs"))
        await asyncio.sleep(0.001 * (n % 5))
        task.cancel()
        try:
            received.append((await task)["n"])
        except asyncio.CancelledError:
            pass
    while len(received) < 30:
        received.append((await asyncio.wait_for(layer.receive("jobs"), 5))["n"])
    assert sorted(received) == list(range(30)), received

async_to_sync(cancelled)()
print("done")
"""


async def test_a_script(amqp_url: str) -> None:
    """Everything works without a loop of one's own, and the process ends by itself."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-X", "dev", "-c", SCRIPT, amqp_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
    assert done.returncode == 0
