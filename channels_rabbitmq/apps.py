"""The package as a Django application, for what it does with other applications."""

from __future__ import annotations

from django.apps import AppConfig


class ChannelsRabbitmqConfig(AppConfig):
    """``"channels_rabbitmq"`` in ``INSTALLED_APPS``; the channel layer does not need it."""

    name = "channels_rabbitmq"
    verbose_name = "Channel layer on RabbitMQ"

    def ready(self) -> None:
        """Register the system checks."""
        from .contrib import checks

        checks.register()
