"""Requests between processes: through the groups exchange, with keys that no group can have.

Every process binds its queue for the control key, so that a question reaches all of them. Answers
go to the queue of the process that asked.

Which processes there are is found out like this. Before a process asks for the first time on a
connection, it binds its queue for the askers' key; then it waits for :data:`DISCOVERY` seconds for
answers from processes that it does not know. From then on, each process that connects publishes a
hello with that key. One that has gone is noticed when a message to its queue comes back. Version
4.0.1 binds none of these keys and is never asked.

A question is repeated until it is answered, because a queue may be full and a connection may end.
Its id keeps a process from carrying it out twice.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass, field
from functools import partial

from channels.exceptions import StopConsumer

from ..amqp.futures import retrieve
from ..config.options import Options
from ..errors import (
    AmqpError,
    LoopEnded,
    MessageReturned,
    NotAnswered,
    NotConnected,
    PreconditionFailed,
    ServerSentNack,
)
from ..local.background import Background
from ..local.queue_names import QueueNames
from ..local.state import LocalState
from ..log import RateLimitedWarning
from ..wire.messages import GROUP_KEY, Message
from ..wire.serializers import Codec
from .groups import Groups
from .normal_channels import NormalChannels
from .recovery import Recovery
from .topology import Topology

logger = logging.getLogger(__name__)

#: What a message is for, in place of a group's name. No name of a group begins with the mark.
MARK = "!"
_HELLO, _ASK, _ANSWER = "!hello", "!ask", "!answer"

#: What may be asked.
MEMBERS, FLUSH, JOIN, LEAVE = "members", "flush", "join", "leave"

#: Seconds in which unknown processes may answer the first question on a connection.
DISCOVERY = 0.3
#: Seconds until processes that have not answered are asked again: at first, and at most.
_REMIND = (0.05, 1.0)
#: Names in one message of an answer.
_NAMES_PER_PART = 2000
#: Questions whose answers are remembered, so that one asked again is not carried out again.
_REMEMBERED = 256
#: Bytes of one message; far below what any RabbitMQ takes.
_MOST_BYTES = 4 * 1024 * 1024


def control_key(prefix: str) -> str:
    """The routing key that every process of a prefix binds."""
    return f"!control:{prefix}"


def askers_key(prefix: str) -> str:
    """The routing key that processes bind which have asked something."""
    return f"!askers:{prefix}"


@dataclass(frozen=True)
class Question:
    """What one process asks of others."""

    what: str
    group: str = ""
    channel: str = ""
    #: Tells questions apart.
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class Answers:
    """The answers to one question, as they come. No I/O."""

    def __init__(self, question: Question) -> None:
        self.question = question
        #: The names in each part of each process's answer.
        self._parts: dict[str, dict[int, list[str]]] = {}
        #: The processes whose answers are whole.
        self.answered: set[str] = set()
        #: The processes that are known and have not answered; set when the asking ends.
        self.missing: set[str] = set()
        #: Whether the queue of every process took the question; None while RabbitMQ has not told.
        self.accepted: bool | None = None
        #: Set whenever an answer is whole.
        self.news = asyncio.Event()

    @property
    def complete(self) -> bool:
        """Whether every process that is known has answered."""
        return self.accepted is True and not self.missing

    @property
    def remark(self) -> str:
        """Why more may be missing than is known; empty if all have the question."""
        if self.accepted is None:
            return "; RabbitMQ did not take the question in time"
        return "" if self.accepted else "; at least one had no room for the question"

    @property
    def names(self) -> set[str]:
        """All names in all answers."""
        return {
            name for parts in self._parts.values() for names in parts.values() for name in names
        }

    def add(self, process: str, part: int, parts: int, names: list[str]) -> None:
        """One message of an answer came; perhaps again."""
        known = self._parts.setdefault(process, {})
        known[part] = names
        if len(known) >= parts and process not in self.answered:
            self.answered.add(process)
            self.news.set()


class Peers:
    """Asks other processes, and does what they ask for, on one event loop."""

    def __init__(
        self,
        options: Options,
        codec: Codec,
        names: QueueNames,
        recovery: Recovery,
        state: LocalState,
        groups: Groups,
        normal: NormalChannels,
    ) -> None:
        self._options = options
        self._exchange = options.groups_exchange
        self._control_key = control_key(options.prefix)
        self._askers_key = askers_key(options.prefix)
        self._codec = codec
        self._names = names
        self._recovery = recovery
        self._state = state
        self._groups = groups
        self._normal = normal
        self._loop = asyncio.get_running_loop()
        #: The queues of the other processes that were heard of.
        self._known: set[str] = set()
        #: The topology on which the askers' key is bound.
        self._listening: Topology | None = None
        #: Until when processes that are not known may answer; in the clock of the loop.
        self._discovered_at: float | None = None
        self._asked: dict[str, Answers] = {}
        #: The questions that were asked of this process lately; None while one is carried out.
        self._served: dict[str, list[str] | None] = {}
        self._background = Background(self._loop)
        self._warn = RateLimitedWarning(logger)
        self._warn_unanswered = RateLimitedWarning(logger)

    def topology_started(self, topology: Topology) -> None:
        """Publish a hello to the processes that ask."""
        self._listening = None
        body = self._encode(_HELLO, {"from": self._names.newest})
        topology.publish(self._exchange, self._askers_key, body).add_done_callback(retrieve)

    def cancel(self) -> None:
        """Cancel all answers under way."""
        self._background.cancel()

    # What may be asked

    async def group_members(self, group: str, timeout: float) -> list[str]:
        """List the channels in a group, as far as the processes answer in time."""
        own = self._members(group)
        answers = await self._ask_all(Question(MEMBERS, group), timeout)
        if not answers.complete:
            self._warn_unanswered(
                "group_members(%r): %d processes did not answer within %g s%s",
                group,
                len(answers.missing),
                timeout,
                answers.remark,
            )
        return sorted(answers.names.union(own))

    async def flush(self) -> None:
        """Empty all channels and groups, of every process, within ``send_timeout``."""
        timeout = self._options.send_timeout
        due = self._loop.time() + timeout
        try:
            await self._flush()
        except TimeoutError:
            raise NotConnected(
                f"RabbitMQ did not answer within send_timeout ({timeout:g} s)"
            ) from None
        answers = await self._ask_all(Question(FLUSH), max(due - self._loop.time(), 0))
        if not answers.complete:
            raise NotAnswered(
                f"{len(answers.missing)} processes did not flush within send_timeout "
                f"({timeout:g} s){answers.remark}"
            )

    async def group_add(self, process: str, group: str, channel: str) -> None:
        """Have another process add its channel to a group; nothing happens if it has gone."""
        await self._ask_one(process, Question(JOIN, group, channel))

    async def group_discard(self, process: str, group: str, channel: str) -> None:
        """Have another process take its channel out of a group."""
        await self._ask_one(process, Question(LEAVE, group, channel))

    # What others ask for

    async def _serve(self, question: Question) -> list[str]:
        """Do what another process asks for; give the names for the answer."""
        group, channel = question.group, question.channel
        if question.what == MEMBERS:
            return self._members(group)
        if question.what == FLUSH:
            await self._flush()
        elif self._names.is_channel(channel):
            if question.what == JOIN:
                await self._groups.add(group, channel)
            elif question.what == LEAVE:
                self._groups.discard(group, channel)
        return []

    def _members(self, group: str) -> list[str]:
        state = self._state
        return [*state.memberships.members(group), *state.normal_memberships.members(group)]

    async def _flush(self) -> None:
        """Empty all channels and groups of this process, and the normal channels it used."""
        async with asyncio.timeout(self._options.send_timeout):
            await self._recovery.run(self._flush_on)

    async def _flush_on(self, topology: Topology) -> None:
        self._groups.clear()
        await topology.purge()
        self._groups.clear()  # of what was delivered, or joined, before the queue was empty
        await self._normal.flush(topology)

    # Asking

    async def _ask_all(self, question: Question, timeout: float) -> Answers:
        """Ask every other process; end once all that are known have answered, or in time."""
        answers = self._asked[question.id] = Answers(question)
        try:
            async with asyncio.timeout(timeout):
                await self._recovery.run(partial(self._ask_all_on, answers))
        except TimeoutError:
            pass
        finally:
            del self._asked[question.id]
        answers.missing = self._known - answers.answered
        return answers

    async def _ask_all_on(self, answers: Answers, topology: Topology) -> None:
        if self._listening is not topology:
            await topology.bind(self._askers_key).follow()
            self._listening = topology
            self._discovered_at = None
        body = self._encode_question(answers.question)
        delay, longest = _REMIND
        while True:
            if not answers.accepted:
                # Nobody but ourselves may be bound, but we always are: this cannot come back.
                answers.accepted = await self._try_publish(topology, self._control_key, body)
            now = self._loop.time()
            if self._discovered_at is None:
                self._discovered_at = now + DISCOVERY
            missing = self._known - answers.answered
            if answers.accepted and not missing and now >= self._discovered_at:
                return
            waiting = bool(missing) or not answers.accepted
            pause = delay if waiting else self._discovered_at - now
            if not await _wait(answers.news, pause) and waiting:
                for process in self._known - answers.answered:
                    await self._remind(process, body, topology)
                delay = min(2 * delay, longest)

    async def _try_publish(self, topology: Topology, key: str, body: bytes) -> bool:
        try:
            await topology.publish_mandatory(self._exchange, key, body)
        except (ServerSentNack, PreconditionFailed):
            # The queue of at least one process is full; or another message was too large.
            return False
        return True

    async def _remind(self, process: str, body: bytes, topology: Topology) -> bool:
        """Ask one process again; False if it has gone."""
        try:
            await topology.publish_mandatory("", process, body)
        except MessageReturned:
            self._known.discard(process)
            return False
        except (ServerSentNack, PreconditionFailed):
            pass  # it is full, or another message was too large; perhaps not the next time
        return True

    async def _ask_one(self, process: str, question: Question) -> None:
        """Ask the process that has a queue, until it answers, or is found to have gone."""
        answers = self._asked[question.id] = Answers(question)
        remind = partial(self._remind, process, self._encode_question(question))
        timeout = self._options.send_timeout
        delay, longest = _REMIND
        try:
            async with asyncio.timeout(timeout):
                while not answers.answered and await self._recovery.run(remind):
                    delay = min(2 * delay, longest)
                    await _wait(answers.news, delay)
        except TimeoutError:
            raise NotAnswered(
                f"process {process} did not answer within send_timeout ({timeout:g} s)"
            ) from None
        finally:
            del self._asked[question.id]

    # Being asked

    def handle(self, name: str, message: Message) -> None:
        """Handle a message that is for the process itself: ``name`` is in place of a group's."""
        sender = message.get("from")
        if not isinstance(sender, str) or self._names.own(sender):
            return
        if name == _HELLO:
            self._known.add(sender)
        elif name == _ASK:
            self._handle_question(sender, message)
        elif name == _ANSWER:
            self._handle_answer(sender, message)

    def _handle_question(self, sender: str, message: Message) -> None:
        what, group = message.get("what"), message.get("group")
        channel, question_id = message.get("channel"), message.get("id")
        if not (
            isinstance(what, str)
            and isinstance(group, str)
            and isinstance(channel, str)
            and isinstance(question_id, str)
        ):
            return  # not ours, or from a version to come
        question = Question(what, group, channel, question_id)
        self._known.add(sender)
        if question.id not in self._served:
            self._remember(question)
            self._background.spawn(self._carry_out(sender, question))
            return
        names = self._served[question.id]
        if names is not None:
            self._background.spawn(self._answer(sender, question.id, names))

    def _remember(self, question: Question) -> None:
        self._served[question.id] = None
        if len(self._served) > _REMEMBERED:
            del self._served[next(iter(self._served))]

    async def _carry_out(self, sender: str, question: Question) -> None:
        try:
            names = await self._serve(question)
        except (LoopEnded, StopConsumer):
            return  # the process that asked does without this one, or asks its next owner
        except (TimeoutError, AmqpError) as err:
            # Forgotten, it is carried out when it is asked again.
            self._served.pop(question.id, None)
            self._warn("Could not do what another process asked for (%s): %s", question.what, err)
            return
        if question.id in self._served:
            self._served[question.id] = names
        await self._answer(sender, question.id, names)

    async def _answer(self, sender: str, question_id: str, names: list[str]) -> None:
        parts = -(-len(names) // _NAMES_PER_PART) or 1
        for part in range(parts):
            start = part * _NAMES_PER_PART
            body = self._encode(
                _ANSWER,
                {
                    "from": self._names.newest,
                    "id": question_id,
                    "part": part,
                    "parts": parts,
                    "names": names[start : start + _NAMES_PER_PART],
                },
            )
            try:
                topology = await self._recovery.wait_topology()
                await topology.publish_mandatory("", sender, body)
            except (TimeoutError, AmqpError, LoopEnded, StopConsumer):
                return  # its queue is full, and it asks again; or it, or this process, has gone

    def _handle_answer(self, sender: str, message: Message) -> None:
        self._known.add(sender)
        question_id, names = message.get("id"), message.get("names")
        part, parts = message.get("part"), message.get("parts")
        if (
            isinstance(question_id, str)
            and question_id in self._asked
            and isinstance(names, list)
            and isinstance(part, int)
            and isinstance(parts, int)
        ):
            self._asked[question_id].add(sender, part, parts, [str(name) for name in names])

    # Small things

    def _encode_question(self, question: Question) -> bytes:
        return self._encode(
            _ASK,
            {
                "from": self._names.newest,
                "what": question.what,
                "group": question.group,
                "channel": question.channel,
                "id": question.id,
            },
        )

    def _encode(self, kind: str, message: Message) -> bytes:
        return self._codec.encode(GROUP_KEY, kind, message, _MOST_BYTES)


async def _wait(news: asyncio.Event, seconds: float) -> bool:
    """Wait for news for so many seconds; return whether there are some."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await news.wait()
    except TimeoutError:
        return False
    news.clear()
    return True
