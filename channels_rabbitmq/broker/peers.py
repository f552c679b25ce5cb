"""Requests between processes, through an exchange of their own: the control exchange.

Every process binds its queue there for the control key, so that a question reaches all of them, and
for its queue's name, so that a question or an answer reaches it alone. What comes any other way is
no request, whatever it says: with the right to publish to groups nobody flushes or joins.

Which processes there are is found out like this. Before a process asks for the first time on a
connection, it binds its queue for the askers' key; then it waits for :data:`DISCOVERY` seconds for
answers from processes that it does not know. From then on, each process that connects publishes a
hello with that key. One that has gone is noticed when a message to its queue comes back. Version
4.0.1 binds none of these keys and is never asked.

A question is repeated until it is answered, because a queue may be full and a connection may end.
Its id keeps a process from carrying it out twice.

In a cluster of RabbitMQ 4.2 or later the queues of a node that is down stay bound, and take
nothing: whatever is published for all then gets a nack. A process that has another queue by now
says in each message which names it had, so that such a nack is understood.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from functools import partial

from channels.exceptions import StopConsumer

from ..amqp.futures import retrieve
from ..amqp.log import NamedLogger
from ..config.options import Options
from ..errors import (
    AmqpError,
    ConnectionClosed,
    LoopEnded,
    MessageReturned,
    NotAnswered,
    NotConnected,
    ServerSentNack,
)
from ..local.background import Background
from ..local.queue_names import QueueNames
from ..local.served import Verdict
from ..local.state import LocalState
from ..log import RateLimitedWarning
from ..wire.messages import GROUP_KEY, Message
from ..wire.requests import (
    ANSWER,
    ASK,
    BOUND,
    FLUSH,
    HELLO,
    JOIN,
    LEAVE,
    MEMBERS,
    MOST_EARLIER,
    NAMES_PER_PART,
    PRESENT,
    PROBE,
    AnswerPart,
    Asked,
    Question,
    Sender,
    askers_key,
    control_exchange,
    control_key,
    read_request,
)
from ..wire.serializers import Codec
from .control_exchange import ControlExchange
from .groups import Groups
from .normal_channels import NormalChannels
from .recovery import Recovery
from .topology import Topology

logger = logging.getLogger(__name__)

#: Seconds in which unknown processes may answer the first question on a connection.
DISCOVERY = 0.3
#: Seconds until processes that have not answered are asked again: at first, and at most.
_REMIND = (0.05, 1.0)
#: Processes that are known, and questions that are carried out at a time, at most.
_MOST_KNOWN = 4096
_MOST_SERVED = 100
#: Earlier names whose queues are looked at in one go, at most.
_MOST_PROBED = 100
#: Bytes of one message; far below what any RabbitMQ takes.
_MOST_BYTES = 4 * 1024 * 1024
#: Bytes that a name takes in an answer, at most, encrypted or not; and all the rest of that.
_NAME_BYTES, _OTHER_BYTES = 300, 1000


class Answers:
    """The answers to one question, as they come. No I/O."""

    def __init__(
        self, question: Question, on_answered: Callable[[str], None] = lambda process: None
    ) -> None:
        self.question = question
        #: Called with each process, once, whose answer is whole.
        self._on_answered = on_answered
        #: The names in each part of each process's answer.
        self._parts: dict[str, dict[int, list[str]]] = {}
        #: The processes whose answers are whole.
        self.answered: set[str] = set()
        #: The processes that are known and have not answered; set when the asking ends.
        self.missing: set[str] = set()
        #: Whether the queue of every process took the question; None while RabbitMQ has not told.
        self.accepted: bool | None = None
        #: Whether processes that are not known had their time to answer, too.
        self.ended = False
        #: Set whenever an answer is whole.
        self.news = asyncio.Event()

    @property
    def complete(self) -> bool:
        """Whether every process that is known has answered."""
        return self.accepted is True and not self.missing

    def shortfall(self, timeout: float) -> str:
        """Why names may be missing, as a part of a sentence; empty if none can be."""
        within = f"within {timeout:g} s"
        if self.accepted is None:
            return f"RabbitMQ did not take the question {within}"
        room = "" if self.accepted else "at least one process had no room for the question"
        if self.missing:
            silent = f"{_count(len(self.missing))} did not answer {within}"
            return f"{silent}; {room}" if room else silent
        if room:
            return f"{room} {within}"
        return "" if self.ended else f"processes that are not known yet had only {timeout:g} s"

    @property
    def names(self) -> set[str]:
        """All names in all answers."""
        return {
            name for parts in self._parts.values() for names in parts.values() for name in names
        }

    def add(self, answer: AnswerPart) -> None:
        """One message of an answer came; perhaps again. Of too many processes, it is left out."""
        process = answer.sender.queue
        if process not in self._parts and len(self._parts) >= _MOST_KNOWN:
            return
        known = self._parts.setdefault(process, {})
        known[answer.part] = answer.names
        if len(known) >= answer.parts and process not in self.answered:
            self.answered.add(process)
            self.news.set()
            self._on_answered(process)


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
        #: The exchange whose deliveries are for :meth:`handle`.
        self.exchange = control_exchange(options.groups_exchange)
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
        #: Names that queues of theirs had before -> the name now; latest news last.
        self._renamed: dict[str, str] = {}
        #: The exchange on the latest topology, and the task that keeps it.
        self._control: ControlExchange | None = None
        self._keeper: asyncio.Task[None] | None = None
        #: The one on which the askers' key is bound.
        self._listening: ControlExchange | None = None
        #: Until when processes that are not known may answer; in the clock of the loop.
        self._discovered_at: float | None = None
        self._asked: dict[str, Answers] = {}
        #: The ids of the questions of others that are being carried out or answered.
        self._serving: set[str] = set()
        self._names_per_part = max(
            1, min(NAMES_PER_PART, (options.max_message_size - _OTHER_BYTES) // _NAME_BYTES)
        )
        self._probe = self._encode(PROBE, {})
        self._background = Background(self._loop, options.connection_name)
        #: Whether it was told that the exchange is refused.
        self._told_refused = False
        self._log = NamedLogger(logger, options.connection_name)
        self._warn = RateLimitedWarning(self._log)
        self._warn_answer = RateLimitedWarning(self._log)
        self._warn_repeats = RateLimitedWarning(self._log)
        self._warn_unanswered = RateLimitedWarning(self._log)

    async def topology_starting(self, topology: Topology) -> None:
        """Bind the queue to the exchange, and publish a hello to the processes that ask.

        Also for earlier names: channels of these may still be in use.
        """
        self.topology_ended()
        self._discovered_at = None
        newest = self._names.newest
        control = self._control = ControlExchange(
            topology, self.exchange, newest, self._tell_refused
        )
        keys = (self._control_key, newest, *self._names.kept)
        self._keeper = self._background.spawn(control.run(keys, partial(self._greet, control)))
        await control.wait_bound()

    def topology_ended(self) -> None:
        """Leave the exchange alone; the next topology has another connection."""
        if self._keeper is not None:
            self._keeper.cancel()

    def cancel(self) -> None:
        """Cancel all answers under way."""
        self._background.cancel()

    async def _greet(self, control: ControlExchange) -> None:
        """Publish a hello; where a process that asks has no room for it, again later."""
        if not await self._try_hello(control):
            self._background.spawn(self._greet_again(control), NotAnswered, ConnectionClosed)

    async def _greet_again(self, control: ControlExchange) -> None:
        delay, longest = _REMIND
        due = self._due()
        while self._loop.time() < due:
            await asyncio.sleep(delay)
            if await self._try_hello(control):
                return
            delay = min(2 * delay, longest)

    async def _try_hello(self, control: ControlExchange) -> bool:
        hello = self._encode(HELLO, self._sender.message())
        try:
            await control.publish(self._askers_key, hello)
        except MessageReturned:
            return True  # nobody asks
        except ServerSentNack:
            return False
        return True

    def _tell_refused(self, exchange: str, reason: str) -> None:
        if not self._told_refused:
            self._told_refused = True
            self._log.warning(
                "flush(), group_members() and groups of other processes' channels are off: "
                "RabbitMQ refuses exchange %s: %s",
                exchange,
                reason,
            )

    async def _opened(self, topology: Topology) -> ControlExchange:
        """The exchange on that topology, once it can be used."""
        control = self._control
        if control is None or control.topology is not topology:
            raise ConnectionClosed("the connection to RabbitMQ ended")
        await control.wait_opened()
        return control

    # What may be asked

    async def group_members(self, group: str, timeout: float) -> list[str]:
        """List the channels in a group, as far as the processes answer in time."""
        names, answers = await self._ask_members(group, timeout)
        if not answers.complete:
            self._warn_unanswered(
                "group_members(%r): the list is not whole: %s", group, answers.shortfall(timeout)
            )
        return names

    async def all_group_members(self, group: str, timeout: float) -> list[str]:
        """List the channels in a group; raise :class:`.NotAnswered` if there may be more."""
        names, answers = await self._ask_members(group, timeout)
        shortfall = answers.shortfall(timeout)
        if shortfall:
            raise NotAnswered(shortfall)
        return names

    async def _ask_members(self, group: str, timeout: float) -> tuple[list[str], Answers]:
        own = self._members(group)
        answers = await self._ask_all(Answers(Question(MEMBERS, group)), timeout)
        return sorted(answers.names.union(own)), answers

    async def bound_members(self, group: str, timeout: float) -> list[str]:
        """List those that messages of the group reach, as far as the processes answer in time."""
        own = self._bound_members(group)
        answers = await self._ask_all(Answers(Question(BOUND, group)), timeout)
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
        answers, failed = await self._flush_others(due)
        if failed or not answers.complete:
            self._require_taken(answers)
            room = "" if answers.accepted else "at least one process had no room for the question"
            silent = f"{_count(len(failed))} did not flush" if failed else ""
            what = "; ".join(filter(None, (silent, room)))
            raise NotAnswered(f"{what}, within send_timeout ({timeout:g} s)")

    async def _flush_others(self, due: float) -> tuple[Answers, set[str]]:
        """Have every process flush that is known, or answers; give those that did not in time.

        Each is asked by its name: a recorded question flushes no process that came later.
        """
        tasks: dict[str, asyncio.Task[None]] = {}

        def ask(process: str) -> None:
            if process not in tasks:
                question = Question(FLUSH, to=process)
                task = tasks[process] = self._loop.create_task(self._ask_one(question, due))
                task.add_done_callback(retrieve)

        for process in self._known:
            ask(process)
        try:
            answers = await self._ask_all(Answers(Question(PRESENT), ask), due - self._loop.time())
            if tasks:
                await asyncio.wait(tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
        failed = set(answers.missing)
        for process, result in zip(
            tasks, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True
        ):
            if isinstance(result, NotAnswered):
                failed.add(process)
            elif result is not None:
                raise result
        return answers, failed

    async def group_add(self, process: str, group: str, channel: str) -> None:
        """Have another process add its channel to a group; nothing happens if it has gone."""
        await self._ask_one(Question(JOIN, group, channel, process), self._due())

    async def group_discard(self, process: str, group: str, channel: str) -> None:
        """Have another process take its channel out of a group."""
        await self._ask_one(Question(LEAVE, group, channel, process), self._due())

    def _due(self) -> float:
        return self._loop.time() + self._options.send_timeout

    # What others ask for

    async def _serve(self, question: Question) -> list[str]:
        """Do what another process asks for; give the names for the answer."""
        group, channel = question.group, question.channel
        if question.what == MEMBERS:
            return self._members(group)
        if question.what == BOUND:
            return self._bound_members(group)
        if question.what == FLUSH:
            await self._flush()
        elif question.what == JOIN:
            await self._groups.add(group, channel)
        elif question.what == LEAVE:
            self._groups.discard(group, channel)
        return []

    def _members(self, group: str) -> list[str]:
        state = self._state
        return [*state.memberships.members(group), *state.normal_memberships.members(group)]

    def _bound_members(self, group: str) -> list[str]:
        # Whoever puts a normal channel into a group binds its queue before that is established.
        normal = self._state.normal_memberships.established(group)
        return [*self._groups.bound_members(group), *normal]

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

    async def _ask_all(self, answers: Answers, timeout: float) -> Answers:
        """Ask every other process; end once all that are known have answered, or in time.

        Raises :class:`.NotAnswered` only where RabbitMQ does not let processes ask each other.
        """
        question = answers.question
        self._asked[question.id] = answers
        try:
            async with asyncio.timeout(max(timeout, 0)):
                await self._recovery.run(partial(self._ask_all_on, answers))
            answers.ended = True
        except NotAnswered:
            raise
        except TimeoutError:
            pass
        finally:
            del self._asked[question.id]
        answers.missing = self._known - answers.answered
        return answers

    async def _ask_all_on(self, answers: Answers, topology: Topology) -> None:
        control = await self._opened(topology)
        if self._listening is not control:
            await control.bind(self._askers_key)
            self._listening = control
        body = self._encode_question(answers.question)
        delay, longest = _REMIND
        while True:
            if not answers.accepted:
                answers.accepted = await self._try_publish(control, self._control_key, body)
            now = self._loop.time()
            if self._discovered_at is None:
                self._discovered_at = now + DISCOVERY
            missing = self._known - answers.answered
            if answers.accepted and not missing and now >= self._discovered_at:
                return
            waiting = bool(missing) or not answers.accepted
            pause = delay if waiting else self._discovered_at - now
            if not await _wait(answers.news, pause) and waiting:
                await self._remind_all(control, self._known - answers.answered, body)
                delay = min(2 * delay, longest)

    async def _try_publish(self, control: ControlExchange, key: str, body: bytes) -> bool:
        try:
            await control.publish(key, body)
        except MessageReturned:
            # We are bound ourselves: the exchange was deleted, and somebody declared it again.
            await control.restore()
            self._discovered_at = None
            return False
        except ServerSentNack:
            # The queue of at least one process took nothing. If it is one that the process does not
            # rely on any more, nobody is left out.
            earlier = list(self._renamed)[-_MOST_PROBED:]
            refused = await asyncio.gather(
                *(control.is_refused(name, self._probe) for name in earlier)
            )
            return any(refused)
        return True

    async def _remind_all(
        self, control: ControlExchange, processes: Collection[str], body: bytes
    ) -> None:
        """Ask some processes again; forget those that have gone."""
        returned = []
        results = await asyncio.gather(
            *(control.publish(process, body) for process in processes), return_exceptions=True
        )
        for process, result in zip(processes, results, strict=True):
            if isinstance(result, MessageReturned):
                returned.append(process)
            elif isinstance(result, BaseException) and not isinstance(result, ServerSentNack):
                raise result  # a queue that is full, perhaps is not the next time
        there = await asyncio.gather(*(control.is_there(name, self._probe) for name in returned))
        self._known.difference_update(
            name for name, stays in zip(returned, there, strict=True) if not stays
        )

    async def _ask_one(self, question: Question, due: float) -> None:
        """Ask one process, until it answers, or is found to have gone."""
        process = question.to
        answers = self._asked[question.id] = Answers(question)
        try:
            async with asyncio.timeout_at(due):
                await self._recovery.run(partial(self._ask_one_on, answers))
        except NotAnswered:
            raise
        except TimeoutError:
            self._require_taken(answers)
            why = ": its queue is full" if answers.accepted is False else ""
            raise NotAnswered(
                f"process {process} did not answer within send_timeout "
                f"({self._options.send_timeout:g} s){why}"
            ) from None
        finally:
            del self._asked[question.id]

    def _require_taken(self, answers: Answers) -> None:
        """Raise :class:`.NotConnected` if it is RabbitMQ, and no process, that was silent."""
        timeout = self._options.send_timeout
        topology = self._recovery.topology
        if topology is None:
            why = f"RabbitMQ is away: no connection within send_timeout ({timeout:g} s)"
        elif answers.accepted is not None:
            return
        elif topology.blocked is not None:
            why = f"RabbitMQ takes no messages: {topology.blocked}"
        else:
            why = f"RabbitMQ did not take the question within send_timeout ({timeout:g} s)"
        raise NotConnected(why, sent=answers.accepted is not None) from None

    async def _ask_one_on(self, answers: Answers, topology: Topology) -> None:
        control = await self._opened(topology)
        process = answers.question.to
        body = self._encode_question(answers.question)
        delay, longest = _REMIND
        while not answers.answered:
            there = await self._publish_to(control, process, answers, body)
            renamed = self._renamed.get(process)
            if not answers.accepted and renamed is not None:
                there = await self._publish_to(control, renamed, answers, body) or there
            if not there:
                self._known.discard(process)
                return
            delay = min(2 * delay, longest)
            await _wait(answers.news, delay)

    async def _publish_to(
        self, control: ControlExchange, queue: str, answers: Answers, body: bytes
    ) -> bool:
        """Publish a question to one queue; False if that is no more."""
        try:
            await control.publish(queue, body)
        except MessageReturned:
            answers.accepted = False
            return await control.is_there(queue, self._probe)
        except ServerSentNack:
            answers.accepted = False
            return True
        answers.accepted = True
        return True

    # Being asked

    def handle(self, name: str, message: Message) -> None:
        """Handle what came through the exchange: ``name`` is in place of a group's."""
        if self._control is None or self._control.refused is not None:
            return
        request = read_request(name, message, self._names)
        if request is None:
            return
        self._meet(request.sender)
        match request:
            case Asked():
                self._handle_question(request.sender.queue, request.question)
            case AnswerPart():
                answers = self._asked.get(request.id)
                if answers is not None:
                    answers.add(request)

    def _meet(self, sender: Sender) -> None:
        process = sender.queue
        self._known.difference_update(sender.earlier)
        for name in sender.earlier:
            self._renamed.pop(name, None)
            self._renamed[name] = process
        while len(self._renamed) > _MOST_KNOWN:
            del self._renamed[next(iter(self._renamed))]
        if process in self._known:
            return
        if len(self._known) < _MOST_KNOWN:
            self._known.add(process)
        else:
            # Some may not exist, which turns out as they are asked. Until then those that are not
            # known have time to answer.
            self._discovered_at = None

    def _handle_question(self, sender: str, question: Question) -> None:
        if question.id in self._serving or len(self._serving) >= _MOST_SERVED:
            return  # it is asked again
        verdict = Verdict.NEW
        if question.changes:
            verdict = self._state.served.begin(question.id, time.time())
        if verdict is Verdict.FULL:
            self._warn_repeats(
                "Refused what another process asked for (%s): too many requests to remember",
                question.what,
            )
        elif verdict is not Verdict.UNDER_WAY:
            self._serving.add(question.id)
            done = verdict is Verdict.DONE
            self._background.spawn(self._carry_out(sender, question, done))

    async def _carry_out(self, sender: str, question: Question, done: bool) -> None:
        """Do what was asked for, unless that is done, and answer."""
        try:
            names = [] if done else await self._serve(question)
            done = True
            self._state.served.end(question.id, done=True)
            await self._answer(sender, question.id, names)
        except (LoopEnded, StopConsumer):
            pass  # the process that asked does without this one, or asks its next owner
        except (TimeoutError, AmqpError) as err:
            # Forgotten, it is carried out when it is asked again.
            self._warn("Could not do what another process asked for (%s): %s", question.what, err)
        finally:
            self._state.served.end(question.id, done=done)
            self._serving.discard(question.id)

    async def _answer(self, sender: str, question_id: str, names: list[str]) -> None:
        size = self._names_per_part
        parts = -(-len(names) // size) or 1
        bodies = []
        for part in range(parts):
            some = names[part * size : (part + 1) * size]
            answer = AnswerPart(self._sender, question_id, part, parts, some)
            bodies.append(self._encode(ANSWER, answer.message()))
        bodies.reverse()
        try:
            async with asyncio.timeout(self._options.send_timeout):
                await self._recovery.run(partial(self._answer_on, sender, bodies))
        except (MessageReturned, NotAnswered):
            pass  # it has gone; or RabbitMQ does not let this process answer
        except TimeoutError:
            self._warn_answer(
                "Could not answer process %s within send_timeout (%g s): its queue is full, "
                "or RabbitMQ away",
                sender,
                self._options.send_timeout,
            )

    async def _answer_on(self, sender: str, bodies: list[bytes], topology: Topology) -> None:
        """Publish what is left of an answer, last first; again while the asker's queue is full."""
        control = await self._opened(topology)
        delay, longest = _REMIND
        while bodies:
            try:
                await control.publish(sender, bodies[-1])
            except MessageReturned:
                raise
            except ServerSentNack:
                await asyncio.sleep(delay)
                delay = min(2 * delay, longest)
            else:
                bodies.pop()

    # Small things

    @property
    def _sender(self) -> Sender:
        return Sender(self._names.newest, self._names.earlier(MOST_EARLIER))

    def _encode_question(self, question: Question) -> bytes:
        return self._encode(ASK, question.message(self._sender))

    def _encode(self, kind: str, message: Message) -> bytes:
        return self._codec.encode(GROUP_KEY, kind, message, _MOST_BYTES)


def _count(processes: int) -> str:
    return f"{processes} process" if processes == 1 else f"{processes} processes"


async def _wait(news: asyncio.Event, seconds: float) -> bool:
    """Wait for news for so many seconds; return whether there are some."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await news.wait()
    except TimeoutError:
        return False
    news.clear()
    return True
