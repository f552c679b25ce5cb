"""Fixtures that all tests share: a private RabbitMQ, certificates, and layers that get closed.

Tests that need a broker use the one that ``AMQP_URL`` names, else a private node of the RabbitMQ
that is installed. Tests that steer the broker need a private node, and are skipped where RabbitMQ
is not installed and ``AMQP_URL`` stands in.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import django
import pytest
from django.conf import settings

from devtools.broker import Broker, BrokerError, find_scripts
from devtools.certs import make_certs
from tests.helpers.proxy import Proxy

if TYPE_CHECKING:
    from channels_rabbitmq.core import RabbitmqChannelLayer
    from tests.helpers.rabbit import MakeLayer

AMQP_URL = os.environ.get("AMQP_URL")


def pytest_configure() -> None:
    """Give Django the least settings that Channels needs; a test overrides what it is about.

    And take Ctrl-C: what a shell starts in its background ignores it, as would all our children.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.configure(
        SECRET_KEY="for tests only",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["channels"],
        DATABASES={},
        CHANNEL_LAYERS={},
        USE_TZ=True,
    )
    django.setup()


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of throw-away certificates that the broker uses too."""
    return make_certs(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="session")
def broker(certs: Path) -> Iterator[Broker]:
    """The private RabbitMQ node of this test run, with TLS and the management plugin.

    Whoever pauses or kills it must bring it back: other tests use it as well.
    """
    try:
        find_scripts()
    except BrokerError as error:
        if AMQP_URL:
            pytest.skip(f"needs a private broker: {error}")
        raise
    with Broker.start(certs=certs, management=True) as node:
        yield node


@pytest.fixture
def vhost(broker: Broker) -> Iterator[str]:
    """A virtual host of this test's own on the private node: nothing of another test is in it."""
    name = f"test-{secrets.token_hex(6)}"
    broker.api("PUT", f"vhosts/{name}")
    yield name
    broker.api("DELETE", f"vhosts/{name}")


@pytest.fixture
def amqp_url(request: pytest.FixtureRequest) -> str:
    """The address of this test's virtual host, or ``AMQP_URL`` as it is."""
    if AMQP_URL:
        return AMQP_URL
    node: Broker = request.getfixturevalue("broker")
    name: str = request.getfixturevalue("vhost")
    return f"{node.url}/{name}"


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    """A TCP hop to this test's virtual host, that counts, cuts, freezes and refuses."""
    async with Proxy(amqp_url) as made:
        yield made


@pytest.fixture
def tls_url(broker: Broker, vhost: str) -> str:
    """The address of this test's virtual host over TLS; ``certs`` has what verifies it."""
    return f"{broker.tls_url}/{vhost}"


@pytest.fixture
async def make_layer(amqp_url: str) -> AsyncIterator[MakeLayer]:
    """A function that makes layers on this test's virtual host; all of them are closed afterwards.

    It takes the layer's options. Where the virtual host is shared, groups are kept apart by an
    exchange of this test's own.
    """
    from channels_rabbitmq.core import RabbitmqChannelLayer

    defaults: dict[str, object] = {"host": amqp_url}
    if AMQP_URL:
        defaults["groups_exchange"] = f"groups-{secrets.token_hex(6)}"
    layers: list[RabbitmqChannelLayer] = []

    def make(**config: object) -> RabbitmqChannelLayer:
        layer = RabbitmqChannelLayer(**(defaults | config))
        layers.append(layer)
        return layer

    yield make
    for layer in layers:
        await layer.close()
