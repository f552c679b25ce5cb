"""Pages that say something in the room."""

from __future__ import annotations

import threading

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.http import HttpRequest, HttpResponse, JsonResponse


def ready(request: HttpRequest) -> HttpResponse:
    """The server is there."""
    return HttpResponse()


def sync_view(request: HttpRequest) -> JsonResponse:
    """A plain view."""
    layer = get_channel_layer()
    async_to_sync(layer.group_send)("room", {"type": "room.message", "text": request.GET["text"]})
    return _state()


async def async_view(request: HttpRequest) -> JsonResponse:
    """An async view."""
    layer = get_channel_layer()
    await layer.group_send("room", {"type": "room.message", "text": request.GET["text"]})
    return _state()


def task_view(request: HttpRequest) -> JsonResponse:
    """A view that has Celery say it."""
    from room.tasks import say

    say.delay(request.GET["text"])
    return _state()


def _state() -> JsonResponse:
    """Whether the layer runs a thread of its own here."""
    threads = [thread.name for thread in threading.enumerate()]
    return JsonResponse({"owner_threads": threads.count("channels_rabbitmq")})
