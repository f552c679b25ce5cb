"""Liveness and readiness by HTTP: under Django, and as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from channels.layers import channel_layers
from channels.testing import HttpCommunicator
from django.http import HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path

from channels_rabbitmq.amqp.log import NamedLogger
from channels_rabbitmq.contrib import health
from channels_rabbitmq.contrib.health import check_layers, make_asgi_application, readiness
from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.log import RateLimitedWarning
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

urlpatterns = [
    path("health/", include("channels_rabbitmq.contrib.health")),
    path("patient", readiness, {"timeout": 20}),
]

health_logger = logging.getLogger(health.__name__)

AWAY = "amqp://guest:guest@127.0.0.1:1"


@contextmanager
def site(**layers: RabbitmqChannelLayer) -> Iterator[None]:
    """A site with these layers, and one that is not ours."""
    settings = {
        **{alias: {"BACKEND": "not used"} for alias in layers},
        "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    }
    with override_settings(CHANNEL_LAYERS=settings, ROOT_URLCONF=__name__):
        channel_layers.backends.update(layers)
        yield


def answer(response: HttpResponse) -> tuple[int, object]:
    """The status, and the JSON, of what must not be cached."""
    assert response["Cache-Control"] == "no-store"
    return response.status_code, response.json()  # type: ignore[attr-defined]


READY = (200, {"status": "ready", "layers": {"default": True}})
NOT_READY = (503, {"status": "not ready", "layers": {"default": False}})
ALIVE = (200, {"status": "alive"})


async def test_async_django(make_layer: MakeLayer, proxy: Proxy) -> None:
    """Readiness follows RabbitMQ, as it goes and comes back; liveness does not."""
    layer = make_layer(host=proxy.url, send_timeout=0.3, max_reconnect_delay=0.1)
    client = AsyncClient()
    with site(default=layer):
        assert answer(await client.get("/patient")) == READY
        await proxy.refuse()
        proxy.cut()
        await until(lambda: not layer.statistics().connected)
        assert answer(await client.get("/health/ready")) == NOT_READY
        assert answer(await client.get("/health/live")) == ALIVE
        await proxy.accept()
        assert answer(await client.get("/patient")) in (READY, NOT_READY)
        await until(layer.health_check)
        assert answer(await client.get("/patient")) == READY


def test_sync_django(amqp_url: str) -> None:
    """The same views serve under WSGI, where every request has an event loop of its own."""
    layer = RabbitmqChannelLayer(amqp_url)
    with site(default=layer):
        client = Client()
        assert answer(client.get("/patient")) == READY
        assert answer(client.get("/health/live")) == ALIVE
        asyncio.run(layer.close())
        assert answer(client.get("/health/ready")) == NOT_READY


async def test_every_layer_counts(make_layer: MakeLayer) -> None:
    """One layer that is not healthy makes the process not ready, and is named."""
    with site(default=make_layer(), second=make_layer(host=AWAY, send_timeout=0.1)):
        assert await check_layers(20) == {"default": True, "second": False}
        status, content = answer(await AsyncClient().get("/patient"))
        assert status == 503
        assert content == {"status": "not ready", "layers": {"default": True, "second": False}}


async def test_no_layer() -> None:
    """A site without a layer on RabbitMQ is ready."""
    with site():
        ready = (200, {"status": "ready", "layers": {}})
        assert answer(await AsyncClient().get("/health/ready")) == ready


async def test_layer_that_cannot_be_made(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes the process not ready, and the log says why; other layers are checked."""
    monkeypatch.setattr(health, "_warn_not_made", RateLimitedWarning(NamedLogger(health_logger)))
    layers = {
        "default": {"BACKEND": "channels_rabbitmq.core.RabbitmqChannelLayer", "CONFIG": {"a": 1}},
        "missing": {"BACKEND": "no.such.Layer"},
        "third": {"BACKEND": "not used"},
    }
    with override_settings(CHANNEL_LAYERS=layers, ROOT_URLCONF=__name__):
        channel_layers.backends["third"] = make_layer()
        status, content = answer(await AsyncClient().get("/patient"))
    expected = {"default": False, "missing": False, "third": True}
    assert (status, content) == (503, {"status": "not ready", "layers": expected})
    (line,) = [line for line in caplog.messages if "cannot be made" in line]
    assert line.startswith("CHANNEL_LAYERS['default'] cannot be made: Option 'a' is not known")


@pytest.mark.parametrize("method", ["post", "put", "delete"])
async def test_only_questions(method: str) -> None:
    """What is neither GET nor HEAD is refused, with or without a token against forgery."""
    with site(), override_settings(MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"]):
        response = await getattr(AsyncClient(enforce_csrf_checks=True), method)("/health/live")
        assert (response.status_code, response["Allow"]) == (405, "GET, HEAD")
        asgi = HttpCommunicator(make_asgi_application(), method.upper(), "/live")
        assert (await asgi.get_response())["status"] == 405


async def test_asgi(make_layer: MakeLayer) -> None:
    """The ASGI application answers the same, wherever it is mounted, and nothing else."""
    layer = make_layer()
    application = make_asgi_application(timeout=20)

    async def get(path: str, method: str = "GET") -> tuple[int, bytes]:
        response = await HttpCommunicator(application, method, path).get_response(timeout=30)
        return response["status"], response["body"]

    with site(default=layer):
        assert await get("/health/ready") == (
            200,
            b'{"status": "ready", "layers": {"default": true}}',
        )
        assert await get("/live/") == (200, b'{"status": "alive"}')
        assert await get("/live", "HEAD") == (200, b"")
        assert (await get("/other"))[0] == 404
        await layer.close()
        assert (await get("/ready"))[0] == 503


async def test_asgi_is_for_http() -> None:
    """A websocket that is routed there by mistake is refused in plain words."""
    communicator = HttpCommunicator(make_asgi_application(), "GET", "/live")
    communicator.scope["type"] = "websocket"
    with pytest.raises(ValueError, match="health checks are for HTTP"):
        await communicator.get_response()
