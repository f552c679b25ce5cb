"""``prefix``: projects that share a virtual host do not meet."""

from __future__ import annotations

import asyncio

import pytest
from channels.exceptions import ChannelFull

from channels_rabbitmq.core import RabbitmqChannelLayer
from devtools.broker import Broker
from tests.helpers.rabbit import MakeLayer

PREFIXES = ["", "red", "blue"]


@pytest.fixture
def projects(make_layer: MakeLayer) -> list[RabbitmqChannelLayer]:
    """One layer of each project."""
    return [make_layer(prefix=prefix) for prefix in PREFIXES]


async def test_groups(projects: list[RabbitmqChannelLayer]) -> None:
    """The same name is another group in each."""
    channels = [await layer.new_channel() for layer in projects]
    for layer, channel in zip(projects, channels, strict=True):
        await layer.group_add("g", channel)
    for n, layer in enumerate(projects):
        await layer.group_send("g", {"n": n})
    for n, (layer, channel) in enumerate(zip(projects, channels, strict=True)):
        assert await layer.receive(channel) == {"n": n}
        assert await layer.group_members("g") == [channel]
        await layer.send(channel, {"last": True})
        assert await layer.receive(channel) == {"last": True}


async def test_leaving(projects: list[RabbitmqChannelLayer]) -> None:
    """Discarding in one project leaves the others' members alone."""
    red, blue = projects[1:]
    mine, theirs = await red.new_channel(), await blue.new_channel()
    await red.group_add("g", mine)
    await blue.group_add("g", theirs)
    await red.group_discard("g", mine)
    await blue.group_send("g", {"n": 1})
    assert await asyncio.wait_for(blue.receive(theirs), 5) == {"n": 1}


async def test_normal_channels(make_layer: MakeLayer) -> None:
    """The same name is another channel in each, with a capacity of its own."""
    layers = [make_layer(prefix=prefix, capacity=1) for prefix in PREFIXES]
    for n, layer in enumerate(layers):
        await layer.send("jobs", {"n": n})
        with pytest.raises(ChannelFull):
            await layer.send("jobs", {})
    for n, layer in enumerate(layers):
        assert await layer.receive("jobs") == {"n": n}


async def test_flush(projects: list[RabbitmqChannelLayer]) -> None:
    """Flushing one project empties nothing of another."""
    red, blue = projects[1:]
    channel = await blue.new_channel()
    await blue.group_add("g", channel)
    await blue.send(channel, {"n": 1})
    await blue.send("jobs", {"n": 2})
    await red.send("jobs", {"n": 3})
    await red.flush()
    assert await blue.receive(channel) == {"n": 1}
    assert await blue.receive("jobs") == {"n": 2}
    assert await blue.group_members("g") == [channel]
    assert await red.receive_many(["jobs"]) == (None, None)


async def test_names_on_the_broker(
    projects: list[RabbitmqChannelLayer], broker: Broker, vhost: str
) -> None:
    """The prefix is in each name; without one, names are as in version 4.0.1."""
    plain, red, _ = projects
    for layer in projects:
        await layer.group_add("g", await layer.new_channel())
        await layer.send("jobs", {})
    queues = broker.api("GET", f"queues/{vhost}")
    bindings = broker.api("GET", f"exchanges/{vhost}/groups/bindings/source")
    assert isinstance(queues, list)
    assert isinstance(bindings, list)
    names = {queue["name"] for queue in queues}
    assert {"asgi.channel::jobs", "asgi.channel:red:jobs", red.queue_name} <= names
    assert red.queue_name.startswith("channels_red_")
    bound = {(each["destination"], each["routing_key"]) for each in bindings}
    assert {(plain.queue_name, "g"), (red.queue_name, "red:g")} <= bound


async def test_two_encrypted_projects(make_layer: MakeLayer) -> None:
    """Two projects with keys and prefixes of their own share a broker, with two layers each."""
    projects = [
        [make_layer(prefix=name, symmetric_encryption_keys=[f"key of {name}"]) for _ in range(2)]
        for name in ("red", "blue")
    ]
    channels = {}
    for layers in projects:
        for layer in layers:
            channels[layer] = await layer.new_channel()
            await layer.group_add("room", channels[layer])
    for n, (sender, _) in enumerate(projects):
        for count in range(50):
            await sender.group_send("room", {"project": n, "count": count})
            await sender.send("jobs", {"project": n, "count": count})
    for n, layers in enumerate(projects):
        expected = [{"project": n, "count": count} for count in range(50)]
        for layer in layers:
            assert [await layer.receive(channels[layer]) for _ in range(50)] == expected
        assert [await layers[1].receive("jobs") for _ in range(50)] == expected
        assert await layers[0].group_members("room") == sorted(channels[each] for each in layers)
