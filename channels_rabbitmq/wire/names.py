"""The names of channels and groups, by the Channel Layer Specification.

https://channels.readthedocs.io/en/latest/channel_layer_spec.html#channels
"""

from __future__ import annotations

import random
import re
import string
from functools import lru_cache

#: Characters in a name, this many included.
MAX_LENGTH = 200

_CHANNEL = re.compile(r"[a-zA-Z0-9\-_.]+(![a-zA-Z0-9\-_.]*)?", re.ASCII)
_GROUP = re.compile(r"[a-zA-Z0-9\-_.]+", re.ASCII)
#: How the name of every process's queue begins, in version 4.0.1 too.
QUEUE_START = "channels_"
_QUEUE = re.compile(rf"{QUEUE_START}[a-zA-Z0-9\-_.]+", re.ASCII)
#: Channels of processes first, which are the most, and without a way back for what has matched.
_ADDRESS = re.compile(
    rf"{QUEUE_START}[a-zA-Z0-9\-_.]++![a-zA-Z0-9\-_.]*+|[a-zA-Z0-9\-_.]++", re.ASCII
)
#: Names that were looked at of late, and are not looked at again: most come more than once.
_REMEMBERED = 4096
_ALLOWED = f"a str of 1 to {MAX_LENGTH} ASCII letters, digits, hyphens, underscores and full stops"


@lru_cache(_REMEMBERED)
def _is_address(name: str) -> bool:
    return _ADDRESS.fullmatch(name) is not None


@lru_cache(_REMEMBERED)
def _is_group(name: str) -> bool:
    return _GROUP.fullmatch(name) is not None


def require_channel(name: object) -> str:
    """Give the name back, or raise :class:`TypeError` if no channel can have it."""
    if isinstance(name, str) and len(name) <= MAX_LENGTH and _CHANNEL.fullmatch(name):
        return name
    raise TypeError(
        f"a channel name must be {_ALLOWED}, and at most one '!', which is not the first; "
        f"this {_problem(name, _CHANNEL)}"
    )


def require_address(name: object) -> str:
    """Give the name back, or raise an error if no channel layer receives what is sent there.

    :class:`TypeError` for what no channel can be called, and :class:`ValueError` if the name is in
    a queue that is no process's: a message would be published into another program's queue.
    """
    if isinstance(name, str) and len(name) <= MAX_LENGTH and _is_address(name):
        return name
    require_channel(name)
    raise ValueError(
        f"what such a channel name has before the '!' begins with {QUEUE_START!r}: this is in no "
        "queue of a channel layer"
    )


def is_queue(name: object) -> bool:
    """Whether a process's queue can have the name, such that names of channels fit after it."""
    return isinstance(name, str) and len(name) < MAX_LENGTH and _QUEUE.fullmatch(name) is not None


def require_group(name: object) -> str:
    """Give the name back, or raise :class:`TypeError` if no group can have it."""
    if isinstance(name, str) and len(name) <= MAX_LENGTH and _is_group(name):
        return name
    raise TypeError(f"a group name must be {_ALLOWED}; this {_problem(name, _GROUP)}")


def is_group(name: object) -> bool:
    """Whether a group can have the name."""
    return isinstance(name, str) and len(name) <= MAX_LENGTH and _GROUP.fullmatch(name) is not None


def is_channel(name: object) -> bool:
    """Whether a channel can have the name."""
    return (
        isinstance(name, str) and len(name) <= MAX_LENGTH and _CHANNEL.fullmatch(name) is not None
    )


def group_key(prefix: str, group: str) -> str:
    """The routing key of a group. Without a prefix it is as in version 4.0.1."""
    return f"{prefix}:{group}" if prefix else group


def is_channel_of(queue_name: str, name: str) -> bool:
    """Whether a channel of the process with that queue can have the name."""
    return (
        len(name) <= MAX_LENGTH
        and name.startswith(f"{queue_name}!")
        and _CHANNEL.fullmatch(name) is not None
    )


def random_name() -> str:
    """Twelve random letters: about 68 bits."""
    return "".join(random.SystemRandom().choices(string.ascii_letters, k=12))


def _problem(name: object, pattern: re.Pattern[str]) -> str:
    """What is wrong with a name; of what it says, only the first character that is."""
    if not isinstance(name, str):
        return f"is a {type(name).__name__}"
    if not name:
        return "is empty"
    if len(name) > MAX_LENGTH:
        return f"has {len(name)} characters"
    matched = pattern.match(name)
    place = matched.end() if matched else 0
    return f"has {name[place]!r} as character {place + 1}"
