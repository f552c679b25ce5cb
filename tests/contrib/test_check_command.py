"""``manage.py check`` in a project that has the package in ``INSTALLED_APPS``."""

from __future__ import annotations

import re

from tests.contrib.projects import BACKEND, layer, manage

SECRET = "Zw9"
_ID = re.compile(r"\(channels_rabbitmq\.([EW]\d{3})\)")

WRONG = {
    "misspelt": layer(expiri=5),
    "redis": layer(hosts=[f"redis://:{SECRET}@redis:6379"]),
    "range": layer(local_capacity=0, symmetric_encryption_keys=[SECRET, ""]),
    "url": layer(host=f"redis://:{SECRET}@redis:6379"),
    "tls": layer(host=f"amqps://u:{SECRET}@a?certfile=/nowhere"),
    "paths": layer(on_reconnect="site_of_layers.hooks.nothing", serializer_format="a.b"),
    "backend": layer("channels_rabbitmq.RabbitmqChannelLayer"),
    "subclass": layer("site_of_layers.layers.Renamed", capacity="1"),
}
SOUND = {
    "default": layer("site_of_layers.layers.Renamed", on_reconnect="site_of_layers.hooks.back"),
    "other": layer(
        host=f"amqp://u:{SECRET}@a", serializer_format="site_of_layers.layers.Serializer"
    ),
    "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    "named": layer("site_of_layers.layers.FromName", name="rabbit"),
}


async def test_errors() -> None:
    """All that is wrong with any layer is told, with a hint each, and without a secret."""
    ended = await manage(WRONG, "check")
    assert ended.code == 1
    said = _ID.findall(ended.err)
    assert sorted(said) == [
        *("E001", "E002", "E003", "E003", "E003", "E004", "E005", "E007", "E007", "E008")
    ]
    assert ended.err.count("HINT: ") == len(said)
    assert SECRET not in ended.err + ended.out
    for alias in WRONG:
        assert f"CHANNEL_LAYERS['{alias}']: " in ended.err


async def test_sound_layers() -> None:
    """Nothing is said of layers that can be used, nor is RabbitMQ asked for."""
    ended = await manage(SOUND, "check", "--tag", "channels_rabbitmq")
    assert (ended.code, ended.err) == (0, "")


async def test_deployment() -> None:
    """For production, there are warnings; they end the command only where they are to."""
    arguments = ("check", "--deploy", "--tag", "channels_rabbitmq")
    ended = await manage(SOUND, *arguments)
    assert ended.code == 0
    assert sorted(_ID.findall(ended.err)) == ["W001", "W001", "W002", "W002"]
    assert SECRET not in ended.err + ended.out
    assert (await manage(SOUND, *arguments, "--fail-level", "WARNING")).code == 1


async def test_hint_has_the_right_path() -> None:
    """Who misspells the backend is told what it is called."""
    ended = await manage({"default": layer("channels_rabbitmq.core.Layer")}, "check")
    assert f"BACKEND is '{BACKEND}'" in ended.err
