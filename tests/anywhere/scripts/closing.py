"""Point 11: ``close()`` from anywhere, at any time."""

from __future__ import annotations

import asyncio
import atexit
import threading

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import StopConsumer

from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.anywhere.scripts.prelude import OPTIONS, descriptors, owner_threads, sockets


def make() -> RabbitmqChannelLayer:
    return RabbitmqChannelLayer(**OPTIONS)


def expect_closed(layer: RabbitmqChannelLayer, channel: str) -> None:
    calls = (
        (layer.new_channel,),
        (layer.send, channel, {"type": "x"}),
        (layer.receive, channel),
        (layer.receive_many, [channel]),
        (layer.group_add, "room", channel),
        (layer.group_discard, "room", channel),
        (layer.group_send, "room", {"type": "x"}),
        (layer.group_members, "room"),
        (layer.flush,),
    )
    for function, *arguments in calls:
        for run in (async_to_sync, lambda function: lambda *a: asyncio.run(function(*a))):
            with pytest.raises(StopConsumer):
                run(function)(*arguments)
    assert sockets() == 0
    assert owner_threads() == 0


async def use(layer: RabbitmqChannelLayer) -> str:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    return channel


def from_plain_code() -> None:
    layer = make()
    channel = async_to_sync(use)(layer)
    assert sockets() == 1
    async_to_sync(layer.close)()
    async_to_sync(layer.close)()
    expect_closed(layer, channel)


def never_used() -> None:
    layer = make()
    async_to_sync(layer.close)()
    asyncio.run(layer.close())
    expect_closed(layer, f"{layer.queue_name}!x")


def from_a_lasting_loop_while_others_wait() -> None:
    """Everybody who waits, on any loop, is told."""
    layer = make()
    channel = async_to_sync(use)(layer)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            async_to_sync(layer.receive)(channel)
        except BaseException as error:
            ended.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()

    async def close() -> None:
        waiting = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0.2)
        await layer.close()
        results = await asyncio.gather(waiting, return_exceptions=True)
        ended.extend(results)

    asyncio.run(close())
    for thread in threads:
        thread.join()
    assert [type(error) for error in ended] == [StopConsumer] * 4, ended
    expect_closed(layer, channel)


def on_the_owning_loop_and_at_the_same_time() -> None:
    layer = make()

    async def main() -> str:
        channel = await use(layer)
        await asyncio.gather(
            layer.close(),
            layer.close(),
            asyncio.to_thread(async_to_sync(layer.close)),
            asyncio.to_thread(lambda: asyncio.run(layer.close())),
        )
        await layer.close()
        return channel

    expect_closed(layer, asyncio.run(main()))


def from_threads_at_the_same_time() -> None:
    layer = make()
    channel = async_to_sync(use)(layer)
    threads = [threading.Thread(target=async_to_sync(layer.close)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect_closed(layer, channel)


def after_owner_has_ended() -> None:
    layer = make()
    channel = asyncio.run(use(layer))
    async_to_sync(layer.close)()
    expect_closed(layer, channel)


from_plain_code()
before = descriptors()
never_used()
from_a_lasting_loop_while_others_wait()
on_the_owning_loop_and_at_the_same_time()
from_threads_at_the_same_time()
after_owner_has_ended()
assert descriptors() == before

# And at the interpreter's exit: one on the loop of its own thread, one after the thread's end.
last = make()
async_to_sync(use)(last)
atexit.register(lambda: asyncio.run(last.close()))
left_open = make()
async_to_sync(use)(left_open)
print("closed", flush=True)
