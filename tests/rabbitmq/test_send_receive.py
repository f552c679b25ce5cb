"""Messages to single channels: they arrive, whole, once, in order."""

from __future__ import annotations

import asyncio

import pytest
from channels.exceptions import MessageTooLarge

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


async def test_message_waits_for_receive(make_layer: MakeLayer) -> None:
    """Messages that came before anyone asked wait, in order, channel by channel."""
    layer = make_layer()
    one, two = await layer.new_channel(), await layer.new_channel()
    for number in range(3):
        await layer.send(one, {"n": number})
        await layer.send(two, {"n": -number})
    assert [(await layer.receive(two))["n"] for _ in range(3)] == [0, -1, -2]
    assert [(await layer.receive(one))["n"] for _ in range(3)] == [0, 1, 2]


async def test_order_of_one_sender(make_layer: MakeLayer) -> None:
    """Sends that one sender starts one after the other, without waiting, arrive in that order."""
    here, there = make_layer(), make_layer(remote_capacity=5000)
    channel = await there.new_channel()
    await there.current_connection

    async def receive() -> list[object]:
        return [(await there.receive(channel))["n"] for _ in range(3000)]

    receiving = asyncio.create_task(receive())
    await asyncio.gather(*(here.send(channel, {"n": number}) for number in range(3000)))
    assert await receiving == list(range(3000))


async def test_many_senders_and_receivers(make_layer: MakeLayer) -> None:
    """Of 50 senders and 50 channels of two processes, nothing is lost, mixed up or doubled."""
    layers = [make_layer(remote_capacity=10_000) for _ in range(2)]
    for layer in layers:
        await layer.current_connection
    channels = [await layers[number % 2].new_channel() for number in range(50)]

    async def send(number: int) -> None:
        for n in range(40):
            await layers[number // 2 % 2].send(channels[number], {"to": number, "n": n})

    async def receive(number: int) -> list[object]:
        return [await layers[number % 2].receive(channels[number]) for _ in range(40)]

    *received, _ = await asyncio.gather(
        *(receive(number) for number in range(50)),
        asyncio.gather(*(send(number) for number in range(50))),
    )
    for number, messages in enumerate(received):
        assert messages == [{"to": number, "n": n} for n in range(40)]


async def test_several_receivers_share_a_channel(make_layer: MakeLayer) -> None:
    """Of several who wait on one channel, each message goes to exactly one."""
    layer = make_layer()
    channel = await layer.new_channel()
    waiting = [asyncio.create_task(layer.receive(channel)) for _ in range(10)]
    for number in range(10):
        await layer.send(channel, {"n": number})
    messages = await asyncio.gather(*waiting)
    assert sorted(m["n"] for m in messages) == list(range(10))


@pytest.mark.parametrize("size", [131064, 131065, 6_000_000])
async def test_large_messages(make_layer: MakeLayer, size: int) -> None:
    """Messages of more than one frame, and of at least 5 MB, pass."""
    layer = make_layer()
    channel = await layer.new_channel()
    data = bytes(size)
    await layer.send(channel, {"data": data})
    assert (await layer.receive(channel))["data"] == data


async def test_too_large_a_message(make_layer: MakeLayer) -> None:
    """More than max_message_size raises in the sender, and disturbs no other send."""
    layer = make_layer(max_message_size=1000)
    channel = await layer.new_channel()
    results = await asyncio.gather(
        layer.send(channel, {"n": 1}),
        layer.send(channel, {"data": bytes(1000)}),
        layer.group_send("g", {"data": bytes(1000)}),
        layer.send(channel, {"n": 2}),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [
        type(None),
        MessageTooLarge,
        MessageTooLarge,
        type(None),
    ]
    assert [await layer.receive(channel) for _ in range(2)] == [{"n": 1}, {"n": 2}]


async def test_message_may_change_after_send(make_layer: MakeLayer) -> None:
    """What the sender does with the dict after send() is not seen by the receiver."""
    layer = make_layer()
    channel = await layer.new_channel()
    message: dict[str, object] = {"list": [1]}
    sending = asyncio.ensure_future(layer.send(channel, message))
    await asyncio.sleep(0)
    message["list"] = "changed"
    await sending
    assert await layer.receive(channel) == {"list": [1]}


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


async def test_process_that_is_gone(make_layer: MakeLayer) -> None:
    """A message to a process that is gone is lost without an error: nobody could read it."""
    layer = make_layer()
    await layer.send("channels_gone!abc", {"type": "a"})


async def test_channel_of_another_process(make_layer: MakeLayer) -> None:
    """Receiving from a channel of another process raises ValueError."""
    here, there = make_layer(), make_layer()
    channel = await there.new_channel()
    with pytest.raises(ValueError, match="another process"):
        await here.receive(channel)


async def test_wrong_names(make_layer: MakeLayer) -> None:
    """A name that breaks the specification's rules raises TypeError, in every method."""
    layer = make_layer()
    channel = await layer.new_channel()
    for bad in ("", "with space", "x" * 201, 5, None, "a!b!c"):
        for call in (
            layer.send(bad, {}),  # type: ignore[arg-type]
            layer.receive(bad),  # type: ignore[arg-type]
            layer.group_add(bad, channel),  # type: ignore[arg-type]
            layer.group_add("g", bad),  # type: ignore[arg-type]
            layer.group_discard(bad, channel),  # type: ignore[arg-type]
            layer.group_discard("g", bad),  # type: ignore[arg-type]
            layer.group_send(bad, {}),  # type: ignore[arg-type]
        ):
            with pytest.raises(TypeError, match="must be a str of 1 to 200"):
                await call


async def test_new_channels_differ(make_layer: MakeLayer) -> None:
    """Every new channel has a name of its own, in this process's queue."""
    layer = make_layer()
    names = {await layer.new_channel() for _ in range(1000)}
    assert len(names) == 1000
    assert {name.partition("!")[0] for name in names} == {layer.queue_name}
