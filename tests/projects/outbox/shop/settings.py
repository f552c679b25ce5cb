"""A project with an outbox; PostgreSQL's and RabbitMQ's addresses come from the environment."""

import os
from urllib.parse import urlsplit

postgres = urlsplit(os.environ["POSTGRES_URL"])

SECRET_KEY = "for tests only"
USE_TZ = True
INSTALLED_APPS = ["channels_rabbitmq", "django_broadcaster", "shop"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": postgres.hostname,
        "PORT": postgres.port,
        "USER": postgres.username,
        "NAME": postgres.path[1:],
    }
}
OUTBOX_PUBLISHERS = {
    "rabbitmq": {
        "BACKEND": "channels_rabbitmq.broadcaster.RabbitmqBackend",
        "OPTIONS": {
            "url": os.environ["AMQP_URL"],
            "routing_key": "shop.{type}",
            "stream": "orders",
        },
    },
    **(
        {"redis": {"BACKEND": "django_broadcaster.backends.RedisStreamBackend"}}
        if os.environ.get("WITH_REDIS")
        else {}
    ),
    "binary": {
        "BACKEND": "channels_rabbitmq.broadcaster.RabbitmqBackend",
        "OPTIONS": {"url": os.environ["AMQP_URL"], "stream": "orders", "mode": "binary"},
    },
}
LOGGING = {
    "version": 1,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
