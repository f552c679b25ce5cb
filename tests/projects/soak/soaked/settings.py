"""Settings of the site. The environment says where RabbitMQ's nodes are."""

from __future__ import annotations

import json
import os

SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["channels"]
ROOT_URLCONF = "soaked.asgi"
ASGI_APPLICATION = "soaked.asgi.application"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_rabbitmq.core.RabbitmqChannelLayer",
        "CONFIG": json.loads(os.environ["LAYER_OPTIONS"]),
    }
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "channels_rabbitmq": {"handlers": ["console"], "level": "INFO", "propagate": False}
    },
}
