"""Settings of the chat. What differs between machines comes from the environment."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = os.environ.get("DJANGO_DEBUG", "1") == "1"
# The key below is for trying the chat out. Anything that is served to others sets its own.
SECRET_KEY = os.environ["DJANGO_SECRET_KEY"] if not DEBUG else "only-for-trying-out"
# With DEBUG, Django fills an empty list with the names of the local machine.
ALLOWED_HOSTS = os.environ.get("DJANGO_ALLOWED_HOSTS", "").split()

INSTALLED_APPS = [
    "daphne",  # before staticfiles: makes "manage.py runserver" serve ASGI
    "channels",  # for "manage.py runworker"
    "channels_rabbitmq",  # for "manage.py check" of the layer's settings
    "django.contrib.staticfiles",
    "chat",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "chat.security.ContentSecurityPolicy",
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

# No database, no sessions, no users: RabbitMQ keeps what is kept.
DATABASES: dict[str, dict[str, object]] = {}

# All that a project needs to talk through RabbitMQ.
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_rabbitmq.core.RabbitmqChannelLayer",
        "CONFIG": {"host": os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1")},
    },
}

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "static"  # for "manage.py collectstatic"
USE_TZ = True
