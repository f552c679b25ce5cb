"""What an ASGI server serves: pages, and the websocket."""

from __future__ import annotations

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
http = get_asgi_application()

from room.consumers import RoomConsumer  # noqa: E402 - needs the settings

application = ProtocolTypeRouter(
    {"http": http, "websocket": URLRouter([path("ws", RoomConsumer.as_asgi())])}
)
