"""The site's Celery application."""

from __future__ import annotations

import os

from asgiref.sync import async_to_sync
from celery import Celery
from celery.signals import worker_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

app = Celery("project", broker=os.environ.get("CELERY_BROKER", os.environ["AMQP_URL"]))
app.conf.task_ignore_result = True
app.conf.task_default_queue = os.environ.get("CELERY_QUEUE", "celery")
app.autodiscover_tasks()


@worker_init.connect
def tell(**kwargs: object) -> None:
    """Use the layer in the worker's main process, before it forks."""
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    async_to_sync(layer.group_send)(
        "room", {"type": "room.message", "text": "worker", "queue": layer.queue_name}
    )
