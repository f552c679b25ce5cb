"""``symmetric_encryption_keys`` on a real broker, and in real processes while keys change."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from contextlib import ExitStack

import pamqp.commands
import pytest

from channels_rabbitmq.wire import encryption
from tests.helpers.processes import Process, running
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

#: What is said of a message that the queue of one process did not take.
_OF_ITS_QUEUE = re.compile(
    r"^WARNING:\S+:\[.*\] Message to group room not taken for .*\n", re.MULTILINE
)

pytestmark = pytest.mark.slow


#: A process that tells its channel, then each message; told something, it sends that on to all.
CHATTER = """
async def listen(channel):
    while True:
        tell(await layer.receive(channel))

async def main():
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    tell("ready")
    listening = asyncio.create_task(listen(channel))
    while True:
        asked = await hear()
        if asked == "stop":
            break
        await layer.group_send("room", asked)
    # What is on its way still comes.
    await asyncio.sleep(0.3)
    listening.cancel()
    await layer.close()
    tell("stopped")
"""


async def spy_on(layer: object, key: str) -> tuple[object, str]:
    """A queue that gets what is sent to a group, beside its members."""
    connection = await layer.current_connection  # type: ignore[attr-defined]
    caller = connection.protocol.open_channel()
    await caller.call(pamqp.commands.Queue.Declare(queue="spy", exclusive=True))
    await caller.call(pamqp.commands.Queue.Bind(queue="spy", exchange="groups", routing_key=key))
    return connection, "spy"


async def test_nothing_can_be_read(make_layer: MakeLayer) -> None:
    """Neither texts nor keys nor names are in the bytes that the broker sees."""
    layer = make_layer(symmetric_encryption_keys=["secret"])
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    connection, queue = await spy_on(layer, "g")
    await layer.group_send("g", {"type": "chat.message", "text": "the-text"})
    assert await layer.receive(channel) == {"type": "chat.message", "text": "the-text"}
    async with connection.acking_consumer(queue) as consumer:  # type: ignore[attr-defined]
        body, _ = await consumer.next_delivery()
    for readable in (b"text", b"chat", b"type", b"asgi", channel.encode()):
        assert readable not in body


async def test_a_group_is_decrypted_for_each_member(make_layer: MakeLayer) -> None:
    """Every member gets a copy of its own."""
    layer = make_layer(symmetric_encryption_keys=["secret"])
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("g", channel)
    await layer.group_send("g", {"list": [1]})
    received = [await layer.receive(channel) for channel in channels]
    assert received == [{"list": [1]}] * 3
    assert len({id(message["list"]) for message in received}) == 3


@pytest.mark.parametrize(
    ("theirs", "mine", "says"),
    [
        (["other"], ["secret"], "none of symmetric_encryption_keys decrypts it"),
        ([], ["secret"], "it is not encrypted, and symmetric_encryption_keys is set"),
        (["other"], [], "it is encrypted, and symmetric_encryption_keys is not set"),
    ],
)
async def test_what_is_dropped(
    make_layer: MakeLayer,
    caplog: pytest.LogCaptureFixture,
    theirs: list[str],
    mine: list[str],
    says: str,
) -> None:
    """What cannot be decrypted, or is plain text, is dropped; a warning says which."""
    sender = make_layer(symmetric_encryption_keys=theirs)
    layer = make_layer(symmetric_encryption_keys=mine)
    await layer.current_connection
    channel = await layer.new_channel()
    with caplog.at_level(logging.WARNING):
        await sender.send(channel, {"text": "the-text"})
        await sender.send("jobs", {"text": "the-text"})
        await layer.send(channel, {"n": 1})
        assert await layer.receive(channel) == {"n": 1}
    assert says in caplog.text
    assert "the-text" not in caplog.text
    assert await layer.receive_many(["jobs"]) == (None, None)


async def test_normal_channels_and_flush(make_layer: MakeLayer) -> None:
    """Normal channels are encrypted too, and so is what processes ask each other."""
    keys = {"symmetric_encryption_keys": ["secret"], "serializer_format": "json"}
    first, second = make_layer(**keys), make_layer(**keys)
    await first.send("jobs", {"n": 1})
    assert await second.receive("jobs") == {"n": 1}
    channel = await second.new_channel()
    await second.group_add("g", channel)
    assert await first.group_members("g") == [channel]
    await first.flush()
    assert await second.group_members("g") == []


KEYS = {"symmetric_encryption_keys": ["secret"]}


async def test_a_recorded_message_elsewhere(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """What a spy recorded of a group is taken in no other project, nor by a normal channel."""
    layer, other = make_layer(**KEYS), make_layer(prefix="other", **KEYS)
    theirs = await other.new_channel()
    await other.group_add("g", theirs)
    connection, queue = await spy_on(layer, "g")
    await layer.group_send("g", {"n": "recorded"})
    await layer.send("jobs", {"n": 1})
    assert await layer.receive("jobs") == {"n": 1}
    async with connection.acking_consumer(queue) as consumer:  # type: ignore[attr-defined]
        body, _ = await consumer.next_delivery()
    with caplog.at_level(logging.WARNING):
        publish = connection.publish  # type: ignore[attr-defined]
        await publish(body, exchange_name="groups", routing_key="other:g")
        await publish(body, exchange_name="", routing_key="asgi.channel::jobs")
        await layer.send("jobs", {"n": 2})
        assert await layer.receive("jobs") == {"n": 2}
        await other.group_send("g", {"n": 3})
        assert await other.receive(theirs) == {"n": 3}
    assert "it was encrypted for another prefix" in caplog.text
    assert "it was encrypted for a group, and sent to something else" in caplog.text


async def test_a_recorded_message_later(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused once no message can be that old."""
    clock, later = time.time, 0
    monkeypatch.setattr(encryption.time, "time", lambda: clock() + later)
    layer = make_layer(expiry=10, local_expiry=20, **KEYS)
    channel = await layer.new_channel()
    await layer.group_add("g", channel)
    connection, queue = await spy_on(layer, "g")
    await layer.group_send("g", {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
    async with connection.acking_consumer(queue) as consumer:  # type: ignore[attr-defined]
        body, _ = await consumer.next_delivery()
    later = 332
    await connection.publish(body, exchange_name="groups", routing_key="g")  # type: ignore[attr-defined]
    await layer.group_send("g", {"n": 2})
    assert await layer.receive(channel) == {"n": 2}
    assert "it was encrypted too long ago" in caplog.text


async def test_a_normal_channel_in_a_group(make_layer: MakeLayer) -> None:
    """It gets the group's messages, also those that a closing process gives back."""
    first, second = make_layer(**KEYS), make_layer(**KEYS)
    await first.group_add("g", "jobs")
    await first.group_send("g", {"n": 1})
    assert await second.receive("jobs") == {"n": 1}
    loop_layer = second._owner._loop_layer
    assert loop_layer is not None
    body = second._encode("__asgi_group__", "g", {"n": 2}, 1000)
    # As if the call that it was delivered for had been cancelled.
    loop_layer.local.normal.put_back("jobs", {"n": 2}, body, loop_layer.loop.time())
    await second.close()
    assert await first.receive("jobs") == {"n": 2}


@pytest.mark.timeout(180)
async def test_keys_change_under_traffic(amqp_url: str) -> None:
    """Three processes are restarted with new keys, one by one, three times; nothing is lost.

    First every process learns to read the new key, then every one writes with it, and then the
    old key goes. Whatever was sent while a process was there reaches it, once.
    """
    stages = [["old"], ["old", "new"], ["new", "old"], ["new"]]
    sent = 0
    chatters: list[Chatter] = []

    async def talk() -> None:
        nonlocal sent
        while True:
            chatters[sent % len(chatters)].process.tell({"n": sent})
            sent += 1
            await asyncio.sleep(0.01)

    with ExitStack() as stack:

        async def start(keys: list[str]) -> Chatter:
            process = stack.enter_context(
                running(
                    CHATTER,
                    host=amqp_url,
                    symmetric_encryption_keys=keys,
                    remote_capacity=100_000,
                    local_capacity=10_000,
                )
            )
            assert await process.hear() == "ready"
            return Chatter(process, sent)

        async def stop(chatter: Chatter) -> None:
            wanted = set(range(chatter.joined, sent))
            await until(lambda: wanted <= set(chatter.received), timeout=30)
            chatter.process.tell("stop")
            await asyncio.wait_for(chatter.collecting, 30)
            ended = await chatter.process.end()
            # RabbitMQ 4 may refuse a message for a process whose queue is deleted at that moment.
            assert (ended.code, _OF_ITS_QUEUE.sub("", ended.err)) == (0, ""), ended
            assert len(chatter.received) == len(set(chatter.received))

        chatters += [await start(stages[0]) for _ in range(3)]
        talking = asyncio.create_task(talk())
        for keys in stages[1:]:
            for _ in range(3):
                chatters.append(await start(keys))
                await stop(chatters.pop(0))
        talking.cancel()
        for chatter in chatters:
            await stop(chatter)
    assert sent > 100


class Chatter:
    """One process of it, and what it received."""

    def __init__(self, process: Process, joined: int) -> None:
        self.process = process
        #: The number of the first message that it must receive.
        self.joined = joined
        self.received: list[int] = []
        self.collecting = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        while (told := await self.process.hear()) != "stopped":
            self.received.append(told["n"])
