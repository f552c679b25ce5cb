"""The publisher: one long Celery task. Celery's own messages do not leave the worker."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from asgiref.sync import async_to_sync
from celery import Celery
from celery.signals import worker_ready
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer

from soaked import cause, tell

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "soaked.settings")
app = Celery("soaked", broker="memory://")
app.conf.task_ignore_result = True
app.conf.worker_redirect_stdouts = False


@worker_ready.connect
def begin(**kwargs: object) -> None:
    """Have the only child of this worker publish."""
    publish.delay(int(os.environ["SOAK_ROOMS"]), float(os.environ["SOAK_RATE"]))


@app.task
def publish(rooms: int, rate: float) -> None:
    """Say numbered messages in one room after the other, until there is a file ``stop``."""
    group_send = async_to_sync(get_channel_layer().group_send)
    tell(publisher=os.getpid())
    due = time.monotonic()
    for turn in itertools.count():
        if Path("stop").exists():
            break
        room, n, at, error = f"room-{turn % rooms}", turn // rooms, time.time(), ""
        try:
            group_send(room, {"type": "said", "n": n, "at": at})
        except ChannelFull as err:
            error = cause(err)
        tell(room=room, n=n, at=at, seconds=time.time() - at, error=error)
        # No burst after a pause: what could not be said in time is said later.
        due = max(due + 1 / rate, time.monotonic())
        time.sleep(due - time.monotonic() if due > time.monotonic() else 0)
    tell(ended=True)
