"""``wire.names``: what may be the name of a channel or a group."""

from __future__ import annotations

import string

import hypothesis.strategies as st
import pytest
from channels.layers import BaseChannelLayer
from hypothesis import example, given

from channels_rabbitmq.wire.names import (
    MAX_LENGTH,
    group_key,
    is_channel_of,
    is_queue,
    random_name,
    require_address,
    require_channel,
    require_group,
)

ALLOWED = string.ascii_letters + string.digits + "-_."


@given(st.text(ALLOWED, min_size=1, max_size=MAX_LENGTH))
def test_allowed_names(name: str) -> None:
    """Every name of allowed characters, up to 200 of them, is given back."""
    assert require_group(name) is name
    assert require_channel(name) is name


@given(st.text(ALLOWED, min_size=1, max_size=99), st.text(ALLOWED, max_size=99))
def test_names_of_own_channels(queue: str, local: str) -> None:
    """A channel's name may have one exclamation mark, a group's none."""
    name = f"{queue}!{local}"
    assert require_channel(name) is name
    with pytest.raises(TypeError, match="group name"):
        require_group(name)


@given(st.text(ALLOWED, min_size=1, max_size=80), st.text(ALLOWED, max_size=80))
def test_addresses(queue: str, local: str) -> None:
    """What may be sent to: normal channels, and channels in the queue of a process."""
    assert require_address(queue) is queue
    name = f"channels_{queue}!{local}"
    assert require_address(name) is name
    assert is_queue(f"channels_{queue}")


@pytest.mark.parametrize(
    "name",
    ["celery!x", "asgi.channel!x", "channels_!x", "Channels_a!x", "channels!x", "x!channels_a"],
)
def test_queues_of_other_programs(name: str) -> None:
    """A name that leads into a queue of no channel layer is a channel's name, and refused."""
    assert require_channel(name) is name
    with pytest.raises(ValueError, match="no queue of a channel layer"):
        require_address(name)
    assert not is_queue(name.partition("!")[0])


@pytest.mark.parametrize("name", ["a!b!c", "no name", "channels_a!ü", "x" * 201, 5, ""])
def test_addresses_are_names(name: object) -> None:
    """What is no channel's name at all raises what every method raises for it."""
    with pytest.raises(TypeError, match="channel name must be"):
        require_address(name)


@pytest.mark.parametrize("name", [None, 5, "channels_" + "x" * 200, "channels_a!b", "channels_a\n"])
def test_names_of_no_queue(name: object) -> None:
    """What another process says its queue is called may be anything."""
    assert not is_queue(name)


@given(st.text(max_size=250) | st.text(st.characters(max_codepoint=127), max_size=250))
@example("\u1c40")
def test_same_as_the_specification(name: str) -> None:
    """What the base class of all layers takes and refuses, we do, up to its 199 characters."""
    layer = BaseChannelLayer()

    def theirs(check: object) -> bool:
        try:
            return bool(check(name))  # type: ignore[operator]
        except TypeError:
            return False

    def ours(check: object) -> bool:
        try:
            check(name)  # type: ignore[operator]
        except TypeError:
            return False
        return True

    if not name.isascii():  # theirs lets the digits of all scripts pass, which are not ASCII
        assert not ours(require_group)
        assert not ours(require_channel)
    elif len(name) < MAX_LENGTH and "\n" not in name:  # theirs lets a last line end pass
        assert ours(require_group) == theirs(layer.require_valid_group_name)
        if name.count("!") <= 1 and not name.startswith("!"):
            assert ours(require_channel) == theirs(layer.require_valid_channel_name)


def test_two_hundred_characters() -> None:
    """200 characters are allowed and 201 are not."""
    assert require_group("g" * 200)
    with pytest.raises(TypeError, match="201 characters"):
        require_group("g" * 201)
    with pytest.raises(TypeError, match="201 characters"):
        require_channel("c" * 201)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("a b", "has ' ' as character 2"),
        ("a\n", r"has '\n' as character 2"),
        ("é", "has 'é' as character 1"),
        ("a/b", "has '/' as character 2"),
        ("a:b", "has ':' as character 2"),
        ("!a", "has '!' as character 1"),
        ("a!b!c", "has '!' as character 4"),
        ("!", "has '!' as character 1"),
        ("\uff41", "has '\uff41' as character 1"),
    ],
)
def test_other_characters(name: str, problem: str) -> None:
    """Other characters are refused, and the first of them is told."""
    with pytest.raises(TypeError, match=r"must be a str of 1 to 200 ASCII letters") as caught:
        require_channel(name)
    assert str(caught.value).endswith(f"; this {problem}")
    with pytest.raises(TypeError, match="must be"):
        require_group(name)


@pytest.mark.parametrize("name", [None, 5, b"bytes", ["list"]])
def test_not_a_str(name: object) -> None:
    """What is no str is refused by its type."""
    with pytest.raises(TypeError, match=type(name).__name__):
        require_channel(name)
    with pytest.raises(TypeError, match=type(name).__name__):
        require_group(name)


def test_random_names_differ() -> None:
    """Random names are valid, and do not meet."""
    names = {random_name() for _ in range(1000)}
    assert len(names) == 1000
    assert all(require_group(name) for name in names)


def test_group_keys() -> None:
    """A prefix is set apart by a colon, which no name can have."""
    assert group_key("", "room") == "room"
    assert group_key("project", "room") == "project:room"


def test_channels_of_a_queue() -> None:
    """A channel belongs to the process whose queue's name it begins with, up to the mark."""
    assert is_channel_of("channels_a", "channels_a!b")
    for name in ("channels_a", "channels_ab!c", "channels_a!b!c", "channels_a!" + "b" * 200):
        assert not is_channel_of("channels_a", name)
