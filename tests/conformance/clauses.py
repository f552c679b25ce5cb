"""What the tests of clauses share: how a clause is marked, and ways to read what was sent."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, TypeVar

import pytest
from channels.exceptions import ChannelFull

T = TypeVar("T")
#: A channel layer: whatever has the specification's methods. Peers have no types.
Layer = Any
#: The fixture ``layers``: makes so many layers that share a backing store, with those options.
Layers = Callable[..., Awaitable[list[Layer]]]

Level = Literal["must", "should", "may"]

#: Seconds after which something that should have happened counts as not happening.
PATIENCE = 10.0

#: Marks the end of what a test sent to a channel.
END: dict[str, object] = {"type": "conformance.end"}
#: Finds out whether a channel has a reader.
PROBE: dict[str, object] = {"type": "conformance.probe"}


class NotOffered(Exception):
    """The layer lacks an optional feature. The text says which."""


def clause(level: Level, section: str, sentence: str = "") -> pytest.MarkDecorator:
    """Say how strongly the clause of a test binds, and the section of the document it is in.

    The clause is the test's docstring, or *sentence* where a test proves several.
    """
    return pytest.mark.clause(level, section, sentence=sentence)


def original(
    level: Level, sentence: str, *, listed: Literal["MUST", "SHOULD"] = "MUST"
) -> pytest.MarkDecorator:
    """Say that a test also proves a clause of the original backend document, and of which list."""
    group = f"The original backend document: what a backend {listed} do"
    return pytest.mark.clause(level, "Backend Requirements", sentence=sentence, group=group)


def offered(layer: Layer, *names: str) -> Callable[..., Any]:
    """The first of these methods that the layer has. Raises ``NotOffered`` if it has none."""
    for name in names:
        method = getattr(layer, name, None)
        if callable(method):
            return method  # type: ignore[no-any-return]
    raise NotOffered(f"there is no {names[0]}()")


def need_extension(layer: Layer, extension: str) -> None:
    """Raise ``NotOffered`` unless the layer declares this extension."""
    if extension not in layer.extensions:
        raise NotOffered(f"the layer does not declare the extension {extension!r}")


def new_name(kind: str = "conformance") -> str:
    """The name of a normal channel or a group that no other test uses."""
    return f"{kind}.{secrets.token_hex(6)}"


def numbered(count: int) -> list[dict[str, object]]:
    """So many messages, numbered."""
    return [{"type": "conformance.message", "n": n} for n in range(count)]


async def within(awaitable: Awaitable[T], seconds: float = PATIENCE, what: str = "a call") -> T:
    """Await; fail, saying *what*, if it takes longer."""
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except TimeoutError:
        raise AssertionError(f"{what} did not return within {seconds:g} s") from None


async def receive(layer: Layer, channel: str, seconds: float = PATIENCE) -> dict[str, Any]:
    """The next message of a channel; fail if there is none in time."""
    return await within(layer.receive(channel), seconds, "receive()")


async def send_when_possible(layer: Layer, channel: str, message: dict[str, object]) -> None:
    """Send; wait, as the specification advises, while the channel is full."""
    for _ in range(int(PATIENCE / 0.02)):
        with contextlib.suppress(ChannelFull):
            await layer.send(channel, message)
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"the channel was still full after {PATIENCE:g} s")


async def collect(reader: Layer, channel: str, sender: Layer | None = None) -> list[dict[str, Any]]:
    """All messages that a channel holds now: what is read before a mark that is sent now.

    The mark is sent again while it does not arrive, so that a layer that loses it shows what it
    has lost besides instead of failing here.
    """

    async def mark() -> None:
        while True:
            await send_when_possible(sender or reader, channel, END)
            await asyncio.sleep(0.5)

    marking = asyncio.create_task(mark())
    found = []
    try:
        while (message := await receive(reader, channel)) != END:
            found.append(message)
    finally:
        marking.cancel()
        failed = (await asyncio.gather(marking, return_exceptions=True))[0]
    if isinstance(failed, Exception):
        raise failed
    return found


@contextlib.asynccontextmanager
async def reading(
    layer: Layer,
    channel: str,
    into: list[dict[str, Any]],
    *,
    first: Layer | None = None,
    pause: float = 0,
) -> AsyncIterator[None]:
    """Read a channel into a list while the block runs, with a pause after each message.

    With *first*, a sender, the block begins when that sender reaches the reader, also where a
    layer drops what is sent to a channel that is not being read.
    """
    heard = asyncio.Event()

    async def read() -> None:
        while True:
            message = await layer.receive(channel)
            if message == PROBE:
                heard.set()
                continue
            into.append(message)
            if pause:
                await asyncio.sleep(pause)

    task = asyncio.create_task(read())
    try:
        if first is not None:
            await _probe(first, channel, heard, task)
        yield
    finally:
        task.cancel()
        failed = (await asyncio.gather(task, return_exceptions=True))[0]
    if isinstance(failed, Exception):
        raise failed


async def _probe(
    sender: Layer, channel: str, heard: asyncio.Event, reader: asyncio.Task[None]
) -> None:
    for _ in range(int(PATIENCE / 0.1)):
        await send_when_possible(sender, channel, PROBE)
        if reader.done() or await patiently(heard.is_set, 0.1):
            return
    raise AssertionError("nothing that was sent reached the reader")


async def check_delivery(reader: Layer, channel: str, sender: Layer) -> None:
    """Fail unless a message can be sent to a channel that is being read."""
    async with reading(reader, channel, [], first=sender):
        pass


async def send_at_reading_pace(
    sender: Layer, channel: str, messages: list[dict[str, object]], found: list[dict[str, Any]]
) -> None:
    """Send while others read into *found*, never more than 30 messages ahead of them."""
    for sent, message in enumerate(messages):
        if not await patiently(lambda sent=sent: len(found) > sent - 30, 2):  # type: ignore[misc]
            return  # some were lost; the test will tell
        await sender.send(channel, message)
    await patiently(lambda: len(found) >= len(messages), 2)


async def patiently(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether a condition comes true in time."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return condition()
