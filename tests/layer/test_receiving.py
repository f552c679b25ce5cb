"""Waiting for messages, without RabbitMQ: they are put into the mailboxes by the tests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest

from channels_rabbitmq.config.options import Options
from channels_rabbitmq.errors import LoopEnded
from channels_rabbitmq.layer import receiving
from channels_rabbitmq.layer.loop_layer import LoopLayer
from channels_rabbitmq.local.mailboxes import NOWHERE, Delivery
from channels_rabbitmq.local.queue_names import QueueNames
from channels_rabbitmq.local.state import LocalState
from channels_rabbitmq.wire.messages import CHANNEL_KEY, Message, decode, encode
from channels_rabbitmq.wire.serializers import make_codec

#: Receives from a channel.
Receive = Callable[[LoopLayer, str], Coroutine[None, None, Message]]

OWN, OTHER, NORMAL = "channels_me!a", "channels_me!b", "jobs"


@pytest.fixture
async def layer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LoopLayer]:
    """The layer of this loop, whose RabbitMQ is away; closed afterwards."""
    monkeypatch.setattr(logging.getLogger("channels_rabbitmq.broker.recovery"), "disabled", True)
    monkeypatch.setattr(receiving, "_FETCH_TIME", 0.01)
    options = Options.from_config({"host": "amqp://127.0.0.1:1"})
    codec = make_codec(options)
    layer = LoopLayer(
        options,
        codec,
        QueueNames(newest="channels_me"),
        LocalState(options, codec.decode),
        None,
        on_end=lambda loop_layer: None,
        on_late=lambda body: None,
    )
    yield layer
    await layer.close()


def put(layer: LoopLayer, channel: str, n: int) -> None:
    """A message arrives."""
    if channel == NORMAL:
        layer.local.normal.hold(channel, {"n": n}, b"", layer.loop.time())
    else:
        layer.mailboxes.put(Delivery(NOWHERE, 0, layer.loop.time(), b"", {"n": n}), [channel])


def waiters(layer: LoopLayer) -> int:
    """How many futures wait in the mailboxes."""
    local = layer.local
    boxes = [local.mailboxes.box(OWN), local.mailboxes.box(OTHER), local.normal.box(NORMAL)]
    return sum(len(box.waiters) for box in boxes)


@pytest.mark.parametrize("channel", [OWN, NORMAL])
async def test_a_message_that_is_there(layer: LoopLayer, channel: str) -> None:
    """It is given at once, the oldest first."""
    for n in range(3):
        put(layer, channel, n)
    assert [(await receiving.receive(layer, channel))["n"] for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("channel", [OWN, NORMAL])
async def test_waiting_for_a_message(layer: LoopLayer, channel: str) -> None:
    """Whoever waits longest gets it; nobody is left behind."""
    waiting = [asyncio.ensure_future(receiving.receive(layer, channel)) for _ in range(3)]
    await asyncio.sleep(0)
    for n in range(3):
        put(layer, channel, n)
    assert [message["n"] for message in await asyncio.gather(*waiting)] == [0, 1, 2]
    assert waiters(layer) == 0


@pytest.mark.parametrize("channel", [OWN, NORMAL])
async def test_another_reader_was_faster(layer: LoopLayer, channel: str) -> None:
    """A reader that is woken for a message that is gone waits for the next one."""
    waiting = asyncio.ensure_future(receiving.receive(layer, channel))
    await asyncio.sleep(0)
    put(layer, channel, 1)
    assert await receiving.receive(layer, channel) == {"n": 1}
    await asyncio.sleep(0)
    assert not waiting.done()
    put(layer, channel, 2)
    assert await waiting == {"n": 2}


@pytest.mark.parametrize("channel", [OWN, NORMAL])
@pytest.mark.parametrize("woken", [False, True], ids=["waiting", "woken"])
async def test_cancelled(layer: LoopLayer, channel: str, woken: bool) -> None:
    """A message whose reader is cancelled as it comes wakes the next in line."""
    first = asyncio.ensure_future(receiving.receive(layer, channel))
    second = asyncio.ensure_future(receiving.receive(layer, channel))
    await asyncio.sleep(0)
    if woken:
        put(layer, channel, 1)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    if not woken:
        put(layer, channel, 1)
    assert await asyncio.wait_for(second, 5) == {"n": 1}
    assert waiters(layer) == 0


@pytest.mark.parametrize("channel", [OWN, NORMAL])
async def test_the_loop_ended(layer: LoopLayer, channel: str) -> None:
    """Who waits, and who comes later, is told to ask the next owner."""
    waiting = asyncio.ensure_future(receiving.receive(layer, channel))
    many = asyncio.ensure_future(receiving.receive_many(layer, [OTHER, NORMAL], True))
    await asyncio.sleep(0)
    layer.retire()
    for call in (waiting, many, receiving.receive(layer, channel)):
        with pytest.raises(LoopEnded) as ended:
            await call
        assert not ended.value.started


async def test_many_channels(layer: LoopLayer) -> None:
    """Whichever has a message is named with it; the others keep theirs."""
    put(layer, OTHER, 1)
    put(layer, NORMAL, 2)
    got = [await receiving.receive_many(layer, [OWN, OTHER, NORMAL], False) for _ in range(3)]
    assert sorted(filter(None, got)) == [(OTHER, {"n": 1}), (NORMAL, {"n": 2})]
    assert got[2] is None
    assert waiters(layer) == 0


async def test_many_channels_without_blocking(layer: LoopLayer) -> None:
    """A normal channel is waited for a moment, for RabbitMQ to deliver; one's own is not."""
    assert await receiving.receive_many(layer, [OWN, OTHER], False) is None
    started = layer.loop.time()
    assert await receiving.receive_many(layer, [OWN, NORMAL], False) is None
    assert layer.loop.time() - started > 0.005
    fetching = asyncio.ensure_future(receiving.receive_many(layer, [OWN, NORMAL], False))
    await asyncio.sleep(0)
    put(layer, NORMAL, 1)
    assert await fetching == (NORMAL, {"n": 1})
    assert waiters(layer) == 0


async def test_one_that_waits_for_many_leaves_the_others_messages(layer: LoopLayer) -> None:
    """Woken for two channels at once it takes one message; the next in line gets the other."""
    many = asyncio.ensure_future(receiving.receive_many(layer, [OWN, OTHER], True))
    await asyncio.sleep(0)
    singles = {name: asyncio.ensure_future(receiving.receive(layer, name)) for name in (OWN, OTHER)}
    await asyncio.sleep(0)
    put(layer, OWN, 1)
    put(layer, OTHER, 2)
    received = await many
    assert received is not None
    left = OTHER if received[0] == OWN else OWN
    assert await asyncio.wait_for(singles[left], 5) == {"n": 2 if left == OTHER else 1}
    singles[received[0]].cancel()


async def test_many_cancelled(layer: LoopLayer) -> None:
    """Cancelled as a message comes, it leaves that to the next in line."""
    many = asyncio.ensure_future(receiving.receive_many(layer, [OWN, NORMAL], True))
    await asyncio.sleep(0)
    single = asyncio.ensure_future(receiving.receive(layer, OWN))
    await asyncio.sleep(0)
    put(layer, OWN, 1)
    many.cancel()
    await asyncio.wait({many})
    assert await asyncio.wait_for(single, 5) == {"n": 1}
    assert waiters(layer) == 0


@pytest.mark.parametrize("channel", [OWN, NORMAL])
async def test_taken_back(layer: LoopLayer, channel: str) -> None:
    """What was taken for a call that was cancelled is there again, ahead of the rest."""
    put(layer, channel, 1)
    put(layer, channel, 2)
    receiving.take_back(layer, channel, await receiving.receive(layer, channel))
    assert await receiving.receive(layer, channel) == {"n": 1}
    received = await receiving.receive_many(layer, [channel], False)
    receiving.take_back_any(layer, [channel], False, received)
    receiving.take_back_any(layer, [channel], False, None)
    assert await receiving.receive(layer, channel) == {"n": 2}


async def receive_one_of_many(layer: LoopLayer, channel: str) -> Message:
    """Receive by the call for many channels."""
    received = await receiving.receive_many(layer, [channel, OTHER], True)
    assert received is not None
    assert received[0] == channel
    return received[1]


#: Both ways of receiving.
both_ways = pytest.mark.parametrize("receive", [receiving.receive, receive_one_of_many])


async def turns_taken(layer: LoopLayer, receive: Receive, size: int) -> tuple[int, list[int]]:
    """Give a message to 20 readers; count the turns of the loop, and the reads in each."""
    channels = [f"channels_me!{n}" for n in range(20)]
    reads: list[int] = []
    turn = 0

    async def read(channel: str) -> None:
        message = await receive(layer, channel)
        assert len(message["d"]) == size
        reads.append(turn)

    readers = [asyncio.create_task(read(channel)) for channel in channels]
    await asyncio.sleep(0)
    body = encode(CHANNEL_KEY, "c", {"d": [[n] for n in range(size)]}, 10**7)
    delivery = Delivery(NOWHERE, 0, layer.loop.time(), body, decode(body)[2])
    layer.mailboxes.put(delivery, channels)
    while not all(reader.done() for reader in readers):
        await asyncio.sleep(0)
        turn += 1
    return turn, reads


@both_ways
async def test_costly_copies_have_turns_of_their_own(layer: LoopLayer, receive: Receive) -> None:
    """A large nested message for many readers is decoded for one in each turn of the loop."""
    turns, reads = await turns_taken(layer, receive, 20_000)
    assert turns >= 20
    assert len(set(reads)) == 20
    turns, _ = await turns_taken(layer, receive, 20)
    assert turns < 5


@both_ways
async def test_a_cancelled_reader_of_a_costly_message(layer: LoopLayer, receive: Receive) -> None:
    """Its message goes to the next in line."""
    body = encode(CHANNEL_KEY, "c", {"d": [[n] for n in range(200_000)]}, 10**7)
    await layer.copying.acquire()
    first = asyncio.create_task(receive(layer, OWN))
    second = asyncio.create_task(receive(layer, OWN))
    await asyncio.sleep(0)
    delivery = Delivery(NOWHERE, 0, layer.loop.time(), body, decode(body)[2])
    layer.mailboxes.put(delivery, [OWN, "channels_me!more"])
    await asyncio.sleep(0)
    first.cancel()
    layer.copying.release()
    assert len((await second)["d"]) == 200_000
    assert first.cancelled()


async def test_a_costly_message_that_another_took(layer: LoopLayer) -> None:
    """Whoever finds it gone when it is their turn waits for the next, or gets nothing."""
    body = encode(CHANNEL_KEY, "c", {"d": [[n] for n in range(20_000)]}, 10**7)
    delivery = Delivery(NOWHERE, 0, layer.loop.time(), body, decode(body)[2])
    layer.mailboxes.put(delivery, [OWN, "channels_me!more"])
    await layer.copying.acquire()
    faster = asyncio.create_task(receiving.receive(layer, OWN))
    waiting = asyncio.create_task(receive_one_of_many(layer, OWN))
    asking = asyncio.create_task(receiving.receive_many(layer, [OWN], False))
    await asyncio.sleep(0)
    layer.copying.release()
    assert len((await faster)["d"]) == 20_000
    assert await asking is None
    assert not waiting.done()
    layer.deliver(NOWHERE, 1, False, encode(CHANNEL_KEY, OWN, {"n": 1}, 100))
    assert await waiting == {"n": 1}
