"""What the documented settings of tests leave out."""

SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["channels", "chat"]
ASGI_APPLICATION = "chat.asgi.application"
ROOT_URLCONF = "chat.asgi"
USE_TZ = True
STATIC_URL = "static/"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "database",
        "TEST": {"NAME": "test-database"},
    }
}
