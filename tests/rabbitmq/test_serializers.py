"""``serializer_format`` on a real broker."""

from __future__ import annotations

import json
import pickle

import pamqp.commands
import pytest

from tests.helpers.rabbit import MakeLayer


class Pickled:
    """A serializer of the user's own."""

    def serialize(self, message: dict[str, object]) -> bytes:
        """Serialize."""
        return pickle.dumps(message)

    def deserialize(self, body: bytes) -> dict[str, object]:
        """Deserialize."""
        made: dict[str, object] = pickle.loads(body)
        return made


@pytest.mark.parametrize("form", ["msgpack", "json", f"{__name__}.Pickled"])
async def test_everything_works(make_layer: MakeLayer, form: str) -> None:
    """Channels, groups with several members, normal channels: each gets a copy of its own."""
    first, second = make_layer(serializer_format=form), make_layer(serializer_format=form)
    channels = [await second.new_channel() for _ in range(3)]
    for channel in channels:
        await second.group_add("g", channel)
    message = {"type": "t", "list": [1, 2.5, None, True], "bytes": b"\x00\xff", "map": {"ü": "ß"}}
    await first.group_send("g", message)
    received = [await second.receive(channel) for channel in channels]
    assert received == [message] * 3
    assert len({id(each["list"]) for each in received}) == 3
    await first.send(channels[0], message)
    assert await second.receive(channels[0]) == message
    await first.send("jobs", message)
    assert await second.receive("jobs") == message
    assert await first.group_members("g") == sorted(channels)


async def test_json_on_the_wire(make_layer: MakeLayer) -> None:
    """Programs in any language can read and write it."""
    layer = make_layer(serializer_format="json")
    connection = await layer.current_connection
    protocol = connection.protocol  # type: ignore[union-attr]
    caller = protocol.open_channel()
    await caller.call(pamqp.commands.Queue.Declare(queue="spy", exclusive=True))
    await caller.call(pamqp.commands.Queue.Bind(queue="spy", exchange="groups", routing_key="g"))
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    await layer.group_send("g", {"text": "hello"})
    async with connection.acking_consumer("spy") as consumer:
        body, _ = await consumer.next_delivery()
    assert json.loads(body) == {"text": "hello", "__asgi_group__": "g"}
    await connection.publish(
        b'{"__asgi_group__": "g", "text": "from elsewhere"}',
        exchange_name="groups",
        routing_key="g",
    )
    await layer.receive(channel)
    assert await layer.receive(channel) == {"text": "from elsewhere"}
