"""What the scripts here begin with: Django's settings, as a user has them, and the layer.

The environment says where RabbitMQ is, and adds to the layer's options.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import django
from channels.layers import get_channel_layer
from django.conf import settings

from channels_rabbitmq.core import RabbitmqChannelLayer

DESCRIPTORS = Path("/proc/self/fd")
URL = os.environ["AMQP_URL"]
OPTIONS = {"host": URL, **json.loads(os.environ.get("LAYER_OPTIONS", "{}"))}

if not settings.configured:
    settings.configure(
        SECRET_KEY="for tests only",
        INSTALLED_APPS=["channels"],
        CHANNEL_LAYERS={
            "default": {
                "BACKEND": "channels_rabbitmq.core.RabbitmqChannelLayer",
                "CONFIG": OPTIONS,
            }
        },
    )
    django.setup()

layer: RabbitmqChannelLayer = get_channel_layer()


def sockets() -> int:
    """How many sockets of this process are connected to RabbitMQ."""
    port = urlsplit(URL).port or 5672
    count = 0
    for path in DESCRIPTORS.iterdir():
        with contextlib.suppress(OSError):
            descriptor = int(path.name)
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as duplicate:
                    peer = duplicate.getpeername()
                    count += isinstance(peer, tuple) and peer[1] == port
    return count


def descriptors() -> int:
    """How many files, sockets and the like this process has open."""
    gc.collect()
    return sum(1 for _ in DESCRIPTORS.iterdir())


def owner_threads() -> int:
    """How many threads of ours run an event loop."""
    return sum(thread.name == "channels_rabbitmq" for thread in threading.enumerate())


def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait for a condition, from plain code."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.01)
