"""Liveness and readiness, for load balancers, Docker and Kubernetes.

In Django, under ASGI and WSGI alike::

    urlpatterns = [path("health/", include("channels_rabbitmq.contrib.health"))]

``health/live`` answers 200 whenever the process can. ``health/ready`` answers 200 if every RabbitMQ
layer in ``CHANNEL_LAYERS`` is healthy, and 503 if one is not; its JSON says which. Where an ASGI
server has no Django views, :func:`make_asgi_application` does the same.

Only readiness depends on RabbitMQ: a restart does not bring that back, and ends every websocket.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from channels.exceptions import InvalidChannelLayerError
from channels.layers import channel_layers
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from ..amqp.log import NamedLogger
from ..core import RabbitmqChannelLayer
from ..log import RateLimitedWarning

__all__ = [
    "TIMEOUT",
    "app_name",
    "check_layers",
    "liveness",
    "make_asgi_application",
    "readiness",
    "urlpatterns",
]

#: Seconds for the checks of one request, by default. A probe's own time-out should be longer.
TIMEOUT = 2.0

_METHODS = ("GET", "HEAD")

#: There is no connection that it could name.
_warn_not_made = RateLimitedWarning(NamedLogger(logging.getLogger(__name__)))

#: An ASGI application: https://asgi.readthedocs.io/en/latest/specs/main.html
Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
AsgiApplication = Callable[[Scope, Receive, Send], Awaitable[None]]


async def check_layers(timeout: float = TIMEOUT) -> dict[str, bool]:
    """Check every RabbitMQ layer in ``CHANNEL_LAYERS``, all at once; give the results by alias.

    A layer that cannot be made, of whichever backend, is not healthy; the log says why.
    """
    found = {alias: _find(alias) for alias in getattr(settings, "CHANNEL_LAYERS", {})}
    ours = {alias: it for alias, it in found.items() if isinstance(it, RabbitmqChannelLayer)}
    healthy = await asyncio.gather(*(layer.health_check(timeout) for layer in ours.values()))
    results = dict(zip(ours, healthy, strict=True))
    return {
        alias: results.get(alias, False)
        for alias, layer in found.items()
        if layer is None or alias in ours
    }


def _find(alias: str) -> object:
    """The layer of an alias; None if it cannot be made."""
    try:
        return channel_layers[alias]
    except (ImproperlyConfigured, InvalidChannelLayerError) as err:
        _warn_not_made("CHANNEL_LAYERS[%r] cannot be made: %s", alias, err)
        return None


def _alive() -> tuple[int, dict[str, object]]:
    return 200, {"status": "alive"}


async def _ready(timeout: float) -> tuple[int, dict[str, object]]:
    layers = await check_layers(timeout)
    if all(layers.values()):
        return 200, {"status": "ready", "layers": layers}
    return 503, {"status": "not ready", "layers": layers}


# Django. By hand: its decorators take async views from version 5.0 on.


def _response(request: HttpRequest, status: int, content: dict[str, object]) -> HttpResponse:
    headers = {"Cache-Control": "no-store"}
    if request.method not in _METHODS:
        return HttpResponse(status=405, headers={**headers, "Allow": ", ".join(_METHODS)})
    return JsonResponse(content, status=status, headers=headers)


async def liveness(request: HttpRequest) -> HttpResponse:
    """Answer 200: the process is there. RabbitMQ is not asked."""
    return _response(request, *_alive())


async def readiness(request: HttpRequest, timeout: float = TIMEOUT) -> HttpResponse:
    """Answer 200 if all layers are healthy, else 503."""
    return _response(request, *await _ready(timeout))


# A POST is refused as such; it changes nothing.
for _view in (liveness, readiness):
    _view.csrf_exempt = True  # type: ignore[attr-defined]

app_name = "channels_rabbitmq"
urlpatterns = [
    path("live", liveness, name="live"),
    path("ready", readiness, name="ready"),
]


# ASGI


def make_asgi_application(timeout: float = TIMEOUT) -> AsgiApplication:
    """Make an ASGI application that answers paths which end in ``live`` or ``ready``."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"health checks are for HTTP, not for scope type {scope['type']!r}")
        name = str(scope["path"]).rstrip("/").rpartition("/")[2]
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        content: dict[str, object] = {}
        if scope["method"] not in _METHODS:
            status = 405
            headers.append((b"allow", ", ".join(_METHODS).encode()))
        elif name == "live":
            status, content = _alive()
        elif name == "ready":
            status, content = await _ready(timeout)
        else:
            status = 404
        body = json.dumps(content).encode()
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )

    return application
