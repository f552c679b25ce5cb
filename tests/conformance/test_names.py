"""Names"""

from __future__ import annotations

import contextlib
import string
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from tests.conformance.clauses import (
    Layers,
    check_delivery,
    clause,
    collect,
    need_extension,
    new_name,
    numbered,
    patiently,
    reading,
    within,
)

SECTION = "Strings and Unicode"

#: Everything that the specification allows in a name, but for the type characters.
ALPHABET = string.ascii_letters + string.digits + "-_."


@clause("must", SECTION)
async def test_channel_name_of_all_allowed_characters(layers: Layers) -> None:
    """A channel's name may have ASCII letters, digits, hyphens, underscores and periods."""
    here, there = await layers()
    await check_delivery(here, f"{new_name()}{ALPHABET}", there)


@clause("must", SECTION)
async def test_channel_names_are_told_apart_by_case(layers: Layers) -> None:
    """Names that differ in one character, or its case, are different channels."""
    here, there = await layers()
    name = new_name()
    channels = [f"{name}.a", f"{name}.A", f"{name}-a", f"{name}.a."]
    found: list[list[dict[str, Any]]] = [[], [], [], []]
    async with contextlib.AsyncExitStack() as readers:
        for channel, into in zip(channels, found, strict=True):
            await readers.enter_async_context(reading(here, channel, into, first=there))
        for channel, message in zip(channels, numbered(4), strict=True):
            await there.send(channel, message)
        await patiently(lambda: all(found), 5)
    assert found == [[message] for message in numbered(4)], "one got another's message"


@clause("must", SECTION)
async def test_group_name_of_all_allowed_characters(layers: Layers) -> None:
    """A group's name may have ASCII letters, digits, hyphens, underscores and periods."""
    here, there = await layers()
    need_extension(here, "groups")
    channel, group = await here.new_channel(), f"{new_name()}{ALPHABET}"
    await here.group_add(group, channel)
    await there.group_send(group, numbered(1)[0])
    assert await collect(here, channel, there) == numbered(1), "the message did not arrive"


async def accepted(call: Callable[[Any], Awaitable[None]], names: Iterable[object]) -> list[object]:
    """Those of the names that the call does not refuse; with which error is not specified."""
    found = []
    for name in names:
        try:
            await within(call(name), 3)
        except AssertionError as error:
            if "did not return" in str(error):
                found.append(name)
        except Exception:
            continue
        else:
            found.append(name)
    return found


#: Names of neither a channel nor a group.
NO_NAMES = ["", "caf\u00e9", "with space", "a/b", "a:b", b"bytes", None]


@clause("should", SECTION)
async def test_channel_names_have_no_other_characters(layers: Layers) -> None:
    """A channel's name is a Unicode string of nothing else: send() refuses other names."""
    _, there = await layers()
    found = await accepted(lambda name: there.send(name, numbered(1)[0]), [*NO_NAMES, "a!b!c"])
    assert found == [], f"it accepts {', '.join(map(repr, found))}"


@clause("should", SECTION)
async def test_group_names_have_no_other_characters(layers: Layers) -> None:
    """A group's name is a Unicode string of nothing else: group_add() refuses other names."""
    here, _ = await layers()
    need_extension(here, "groups")
    channel = await here.new_channel()
    found = await accepted(lambda name: here.group_add(name, channel), [*NO_NAMES, "a!b"])
    assert found == [], f"it accepts {', '.join(map(repr, found))}"
