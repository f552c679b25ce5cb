"""Fixtures for tests that run what the documentation shows."""

from __future__ import annotations

import django.conf
import pytest
from channels.layers import channel_layers

from channels_rabbitmq.core import RabbitmqChannelLayer
from devtools.broker import Broker
from tests.helpers.rabbit import MakeLayer


@pytest.fixture
def private_url(broker: Broker, vhost: str) -> str:
    """A virtual host on a private broker: the examples have fixed names for what they make."""
    return f"{broker.url}/{vhost}"


@pytest.fixture
def layer(
    make_layer: MakeLayer, private_url: str, monkeypatch: pytest.MonkeyPatch
) -> RabbitmqChannelLayer:
    """A layer that get_channel_layer() gives, too."""
    layer = make_layer(host=private_url, groups_exchange="groups")
    monkeypatch.setitem(channel_layers.backends, "default", layer)
    backend = f"{RabbitmqChannelLayer.__module__}.{RabbitmqChannelLayer.__qualname__}"
    monkeypatch.setattr(django.conf.settings, "CHANNEL_LAYERS", {"default": {"BACKEND": backend}})
    return layer
