"""The pages of the project, which are the chat's, and what a load balancer asks."""

from django.urls import include, path

urlpatterns = [
    path("", include("chat.urls")),
    path("health/", include("channels_rabbitmq.contrib.health")),
]
