"""Addresses of the pages, of the websockets behind them, and of the worker's channel."""

from django.urls import path, re_path

from chat import jobs, views
from chat.consumers import ChatConsumer
from chat.status import StatusConsumer

# What the channel layer takes in the name of a group, and short.
ROOM = r"(?P<room>[a-z0-9_-]{1,50})"

urlpatterns = [
    path("", views.lobby, name="lobby"),
    path("status/", views.status, name="status"),
    re_path(rf"^room/{ROOM}/$", views.room, name="room"),
]

websocket_urlpatterns = [
    re_path(rf"^ws/room/{ROOM}/$", ChatConsumer.as_asgi()),
    path("ws/status/", StatusConsumer.as_asgi()),
]

workers = {jobs.CHANNEL: jobs.JobsConsumer.as_asgi()}
