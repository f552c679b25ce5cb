"""Groups at a size, at once, and on RabbitMQ: no more bindings than are needed.

What the specification asks of groups is in ``tests/conformance/test_groups.py``.
"""

from __future__ import annotations

import asyncio

import pytest

from channels_rabbitmq.broker import bindings
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until


async def test_added_means_reached(make_layer: MakeLayer) -> None:
    """Once group_add() has returned, the very next message from elsewhere arrives."""
    here, there = make_layer(), make_layer()
    await here.current_connection
    for number in range(50):
        channel = await there.new_channel()
        await there.group_add(f"room{number}", channel)
        await here.group_send(f"room{number}", {"n": number})
        assert await there.receive(channel) == {"n": number}


async def test_adding_twice_is_adding_once(make_layer: MakeLayer) -> None:
    """A channel added twice gets one copy, and leaves with one group_discard()."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    await layer.send(channel, {"n": 2})
    assert [await layer.receive(channel) for _ in range(2)] == [{"n": 1}, {"n": 2}]
    await layer.group_discard("room", channel)
    await layer.group_send("room", {"n": 3})
    await layer.send(channel, {"n": 4})
    assert await layer.receive(channel) == {"n": 4}


async def test_one_binding_for_each_group(
    make_layer: MakeLayer, broker: Broker, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is bound when a group's first channel joins, and unbound when the last leaves."""
    monkeypatch.setattr(bindings, "LINGER", 0.1)
    layer = make_layer()
    one, two = await layer.new_channel(), await layer.new_channel()
    await asyncio.gather(
        layer.group_add("a", one), layer.group_add("a", two), layer.group_add("b", two)
    )
    assert await rabbit.bindings(broker, vhost) == [
        ("a", layer.queue_name),
        ("b", layer.queue_name),
    ]
    await layer.group_discard("a", one)
    await layer.group_discard("b", two)
    await layer.send(two, {})  # whatever went before has been done by then
    await until(lambda: still_bound(broker, vhost, ["a"]))
    await layer.group_discard("a", two)
    await until(lambda: still_bound(broker, vhost, []))


async def still_bound(broker: Broker, vhost: str, groups: list[str]) -> bool:
    """Whether these are all groups that the process is bound to."""
    return [key for key, _ in await rabbit.bindings(broker, vhost)] == groups


async def test_reloaded_page(make_layer: MakeLayer, broker: Broker, vhost: str) -> None:
    """A group that is left keeps its binding for the next join, unless a message comes for it."""
    layer = make_layer()
    before, after = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("user", before)
    await layer.group_discard("user", before)
    await layer.send(after, {"type": "fence"})
    assert await still_bound(broker, vhost, ["user"])
    await layer.group_add("user", after)
    await layer.group_send("user", {"type": "after"})
    assert await layer.receive(after) == {"type": "fence"}
    assert await layer.receive(after) == {"type": "after"}
    await layer.group_discard("user", after)
    await layer.group_send("user", {"type": "in vain"})
    await until(lambda: still_bound(broker, vhost, []), timeout=bindings.LINGER - 1)


async def test_coming_and_going_at_once(
    make_layer: MakeLayer, broker: Broker, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joining and leaving that are under way together end as the last call of each wanted."""
    monkeypatch.setattr(bindings, "LINGER", 0.1)
    layer = make_layer()
    channels = [await layer.new_channel() for _ in range(20)]
    calls = []
    for number in range(20):
        for _ in range(5):
            calls.append(layer.group_add(f"room{number}", channels[number]))
            calls.append(layer.group_discard(f"room{number}", channels[number]))
        if number % 2:
            calls.append(layer.group_add(f"room{number}", channels[number]))
    await asyncio.gather(*calls)
    expected = sorted(f"room{number}" for number in range(20) if number % 2)
    await until(lambda: still_bound(broker, vhost, expected))
    for number in range(20):
        await layer.group_send(f"room{number}", {"n": number})
        await layer.send(channels[number], {"n": "last"})
        first = await layer.receive(channels[number])
        assert first["n"] == (number if number % 2 else "last")


async def test_four_thousand_at_once(make_layer: MakeLayer) -> None:
    """4,000 concurrent group_add() succeed, and so do as many group_discard()."""
    layer = make_layer()
    channels = [await layer.new_channel() for _ in range(4000)]
    await asyncio.gather(
        *(layer.group_add(f"room{number}", channel) for number, channel in enumerate(channels))
    )
    for number in (0, 1999, 2047, 2048, 3999):
        await layer.group_send(f"room{number}", {"n": number})
        assert await layer.receive(channels[number]) == {"n": number}
    await asyncio.gather(
        *(layer.group_discard(f"room{number}", channel) for number, channel in enumerate(channels))
    )
    await layer.group_send("room7", {"n": 7})
    await layer.send(channels[7], {"n": "last"})
    assert await layer.receive(channels[7]) == {"n": "last"}


@pytest.mark.parametrize(
    "properties",
    [
        {"type": "direct", "durable": True, "auto_delete": False},
        {"type": "direct", "durable": False, "auto_delete": True},
        {"type": "topic", "durable": True, "auto_delete": False},
    ],
    ids=["durable", "auto-delete", "topic"],
)
async def test_exchange_with_other_properties(
    make_layer: MakeLayer, broker: Broker, vhost: str, properties: dict[str, object]
) -> None:
    """A groups exchange that somebody made with other properties is used as it is."""
    await rabbit.api(broker, "PUT", f"exchanges/{vhost}/groups", properties)
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}


async def test_exchange_is_as_version_4_made_it(
    make_layer: MakeLayer, broker: Broker, vhost: str
) -> None:
    """The groups exchange is made direct and not durable, so that version 4.0.1 can share it."""
    await make_layer().current_connection
    made = await rabbit.api(broker, "GET", f"exchanges/{vhost}/groups")
    assert (made["type"], made["durable"], made["auto_delete"]) == ("direct", False, False)
    assert made["internal"] is False
    assert made["arguments"] == {}


async def test_groups_exchange_option(make_layer: MakeLayer) -> None:
    """Layers with different groups_exchange have different groups."""
    one, two = make_layer(groups_exchange="one"), make_layer(groups_exchange="two")
    first, second = await one.new_channel(), await two.new_channel()
    await one.group_add("room", first)
    await two.group_add("room", second)
    await one.group_send("room", {"from": "one"})
    await two.group_send("room", {"from": "two"})
    assert await one.receive(first) == {"from": "one"}
    assert await two.receive(second) == {"from": "two"}
