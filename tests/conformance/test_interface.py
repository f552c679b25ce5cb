"""Interface"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull, MessageTooLarge

from tests.conformance.clauses import (
    Layers,
    clause,
    need_extension,
    new_name,
    numbered,
    receive,
    within,
)

DETAILS = "Specification Details"
EXTENSIONS = "Extensions"
ASYNC = "Asynchronous Support"


async def check_coroutine(call: Any, *arguments: object) -> Any:
    """Await what the method returns for positional arguments; fail if it is not awaitable."""
    result = call(*arguments)
    assert inspect.isawaitable(result), "it is not a coroutine"
    return await within(result)


@clause("must", DETAILS)
async def test_send_is_a_coroutine_of_channel_and_message(layers: Layers) -> None:
    """send(channel, message) is a coroutine; its arguments are positional."""
    (layer,) = await layers(1)
    await check_coroutine(layer.send, await layer.new_channel(), numbered(1)[0])


@clause("must", DETAILS)
async def test_receive_is_a_coroutine_that_returns_the_next_message(layers: Layers) -> None:
    """receive(channel) is a coroutine that returns the next message of the channel."""
    (layer,) = await layers(1)
    channel = await layer.new_channel()
    await layer.send(channel, numbered(1)[0])
    assert await check_coroutine(layer.receive, channel) == numbered(1)[0]


@clause("must", DETAILS)
async def test_receive_waits_for_the_next_message(layers: Layers) -> None:
    """receive(channel) waits while there is no message."""
    here, there = await layers()
    channel = await here.new_channel()
    waiting = asyncio.ensure_future(receive(here, channel))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done, "it returned at once"
    await there.send(channel, numbered(1)[0])
    assert await waiting == numbered(1)[0]


@clause("must", DETAILS)
async def test_new_channel_is_a_coroutine_that_returns_a_new_name(layers: Layers) -> None:
    """new_channel() is a coroutine that returns a new process-specific channel."""
    here, there = await layers()
    names = [await check_coroutine(layer.new_channel) for layer in (here, there) for _ in range(50)]
    assert all(isinstance(name, str) for name in names)
    assert len(set(names)) == 100, "two channels have the same name"
    assert all("!" in name for name in names), "its name is not a process-specific channel's"


@clause("must", DETAILS)
async def test_message_too_large_is_an_attribute(layers: Layers) -> None:
    """The layer has the attribute MessageTooLarge, the exception of that meaning."""
    (layer,) = await layers(1)
    assert getattr(layer, "MessageTooLarge", None) is MessageTooLarge, "there is no such attribute"


@clause("must", DETAILS)
async def test_channel_full_is_an_attribute(layers: Layers) -> None:
    """The layer has the attribute ChannelFull, the exception of that meaning."""
    (layer,) = await layers(1)
    assert getattr(layer, "ChannelFull", None) is ChannelFull, "there is no such attribute"


@clause("must", DETAILS)
async def test_extensions_is_a_list_of_names(layers: Layers) -> None:
    """extensions is a list of the names of the extensions that the layer provides."""
    (layer,) = await layers(1)
    assert isinstance(layer.extensions, list), "it is not a list"
    assert set(layer.extensions) <= {"groups", "flush"}, f"unknown: {layer.extensions}"


@clause("may", EXTENSIONS)
async def test_groups_extension_is_provided(layers: Layers) -> None:
    """The extension "groups", if declared, brings group_add, group_discard and group_send."""
    (layer,) = await layers(1)
    need_extension(layer, "groups")
    channel, group = await layer.new_channel(), new_name("group")
    await check_coroutine(layer.group_add, group, channel)
    await check_coroutine(layer.group_send, group, numbered(1)[0])
    assert await receive(layer, channel) == numbered(1)[0]
    await check_coroutine(layer.group_discard, group, channel)


@clause("may", EXTENSIONS)
async def test_flush_extension_is_provided(layers: Layers) -> None:
    """The extension "flush", if declared, brings flush()."""
    (layer,) = await layers(1)
    need_extension(layer, "flush")
    await check_coroutine(layer.flush)


@clause("must", DETAILS)
async def test_group_expiry_is_an_integer(layers: Layers) -> None:
    """With the extension "groups", group_expiry is an integer number of seconds."""
    (layer,) = await layers(1)
    need_extension(layer, "groups")
    assert hasattr(layer, "group_expiry"), "there is no such attribute"
    found = layer.group_expiry
    assert type(found) is int, f"it is a {type(found).__name__}"
    assert found >= 0


@clause("must", ASYNC)
async def test_async_to_sync_gives_synchronous_versions(layers: Layers) -> None:
    """asgiref's async_to_sync makes synchronous versions of the methods, for plain code."""
    here, there = await layers()
    channel = await here.new_channel()

    def plain_code() -> None:
        for message in numbered(3):
            async_to_sync(there.send)(channel, message)

    await within(asyncio.to_thread(plain_code))
    found = [await receive(here, channel) for _ in range(3)]
    assert found == numbered(3), "the messages did not arrive in their order"
