"""Settings of a site whose layer is on RabbitMQ. The environment says where that is."""

from __future__ import annotations

import json
import os
from pathlib import Path

SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
WSGI_APPLICATION = "project.wsgi.application"
INSTALLED_APPS = ["channels", "room"]
USE_TZ = True
STATIC_URL = "static/"
_DATABASE = Path(os.environ.get("DATABASE_DIRECTORY", ".")) / "database"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(_DATABASE),
        "TEST": {"NAME": f"{_DATABASE}-test"},
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_rabbitmq.core.RabbitmqChannelLayer",
        "CONFIG": {"host": os.environ["AMQP_URL"], **json.loads(os.environ["LAYER_OPTIONS"])},
    }
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"django.server": {"level": "WARNING"}},  # no line for each request
}
