"""Point 8: cancellation, exceptions and contexts cross from one loop to the other."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import traceback
import weakref

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from channels_rabbitmq.errors import MessageReturned
from channels_rabbitmq.layer.loop_layer import LoopLayer
from tests.anywhere.scripts.prelude import layer

logging.getLogger("channels_rabbitmq").addHandler(logging.NullHandler())  # warns of full channels
logging.getLogger("channels_rabbitmq").propagate = False
request = contextvars.ContextVar("request", default="none")


async def cancel_receive() -> None:
    channel, other = await layer.new_channel(), await layer.new_channel()
    waiting = [asyncio.create_task(layer.receive(name)) for name in (channel, other)]
    await asyncio.sleep(0.05)
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    assert waiting[0].cancelled()
    await layer.send(channel, {"n": 1})
    await layer.send(other, {"n": 2})
    assert await waiting[1] == {"n": 2}
    assert await layer.receive(channel) == {"n": 1}


async def cancel_receive_as_the_message_comes() -> None:
    """Cancelled at every possible moment, a message is received once all the same."""
    channel = await layer.new_channel()
    for number in range(200):
        waiting = asyncio.create_task(layer.receive(channel))
        sending = asyncio.create_task(layer.send(channel, {"n": number}))
        await asyncio.sleep(number * 1e-5)
        waiting.cancel()
        try:
            got = await waiting
        except asyncio.CancelledError:
            got = await asyncio.wait_for(layer.receive(channel), 5)
        await sending
        assert got == {"n": number}, (got, number)


async def cancel_group_add() -> None:
    """Cancelled at every possible moment, nothing was added; not so for who asked as well."""
    for number in range(100):
        channel = await layer.new_channel()
        adding = asyncio.create_task(layer.group_add("cancelled", channel))
        await asyncio.sleep(number * 1e-5)
        adding.cancel()
        await asyncio.gather(adding, return_exceptions=True)
        if adding.cancelled():  # it takes a moment, while there is no connection yet
            await until_gone("cancelled", channel)
        else:
            assert await layer.group_members("cancelled") == [channel], number
        await layer.group_add("cancelled", channel)
        assert await layer.group_members("cancelled") == [channel]
        await layer.group_discard("cancelled", channel)


async def cancel_two_group_adds() -> None:
    """Two calls for one channel, both cancelled at every possible moment, add nothing."""
    for number in range(30):
        channel = await layer.new_channel() if number % 2 else "jobs"
        adding = [asyncio.create_task(layer.group_add("twice", channel)) for _ in range(2)]
        await asyncio.sleep(number * 3e-5)
        for task in adding:
            task.cancel()
        await asyncio.gather(*adding, return_exceptions=True)
        if all(task.cancelled() for task in adding):
            await until_gone("twice", channel)
        else:
            assert await layer.group_members("twice") == [channel], number
            await layer.group_discard("twice", channel)


async def until_gone(group: str, channel: str) -> None:
    for _ in range(100):
        if await layer.group_members(group) == []:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{channel} is in the group for ever")


async def cancel_sender() -> None:
    channel = await layer.new_channel()
    sending = [asyncio.create_task(layer.send(channel, {"n": n})) for n in range(20)]
    await asyncio.sleep(0)
    for task in sending[::2]:
        task.cancel()
    results = await asyncio.gather(*sending, return_exceptions=True)
    assert results[1::2] == [None] * 10
    got = []
    while len(set(range(1, 20, 2)).difference(got)):
        got.append((await layer.receive(channel))["n"])
    assert sorted(got) == sorted(set(got))


async def fill(channel: str) -> None:
    for _ in range(1000):
        await layer.send(channel, {"type": "filler"})


async def errors() -> None:
    channel = await layer.new_channel()
    for _ in range(100):  # fills the window, then the queue
        await layer.send(channel, {"type": "filler"})
    with pytest.raises(ChannelFull) as full:
        await fill(channel)
    assert full.type is ChannelFull
    text = "".join(traceback.format_exception(full.value))
    assert "in errors" in text, text  # where it was called
    assert "channels_rabbitmq" in text, text  # where it was raised
    for bad, kind in (
        (layer.send("no such name!?", {}), TypeError),
        (layer.send(channel, {1: "int key"}), TypeError),
        (layer.send(channel, {"type": object()}), TypeError),
        (layer.receive("another!channel"), ValueError),
    ):
        with pytest.raises(kind):
            await bad


async def context_arrives() -> None:
    """What runs on the owning loop for a call, such as its logging, sees the caller's context."""

    async def look(loop_layer: LoopLayer) -> str:
        assert loop_layer.loop is not caller
        return request.get()

    caller = asyncio.get_running_loop()
    request.set("the caller's")
    assert await layer._owner.run(look) == "the caller's"


async def no_cycles() -> None:
    """An error that was handled is freed at once, with all that its traceback holds."""
    gc.collect()
    gc.disable()
    try:
        connection = await layer.current_connection
        try:
            await connection.publish(b"", routing_key="no-such-queue", mandatory=True)
        except MessageReturned as error:
            reference = weakref.ref(error)
        await asyncio.sleep(0.05)
        assert reference() is None
    finally:
        gc.enable()


async def check_all() -> None:
    await cancel_receive()
    await cancel_receive_as_the_message_comes()
    await cancel_group_add()
    await cancel_two_group_adds()
    await cancel_sender()
    await no_cycles()
    await errors()
    await context_arrives()


async def owner() -> None:
    """This loop is the owner; calls of another cross."""
    await layer.current_connection
    await asyncio.to_thread(lambda: asyncio.run(check_all()))


asyncio.run(owner())
async_to_sync(cancel_receive)()
async_to_sync(cancel_group_add)()
async_to_sync(cancel_two_group_adds)()
