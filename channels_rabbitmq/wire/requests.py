"""What processes ask each other, as messages. Every field is checked here, without I/O.

Whoever may publish to the control exchange can write such messages, so what is read is held to what
the public methods take: names by the specification, known kinds, bounded lengths and numbers.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from typing import Protocol

from .messages import Message
from .names import is_channel, is_group, is_queue

#: What a message is for, in place of a group's name. No name of a group begins with the mark.
MARK = "!"
HELLO, ASK, ANSWER = "!hello", "!ask", "!answer"
#: Of what is published to a queue to find out whether that is there. Nobody reads it.
PROBE = "!probe"

#: What may be asked: of all processes, which only answer;
PRESENT, MEMBERS, BOUND = "present", "members", "bound"
#: and of one, which does something.
FLUSH, JOIN, LEAVE = "flush", "join", "leave"

#: Names in one message of an answer, and such messages of one answer, at most.
NAMES_PER_PART = 2000
MOST_PARTS = 1000
#: Earlier names that a message tells of its sender, at most.
MOST_EARLIER = 100

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def control_exchange(groups_exchange: str) -> str:
    """The name of the exchange for all of this."""
    return f"{groups_exchange}.control"


def control_key(prefix: str) -> str:
    """The routing key that every process of a prefix binds. No queue's name begins so."""
    return f"!control:{prefix}"


def askers_key(prefix: str) -> str:
    """The routing key that processes bind which have asked something."""
    return f"!askers:{prefix}"


class Receiver(Protocol):
    """The process that reads, as far as it knows its own names."""

    def own(self, queue_name: str, /) -> bool:
        """Whether it is, or was, a queue of this process."""

    def is_channel(self, name: str, /) -> bool:
        """Whether a channel of this process can have the name."""


@dataclass(frozen=True)
class Sender:
    """The process that wrote a message: its queue, and names that the queue had before."""

    queue: str
    earlier: list[str] = field(default_factory=list)

    def message(self) -> Message:
        """The fields that every message has."""
        return {"from": self.queue, "earlier": self.earlier}


@dataclass(frozen=True)
class Hello:
    """A process tells that it is there."""

    sender: Sender


@dataclass(frozen=True)
class Question:
    """What one process asks of others."""

    what: str
    group: str = ""
    channel: str = ""
    #: The queue of the process that is asked; empty for all. A recording is of no use elsewhere.
    to: str = ""
    #: Tells questions apart.
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def changes(self) -> bool:
        """Whether to carry it out twice is not the same as once."""
        return self.what not in (PRESENT, MEMBERS, BOUND)

    def message(self, sender: Sender) -> Message:
        """The message that asks it."""
        return {
            **sender.message(),
            "to": self.to,
            "what": self.what,
            "group": self.group,
            "channel": self.channel,
            "id": self.id,
        }


@dataclass(frozen=True)
class Asked:
    """A question, and who asks it."""

    sender: Sender
    question: Question


@dataclass(frozen=True)
class AnswerPart:
    """One message of the answer of one process."""

    sender: Sender
    id: str
    part: int
    parts: int
    names: list[str]

    def message(self) -> Message:
        """The message that says it."""
        return {
            **self.sender.message(),
            "id": self.id,
            "part": self.part,
            "parts": self.parts,
            "names": self.names,
        }


def read_request(
    name: str, message: Message, receiver: Receiver
) -> Hello | Asked | AnswerPart | None:
    """Read what came for a process; None for what is not valid, or its own.

    ``name`` is in place of a group's.
    """
    queue, earlier = message.get("from"), message.get("earlier")
    if not isinstance(queue, str) or not is_queue(queue) or receiver.own(queue):
        return None
    if (
        not isinstance(earlier, list)
        or len(earlier) > MOST_EARLIER
        or not all(map(is_queue, earlier))
    ):
        return None
    sender = Sender(queue, earlier)
    if name == HELLO:
        return Hello(sender)
    request_id = message.get("id")
    if not isinstance(request_id, str) or not _ID.fullmatch(request_id):
        return None
    if name == ASK:
        return _read_question(sender, request_id, message, receiver)
    if name == ANSWER:
        return _read_answer(sender, request_id, message)
    return None


def _read_question(
    sender: Sender, request_id: str, message: Message, receiver: Receiver
) -> Asked | None:
    what, to = message.get("what"), message.get("to")
    group, channel = message.get("group"), message.get("channel")
    valid = False
    here = isinstance(to, str) and receiver.own(to)
    if what == PRESENT:
        valid = (group, channel, to) == ("", "", "")
    elif what in (MEMBERS, BOUND):
        valid = is_group(group) and (channel, to) == ("", "")
    elif what == FLUSH:
        valid = here and (group, channel) == ("", "")
    elif what in (JOIN, LEAVE):
        valid = (
            here and is_group(group) and isinstance(channel, str) and receiver.is_channel(channel)
        )
    if not valid:
        return None  # not ours, or from a version to come
    return Asked(sender, Question(str(what), str(group), str(channel), str(to), request_id))


def _read_answer(sender: Sender, request_id: str, message: Message) -> AnswerPart | None:
    part, parts, names = message.get("part"), message.get("parts"), message.get("names")
    if (
        type(part) is int
        and type(parts) is int
        and 0 <= part < parts <= MOST_PARTS
        and isinstance(names, list)
        and len(names) <= NAMES_PER_PART
        and all(map(is_channel, names))
    ):
        return AnswerPart(sender, request_id, part, parts, names)
    return None
