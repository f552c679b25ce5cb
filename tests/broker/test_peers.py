"""What processes ask each other, between several on one server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pamqp.commands import Basic, Exchange, Queue

from channels_rabbitmq.broker import control_exchange as exchange_module
from channels_rabbitmq.broker import peers as module
from channels_rabbitmq.broker import topology
from channels_rabbitmq.broker.peers import Answers
from channels_rabbitmq.errors import NotAnswered, NotConnected
from channels_rabbitmq.wire.messages import GROUP_KEY
from channels_rabbitmq.wire.requests import (
    MEMBERS,
    AnswerPart,
    Question,
    Sender,
    askers_key,
    control_key,
)
from tests.helpers.waiting import until

from .fake_rabbit import FakeQueue, FakeRabbit, Link
from .process import Process, process

ID = "0" * 32
MEMBERS_OF_BOTH = ["channels_one!a", "channels_two!b", "jobs"]


async def test_an_answer_in_parts() -> None:
    """An answer counts once all of its parts are there, in any order, repeated or not."""
    whole: list[str] = []
    answers = Answers(Question(MEMBERS, "g"), whole.append)
    answers.add(AnswerPart(Sender("p"), ID, 1, 2, ["b"]))
    answers.add(AnswerPart(Sender("p"), ID, 1, 2, ["b"]))
    assert not answers.answered
    assert not answers.news.is_set()
    answers.add(AnswerPart(Sender("p"), ID, 0, 2, ["a"]))
    answers.add(AnswerPart(Sender("p"), ID, 0, 2, ["a"]))
    assert answers.answered == {"p"}
    assert answers.news.is_set()
    answers.add(AnswerPart(Sender("q"), ID, 0, 1, []))
    assert answers.names == {"a", "b"}
    assert whole == ["p", "q"]


async def test_answers_of_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those past the limit are left out."""
    monkeypatch.setattr(module, "_MOST_KNOWN", 2)
    answers = Answers(Question(MEMBERS, "g"))
    for name in "pqr":
        answers.add(AnswerPart(Sender(name), ID, 0, 1, [name]))
    assert answers.names == {"p", "q"}


async def test_complete() -> None:
    """A question is answered once every queue took it and nobody who is known is missing."""
    answers = Answers(Question(MEMBERS, "g"))
    assert not answers.complete
    assert answers.shortfall(0.5) == "RabbitMQ did not take the question within 0.5 s"
    answers.accepted = False
    assert answers.shortfall(1) == "at least one process had no room for the question within 1 s"
    answers.missing = {"p"}
    assert answers.shortfall(1) == (
        "1 process did not answer within 1 s; at least one process had no room for the question"
    )
    answers.accepted = True
    answers.missing = set()
    assert answers.complete
    assert answers.shortfall(1) == "processes that are not known yet had only 1 s"
    answers.ended = True
    assert answers.shortfall(1) == ""
    answers.missing = {"p", "q"}
    assert not answers.complete
    assert answers.shortfall(1) == "2 processes did not answer within 1 s"


# Several processes


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown processes on this machine answer at once."""
    monkeypatch.setattr(module, "DISCOVERY", 0.1)
    monkeypatch.setattr(module, "_REMIND", (0.01, 0.02))


@pytest.fixture
async def one(port: int) -> AsyncIterator[Process]:
    """A process that asks."""
    async with process(port, "channels_one", send_timeout=1) as made:
        yield made


@pytest.fixture
async def two(port: int) -> AsyncIterator[Process]:
    """Another one, that is asked."""
    async with process(port, "channels_two", send_timeout=1) as made:
        yield made


async def test_group_members(one: Process, two: Process) -> None:
    """The channels of all processes, normal ones too, each once, by name."""
    await two.groups.add("room", "channels_two!b")
    await one.groups.add("room", "channels_one!a")
    await one.normal.group_add("room", "jobs")
    await two.normal.group_add("room", "jobs")
    assert await one.peers.group_members("room", 5) == MEMBERS_OF_BOTH
    assert await two.peers.group_members("room", 5) == MEMBERS_OF_BOTH
    assert await one.peers.group_members("other", 5) == []
    assert await one.peers.all_group_members("room", 5) == MEMBERS_OF_BOTH


async def test_bound_members(one: Process, two: Process, rabbit: FakeRabbit) -> None:
    """Who joins counts once RabbitMQ has the binding, in whichever process."""
    assert await one.peers.bound_members("room", 5) == []
    rabbit.silent = (Queue.Bind,)
    joining = [
        asyncio.ensure_future(two.groups.add("room", "channels_two!b")),
        asyncio.ensure_future(one.groups.add("room", "channels_one!a")),
        asyncio.ensure_future(two.normal.group_add("room", "jobs")),
    ]
    await asyncio.sleep(0)
    assert await one.peers.group_members("room", 5) == MEMBERS_OF_BOTH
    assert await one.peers.bound_members("room", 5) == []
    assert not any(each.done() for each in joining)
    rabbit.silent = ()
    rabbit.cut()
    await until(lambda: one.recovery.topology is None)
    assert await one.peers.bound_members("room", 0) == []
    await asyncio.gather(*joining)

    async def all_bound() -> bool:
        return await one.peers.bound_members("room", 5) == MEMBERS_OF_BOTH

    await until(all_bound)


async def test_long_answers(one: Process, two: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come in several messages."""
    monkeypatch.setattr(two.peers, "_names_per_part", 10)
    names = [f"channels_two!{n:02}" for n in range(25)]
    for name in names:
        two.state.memberships.establish("room", name, 0.0)
    assert await one.peers.group_members("room", 5) == names


async def test_who_comes_later_says_hello(one: Process, port: int, rabbit: FakeRabbit) -> None:
    """Once a process has asked, it knows who comes, and need not wait for the unknown."""
    assert await one.peers.group_members("room", 5) == []
    async with process(port, "channels_three") as three:
        await three.groups.add("room", "channels_three!c")
        await until(lambda: "channels_three" in one.peers._known)
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert await one.peers.group_members("room", 5) == ["channels_three!c"]
        assert loop.time() - start < 1
    # It has gone: its queue is no more, and the question comes back.
    assert await one.peers.group_members("room", 5) == []
    assert "channels_three" not in one.peers._known


async def test_silent_process(
    one: Process, two: Process, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer in time the list is what is known, and a warning says so."""
    assert await one.peers.group_members("room", 5) == []
    monkeypatch.setattr(two.peers, "handle", lambda name, message: None)
    await one.groups.add("room", "channels_one!a")
    assert await one.peers.group_members("room", 0.1) == ["channels_one!a"]
    said = "1 process did not answer within 0.1 s"
    assert f"group_members('room'): the list is not whole: {said}" in caplog.text
    with pytest.raises(NotAnswered, match=said):
        await one.peers.all_group_members("room", 0.1)


async def test_full_process(one: Process, two: Process, rabbit: FakeRabbit) -> None:
    """A process whose queue is full is asked until it has room, or the time is over."""
    await two.groups.add("room", "channels_two!b")
    assert await one.peers.group_members("room", 5) == ["channels_two!b"]
    rabbit.full.add("channels_two")
    asking = asyncio.create_task(one.peers.group_members("room", 5))
    await asyncio.sleep(0.05)
    rabbit.full.clear()
    assert await asking == ["channels_two!b"]


async def test_a_question_through_an_outage(one: Process, two: Process, rabbit: FakeRabbit) -> None:
    """It is asked again on the next connection, and carried out once."""
    await two.groups.add("room", "channels_two!b")
    rabbit.confirms = False
    asking = asyncio.create_task(one.peers.group_members("room", 5))
    await asyncio.sleep(0.05)
    rabbit.confirms = True
    rabbit.cut()
    assert await asking == ["channels_two!b"]


class TestElsewhere:
    """Channels of another process: that process is asked to add and discard them."""

    async def test_joins_and_leaves(self, one: Process, two: Process, rabbit: FakeRabbit) -> None:
        """It binds for them, and unbinds."""
        await one.peers.group_add("channels_two", "room", "channels_two!b")
        assert rabbit.bound() == {"room": ["channels_two"]}
        await one.peers.group_discard("channels_two", "room", "channels_two!b")
        await until(lambda: rabbit.bound() == {})

    async def test_not_its_own(self, one: Process, two: Process, rabbit: FakeRabbit) -> None:
        """A process adds no channel of another one."""
        with pytest.raises(NotAnswered):
            await one.peers.group_add("channels_two", "room", "channels_three!c")
        assert rabbit.bound() == {}

    async def test_process_that_has_gone(self, one: Process) -> None:
        """Nothing happens."""
        await one.peers.group_add("channels_three", "room", "channels_three!c")

    async def test_silent_process(
        self, one: Process, two: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error names the process and the time that it had."""
        monkeypatch.setattr(two.peers, "handle", lambda name, message: None)
        with pytest.raises(
            NotAnswered, match=r"process channels_two did not answer within send_timeout \(1 s\)"
        ):
            await one.peers.group_add("channels_two", "room", "channels_two!b")

    async def test_full_process(self, one: Process, two: Process, rabbit: FakeRabbit) -> None:
        """One without room is asked until the time is over; then the error says so."""
        assert await one.peers.group_members("room", 5) == []
        rabbit.full.add("channels_two")
        with pytest.raises(NotAnswered, match=r"within send_timeout \(1 s\): its queue is full"):
            await one.peers.group_add("channels_two", "room", "channels_two!b")
        adding = asyncio.create_task(one.peers.group_add("channels_two", "room", "channels_two!b"))
        await asyncio.sleep(0.05)
        rabbit.full.clear()
        await adding
        assert rabbit.bound() == {"room": ["channels_two"]}

    async def test_asked_again(
        self, one: Process, two: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A question whose answer was lost is answered again, and not carried out again."""
        done: list[str] = []
        answers: list[str] = []
        serve, answer = two.peers._serve, two.peers._answer

        async def count(question: Question) -> list[str]:
            done.append(question.what)
            return await serve(question)

        async def lose_one(sender: str, question_id: str, names: list[str]) -> None:
            answers.append(question_id)
            if len(answers) > 1:
                await answer(sender, question_id, names)

        monkeypatch.setattr(two.peers, "_serve", count)
        monkeypatch.setattr(two.peers, "_answer", lose_one)
        await one.peers.group_add("channels_two", "room", "channels_two!b")
        assert done == ["join"]
        assert len(set(answers)) == 1


class TestFlush:
    """Every process empties what it has."""

    async def test_all(self, one: Process, two: Process, rabbit: FakeRabbit) -> None:
        """Queues, groups and the normal channels that were used."""
        await two.groups.add("room", "channels_two!b")
        await two.normal.send("jobs", two.encode("jobs", {"n": 1}))
        await one.peers.flush()
        assert rabbit.bound() == {}
        assert not rabbit.queues["asgi.channel::jobs"].messages
        assert {method.queue for method in rabbit.seen(Queue.Purge)} == {
            "channels_one",
            "channels_two",
            "asgi.channel::jobs",
        }

    async def test_again_after_an_outage(self, one: Process, rabbit: FakeRabbit) -> None:
        """A flush that was cut short is done on the next connection."""
        await one.normal.send("jobs", one.encode("jobs", {"n": 1}))
        rabbit.silent = (Queue.Purge,)
        flushing = asyncio.create_task(one.peers.flush())
        await until(lambda: rabbit.seen(Queue.Purge))
        rabbit.silent = ()
        rabbit.cut()
        await flushing
        assert not rabbit.queues["asgi.channel::jobs"].messages

    async def test_away(self, rabbit: FakeRabbit, port: int) -> None:
        """It ends in time."""
        rabbit.silent = (Basic.Consume,)
        here = Process(port, send_timeout=0.05)
        with pytest.raises(NotConnected):
            await here.peers.flush()
        await here.close()

    async def test_process_that_cannot(
        self, one: Process, port: int, rabbit: FakeRabbit, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The error says how many did not, and within which time; the other one logs why."""
        async with process(port, "channels_two", send_timeout=0.05) as two:

            def lose(method: Any) -> None:
                if isinstance(method, Queue.Purge) and method.queue == "channels_two":
                    rabbit.silent = (Queue.Purge,)
                else:
                    rabbit.silent = ()

            rabbit.refuse = lose
            assert await one.peers.group_members("room", 5) == []
            with pytest.raises(
                NotAnswered, match=r"^1 process did not flush, within send_timeout \(1 s\)"
            ):
                await one.peers.flush()
            assert two.events == ["started"]
        assert "Could not do what another process asked for (flush)" in caplog.text


class TestRenamed:
    """A process has another queue, and the first takes nothing: its node is down."""

    @pytest.fixture
    async def two(
        self, port: int, rabbit: FakeRabbit, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Process]:
        """A process whose queue stays when its connection is lost."""
        monkeypatch.setattr(topology, "_LOCKED_RETRY", (0.01, 0.01))
        monkeypatch.setattr(topology, "_LOCKED_PATIENCE", 0.05)
        async with process(port, "channels_two", send_timeout=1) as made:
            yield made

    async def lose_node(self, two: Process, rabbit: FakeRabbit) -> None:
        """Lose the node that has the second process's queue."""
        queue = rabbit.queues["channels_two"]
        link = queue.owner
        assert link is not None
        queue.owner, queue.consumer = Link(link.peer), None
        rabbit.full.add("channels_two")
        link.peer.writer.transport.abort()
        await until(lambda: two.queue_name != "channels_two" and two.events[-1] == "started")

    async def test_known_before(self, one: Process, two: Process, rabbit: FakeRabbit) -> None:
        """Whoever knew the first name goes on with the second, and waits for nobody."""
        await two.groups.add("room", "channels_two!b")
        assert await one.peers.group_members("room", 5) == ["channels_two!b"]
        await self.lose_node(two, rabbit)
        await until(lambda: "channels_two" not in one.peers._known)
        async with asyncio.timeout(4):
            assert await one.peers.group_members("room", 5) == ["channels_two!b"]
        await one.peers.flush()
        assert two.state.memberships.members("room") == set()

    async def test_not_known_before(self, one: Process, two: Process, rabbit: FakeRabbit) -> None:
        """Nor does who hears of both names at once."""
        await two.groups.add("room", "channels_two!b")
        await self.lose_node(two, rabbit)
        async with asyncio.timeout(4):
            assert await one.peers.group_members("room", 5) == ["channels_two!b"]
        await one.peers.flush()
        assert two.state.memberships.members("room") == set()

    async def test_asked_by_the_first_name(
        self, one: Process, two: Process, rabbit: FakeRabbit
    ) -> None:
        """A channel's name has that, and the process is asked by the second."""
        assert await one.peers.group_members("room", 5) == []
        await self.lose_node(two, rabbit)
        two.names.drop_unused((), 1e9, 0)
        await until(lambda: "channels_two" in one.peers._renamed)
        rabbit.bindings["groups.control", "channels_two"].discard(two.queue_name)
        await one.peers.group_add("channels_two", "room", "channels_two!b")
        assert two.state.memberships.members("room") == {"channels_two!b"}

    async def test_full_all_the_same(self, one: Process, two: Process, rabbit: FakeRabbit) -> None:
        """A nack without such a queue still means that a process has no room."""
        await self.lose_node(two, rabbit)
        rabbit.full.discard("channels_two")
        rabbit.full.add(two.queue_name)
        assert await one.peers.group_members("room", 0.3) == []
        with pytest.raises(NotAnswered, match="at least one process had no room"):
            await one.peers.flush()

    async def test_bounded(self, one: Process, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of too many names the latest are kept."""
        monkeypatch.setattr(module, "_MOST_KNOWN", 2)
        for number in range(4):
            one.peers._meet(Sender(f"channels_b{number}", [f"channels_a{number}"]))
        assert one.peers._renamed == {
            "channels_a2": "channels_b2",
            "channels_a3": "channels_b3",
        }


class TestStrangers:
    """What does not come from a process like ours."""

    @pytest.mark.parametrize(
        "message",
        [
            {},
            {"from": 1},
            {"from": "channels_one"},
            {"from": "stranger", "what": 1, "group": "g", "channel": "c", "id": "i"},
            {"from": "stranger", "what": "members", "group": "g", "channel": "c"},
            {"from": "stranger", "what": "dance", "group": "g", "channel": "c", "id": "i"},
            {"from": "stranger", "id": "i", "names": [], "part": 0, "parts": 1},
        ],
    )
    async def test_malformed(
        self, one: Process, rabbit: FakeRabbit, message: dict[str, Any]
    ) -> None:
        """It is passed over."""
        for kind in ("!hello", "!ask", "!answer", "!other"):
            body = one.codec.encode(GROUP_KEY, kind, message, 10_000)
            rabbit.publish("groups.control", control_key(""), body)
        assert await one.peers.group_members("room", 0.5) == []
        assert one.events == ["started"]

    async def test_questions_at_a_time(
        self,
        one: Process,
        rabbit: FakeRabbit,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Past a number of questions that are being answered, more are left to be asked again."""
        monkeypatch.setattr(module, "_MOST_SERVED", 3)
        rabbit.full.add("channels_full")
        assert await one.peers.group_members("room", 5) == []
        async with process_that_is_full(rabbit):
            for _ in range(10):
                question = Question(MEMBERS, "g").message(Sender("channels_full"))
                ask(one, rabbit, question)
            await until(lambda: len(one.peers._serving) == 3)
            assert len(one.peers._background._tasks) < 6
            assert await one.peers.group_members("room", 0.2) == []

    async def test_hellos(
        self, one: Process, rabbit: FakeRabbit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The processes that are known are bounded; those who do not exist are found out."""
        monkeypatch.setattr(module, "_MOST_KNOWN", 50)
        assert await one.peers.group_members("room", 5) == []
        for n in range(100):
            body = one.codec.encode(GROUP_KEY, "!hello", Sender(f"channels_{n}").message(), 10_000)
            rabbit.publish("groups.control", askers_key(""), body)
        await until(lambda: len(one.peers._known) == 50)
        await one.peers.flush()
        assert not one.peers._known

    async def test_full_memory(
        self,
        one: Process,
        two: Process,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Where no more ids can be remembered, what changes something is refused, with a word."""
        monkeypatch.setattr(two.state.served, "_most", 0)
        with pytest.raises(NotAnswered):
            await one.peers.group_add("channels_two", "room", "channels_two!b")
        assert await one.peers.group_members("room", 5) == []
        assert "asked for (join): too many requests to remember" in caplog.text


def ask(to: Process, rabbit: FakeRabbit, message: dict[str, Any]) -> None:
    """Publish a question as another process would."""
    body = to.codec.encode(GROUP_KEY, "!ask", message, 10_000)
    rabbit.publish("groups.control", to.queue_name, body)


@contextlib.asynccontextmanager
async def process_that_is_full(rabbit: FakeRabbit) -> AsyncIterator[None]:
    """A queue that is bound, and takes nothing."""
    rabbit.queues["channels_full"] = FakeQueue("channels_full", None, {})
    rabbit.bindings.setdefault(("groups.control", "channels_full"), set()).add("channels_full")
    yield


async def test_answer_to_a_full_process(
    one: Process, two: Process, rabbit: FakeRabbit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer for which there is no room is repeated too: nobody may know who answers."""
    await two.groups.add("room", "channels_two!b")
    handle = two.peers.handle

    def fill(name: str, message: dict[str, Any]) -> None:
        rabbit.full.add("channels_one")
        asyncio.get_running_loop().call_later(0.05, rabbit.full.clear)
        monkeypatch.setattr(two.peers, "handle", handle)
        handle(name, message)

    monkeypatch.setattr(two.peers, "handle", fill)
    monkeypatch.setattr(module, "DISCOVERY", 0.5)
    assert await one.peers.group_members("room", 5) == ["channels_two!b"]


class TestRefused:
    """RabbitMQ does not let the process use the exchange."""

    @pytest.mark.parametrize("kind", [Exchange.Declare, Queue.Bind, Basic.Publish])
    async def test_off(
        self,
        port: int,
        rabbit: FakeRabbit,
        kind: type,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """One warning, errors that say so, and the connection stays."""

        def refuse(method: Any) -> tuple[int, str] | None:
            if isinstance(method, kind) and method.exchange == "groups.control":
                return 403, "ACCESS_REFUSED - no"
            return None

        rabbit.refuse = refuse
        async with process(port, "channels_one", send_timeout=1) as one:
            await one.groups.add("room", "channels_one!a")
            with pytest.raises(NotAnswered, match=r"refuses exchange groups\.control: .*403"):
                await one.peers.group_members("room", 5)
            with pytest.raises(NotAnswered, match="refuses"):
                await one.peers.group_add("channels_two", "room", "channels_two!b")
            with pytest.raises(NotAnswered, match="refuses"):
                await one.peers.flush()
            assert rabbit.bound() == {}
            rabbit.cut()
            await until(lambda: one.events == ["started", "ended", "started"])
            with pytest.raises(NotAnswered, match="refuses"):
                await one.peers.flush()
            assert len(rabbit.links) == 1
        assert caplog.text.count("are off: RabbitMQ refuses exchange") == 1

    async def test_exchange_that_was_deleted(
        self, one: Process, two: Process, rabbit: FakeRabbit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is declared again, with its bindings, by all, in time."""
        monkeypatch.setattr(exchange_module, "_LOOK", 0.05)
        await two.groups.add("room", "channels_two!b")
        for started in (one, two):
            assert started.peers._control is not None
            await started.peers.topology_starting(started.peers._control.topology)
        assert await one.peers.group_members("room", 5) == ["channels_two!b"]
        del rabbit.exchanges["groups.control"]
        for key in list(rabbit.bindings):
            if key[0] == "groups.control":
                del rabbit.bindings[key]
        await until(lambda: ("groups.control", "channels_two") in rabbit.bindings)
        await until(lambda: ("groups.control", "channels_one") in rabbit.bindings)
        assert await one.peers.group_members("room", 5) == ["channels_two!b"]
        assert one.events == two.events == ["started"]
