"""The package as a Django application, for what it does with other applications."""

from __future__ import annotations

from django.apps import AppConfig, apps


class ChannelsRabbitmqConfig(AppConfig):
    """``"channels_rabbitmq"`` in ``INSTALLED_APPS``; the channel layer does not need it."""

    name = "channels_rabbitmq"
    verbose_name = "Channel layer on RabbitMQ"

    def ready(self) -> None:
        """Register the system checks, and the outbox's backend where there is an outbox."""
        from .contrib import checks

        checks.register()
        if apps.is_installed("django_broadcaster"):
            from .broadcaster import register

            register()
