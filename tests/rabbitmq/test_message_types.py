"""Messages of every type that the specification allows arrive; any other raises in the sender."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.rabbit import MakeLayer

EVERYTHING = {
    "type": "test.everything",
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 2**64 - 1, -(2**63)],
    "floats": [0.0, -1.5, 1e300],
    "text": "h\u00e9llo \U0001f30d\0",
    "bytes": bytes(range(256)),
    "empty": ["", b"", [], {}],
    "deep": {"a": [{"b": [[{"c": b"d"}]]}]},
}


async def test_from_one_process_to_another(make_layer: MakeLayer) -> None:
    """A message of every allowed type arrives at another process as it was sent."""
    here, there = make_layer(), make_layer()
    channel = await there.new_channel()
    await there.current_connection
    receiving = asyncio.create_task(there.receive(channel))
    await here.send(channel, EVERYTHING)
    assert await receiving == EVERYTHING


async def test_to_oneself_as_first_use(make_layer: MakeLayer) -> None:
    """A layer connects on its first call, and may send to its own channels."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "a"})
    assert await layer.receive(channel) == {"type": "a"}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({1: "int key"}, TypeError),
        ({"a": {1: "int key"}}, TypeError),
        ({"a": object()}, TypeError),
        ({"a": 2**64}, ValueError),
        ({"a": "\ud800"}, ValueError),
        ({"__asgi_channel__": "mine"}, ValueError),
        ("no dict", TypeError),
    ],
    ids=str,
)
async def test_what_cannot_be_sent(
    make_layer: MakeLayer, message: object, error: type[Exception]
) -> None:
    """What a receiver could not be given raises in the sender's own call; all goes on."""
    layer = make_layer()
    channel = await layer.new_channel()
    with pytest.raises(error):
        await layer.send(channel, message)  # type: ignore[arg-type]
    with pytest.raises(error):
        await layer.group_send("g", message)  # type: ignore[arg-type]
    await layer.send(channel, {"type": "fine"})
    assert await layer.receive(channel) == {"type": "fine"}
