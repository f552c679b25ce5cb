"""Messages"""

from __future__ import annotations

import pytest

from tests.conformance.clauses import Layers, clause, receive

SECTION = "Messages"


async def delivered(layers: Layers, value: object) -> object:
    """What arrives, in another process, of a value in a message."""
    here, there = await layers()
    channel = await here.new_channel()
    await there.send(channel, {"type": "conformance.message", "value": value})
    message = await receive(here, channel)
    assert message.keys() == {"type", "value"}, f"the message arrived with the keys {set(message)}"
    return message["value"]


def same(found: object, sent: object) -> bool:
    """Equal, and of the same type: True is not 1, and a list is not a tuple."""
    if isinstance(sent, dict) and isinstance(found, dict):
        return found.keys() == sent.keys() and all(same(found[key], sent[key]) for key in sent)
    if isinstance(sent, list) and isinstance(found, list):
        return len(found) == len(sent) and all(map(same, found, sent))
    return type(found) is type(sent) and repr(found) == repr(sent)


async def check(layers: Layers, value: object, expected: object = None) -> None:
    """Fail unless a value arrives as it was, or as what is expected instead."""
    found = await delivered(layers, value)
    wanted = value if expected is None else expected
    assert same(found, wanted), f"{wanted!r:.60} arrived as {found!r:.60}"


@clause("should", SECTION)
async def test_message_is_a_dict(layers: Layers) -> None:
    """A message must be a dict: send() refuses anything else."""
    here, there = await layers()
    channel = await here.new_channel()
    try:
        await there.send(channel, ["not", "a", "dict"])
    except Exception:
        return  # which error is not specified
    pytest.fail("it accepts a list")


@clause("must", SECTION)
async def test_byte_strings(layers: Layers) -> None:
    """A message may contain byte strings, of any bytes."""
    await check(layers, [b"", bytes(range(256))])


@clause("must", SECTION)
async def test_unicode_strings(layers: Layers) -> None:
    """A message may contain Unicode strings, of any characters."""
    await check(layers, ["", "\0 \n \x7f é € \U0001f407 \uffff"])


@clause("must", SECTION)
async def test_integers_in_the_signed_64_bit_range(layers: Layers) -> None:
    """A message may contain integers within the signed 64-bit range."""
    await check(layers, [0, -1, 2**31, -(2**63), 2**63 - 1])


@clause("must", SECTION)
async def test_double_precision_floats(layers: Layers) -> None:
    """A message may contain floating point numbers within IEEE 754's double precision range."""
    await check(layers, [0.1, -0.0, 1.0, 5e-324, 1.7976931348623157e308])


@clause("must", SECTION)
async def test_lists(layers: Layers) -> None:
    """A message may contain lists."""
    await check(layers, [[], [1, ["a", [b"b", None]]]])


@clause("should", SECTION)
async def test_tuples_are_encoded_as_lists(layers: Layers) -> None:
    """Tuples should be encoded as lists."""
    await check(layers, (1, ("a", ())), [1, ["a", []]])


@clause("must", SECTION)
async def test_dicts_with_unicode_keys(layers: Layers) -> None:
    """A message may contain dicts with Unicode keys."""
    await check(layers, {"": {}, "clé": {"n": {"m": 1}}})


@clause("must", SECTION)
async def test_booleans(layers: Layers) -> None:
    """A message may contain booleans."""
    await check(layers, [True, False])


@clause("must", SECTION)
async def test_none(layers: Layers) -> None:
    """A message may contain None."""
    await check(layers, [None])
