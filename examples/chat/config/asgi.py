"""The ASGI application: ``daphne config.asgi:application`` serves it."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_asgi_application()  # first: it sets Django up for the imports below

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402

# isort: split
from chat.urls import websocket_urlpatterns, workers  # noqa: E402

application = ProtocolTypeRouter(
    {
        # The static files are a few small ones, so the chat serves them itself.
        "http": ASGIStaticFilesHandler(django_application),
        # Browsers let any page open a websocket to any server: take our own pages' only.
        "websocket": AllowedHostsOriginValidator(URLRouter(websocket_urlpatterns)),
        # For "python manage.py runworker chat-jobs".
        "channel": ChannelNameRouter(workers),
    }
)
