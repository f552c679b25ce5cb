"""The site's pages."""

from __future__ import annotations

from django.urls import include, path
from room import views

urlpatterns = [
    path("", views.ready),
    path("health/", include("channels_rabbitmq.contrib.health")),
    path("sync", views.sync_view),
    path("async", views.async_view),
    path("task", views.task_view),
]
