"""Addresses of the pages, and of the websocket behind a room's page."""

from django.urls import path, re_path

from chat import views
from chat.consumers import ChatConsumer

# What the channel layer takes in the name of a group, and short.
ROOM = r"(?P<room>[a-z0-9_-]{1,50})"

urlpatterns = [
    path("", views.lobby, name="lobby"),
    re_path(rf"^room/{ROOM}/$", views.room, name="room"),
]

websocket_urlpatterns = [
    re_path(rf"^ws/room/{ROOM}/$", ChatConsumer.as_asgi()),
]
