"""The least that Channels needs; RabbitMQ's address comes from AMQP_URL."""

import os

SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["channels"]
ROOT_URLCONF = "thumbnails.asgi"
ASGI_APPLICATION = "thumbnails.asgi.application"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_rabbitmq.core.RabbitmqChannelLayer",
        "CONFIG": {"host": os.environ["AMQP_URL"]},
    }
}
