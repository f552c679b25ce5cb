"""What Celery does for the site."""

from __future__ import annotations

import os

from asgiref.sync import async_to_sync
from celery import shared_task
from channels.layers import get_channel_layer


@shared_task
def say(text: str) -> None:
    """Say something in the room."""
    layer = get_channel_layer()
    async_to_sync(layer.group_send)(
        "room",
        {"type": "room.message", "text": text, "queue": layer.queue_name, "pid": os.getpid()},
    )
