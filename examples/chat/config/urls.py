"""The pages of the project, which are the chat's."""

from django.urls import include, path

urlpatterns = [path("", include("chat.urls"))]
