"""What processes ask each other, between several on one server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pamqp.commands import Basic, Queue

from channels_rabbitmq.broker import peers as module
from channels_rabbitmq.broker.peers import (
    MEMBERS,
    Answers,
    Question,
    askers_key,
    control_key,
)
from channels_rabbitmq.errors import NotAnswered, NotConnected
from channels_rabbitmq.wire.messages import GROUP_KEY
from channels_rabbitmq.wire.names import require_group
from tests.helpers.waiting import until

from .fake_rabbit import FakeRabbit
from .process import Process, process


@pytest.mark.parametrize(
    "key", [control_key(""), askers_key(""), control_key("p"), askers_key("p")]
)
def test_keys_are_no_group_names(key: str) -> None:
    """No group can have such a name, so nobody else binds them."""
    with pytest.raises(TypeError):
        require_group(key)


def test_prefixes_are_kept_apart() -> None:
    """Projects that share a virtual host do not hear each other."""
    assert len({control_key(""), control_key("a"), askers_key(""), askers_key("a")}) == 4


async def test_an_answer_in_parts() -> None:
    """An answer counts once all of its parts are there, in any order, repeated or not."""
    answers = Answers(Question(MEMBERS, "g"))
    answers.add("p", 1, 2, ["b"])
    answers.add("p", 1, 2, ["b"])
    assert not answers.answered
    assert not answers.news.is_set()
    answers.add("p", 0, 2, ["a"])
    assert answers.answered == {"p"}
    assert answers.news.is_set()
    answers.add("q", 0, 1, [])
    assert answers.names == {"a", "b"}


async def test_complete() -> None:
    """A question is answered once every queue took it and nobody who is known is missing."""
    answers = Answers(Question(MEMBERS, "g"))
    assert not answers.complete
    assert answers.remark == "; RabbitMQ did not take the question in time"
    answers.accepted = False
    assert answers.remark == "; at least one had no room for the question"
    answers.accepted = True
    assert answers.complete
    assert answers.remark == ""
    answers.missing = {"p"}
    assert not answers.complete


def test_questions_differ() -> None:
    """The same question asked twice is two questions."""
    assert Question(MEMBERS, "g").id != Question(MEMBERS, "g").id


# Several processes


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown processes on this machine answer at once."""
    monkeypatch.setattr(module, "DISCOVERY", 0.1)
    monkeypatch.setattr(module, "_REMIND", (0.01, 0.02))


@pytest.fixture
async def one(port: int) -> AsyncIterator[Process]:
    """A process that asks."""
    async with process(port, "one", send_timeout=1) as made:
        yield made


@pytest.fixture
async def two(port: int) -> AsyncIterator[Process]:
    """Another one, that is asked."""
    async with process(port, "two", send_timeout=1) as made:
        yield made


async def test_group_members(one: Process, two: Process) -> None:
    """The channels of all processes, normal ones too, each once, by name."""
    await two.groups.add("room", "two!b")
    await one.groups.add("room", "one!a")
    await one.normal.group_add("room", "jobs")
    await two.normal.group_add("room", "jobs")
    assert await one.peers.group_members("room", 5) == ["jobs", "one!a", "two!b"]
    assert await two.peers.group_members("room", 5) == ["jobs", "one!a", "two!b"]
    assert await one.peers.group_members("other", 5) == []


async def test_long_answers(one: Process, two: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come in several messages."""
    monkeypatch.setattr(module, "_NAMES_PER_PART", 10)
    names = [f"two!{n:02}" for n in range(25)]
    for name in names:
        two.state.memberships.establish("room", name, 0.0)
    assert await one.peers.group_members("room", 5) == names


async def test_who_comes_later_says_hello(one: Process, port: int, rabbit: FakeRabbit) -> None:
    """Once a process has asked, it knows who comes, and need not wait for the unknown."""
    assert await one.peers.group_members("room", 5) == []
    async with process(port, "three") as three:
        await three.groups.add("room", "three!c")
        await until(lambda: "three" in one.peers._known)
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert await one.peers.group_members("room", 5) == ["three!c"]
        assert loop.time() - start < 1
    # It has gone: its queue is no more, and the question comes back.
    assert await one.peers.group_members("room", 5) == []
    assert "three" not in one.peers._known


async def test_silent_process(
    one: Process, two: Process, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer in time the list is what is known, and a warning says so."""
    assert await one.peers.group_members("room", 5) == []
    monkeypatch.setattr(two.peers, "handle", lambda name, message: None)
    await one.groups.add("room", "one!a")
    assert await one.peers.group_members("room", 0.1) == ["one!a"]
    assert "group_members('room'): 1 processes did not answer within 0.1 s" in caplog.text


async def test_full_process(one: Process, two: Process, rabbit: FakeRabbit) -> None:
    """A process whose queue is full is asked until it has room, or the time is over."""
    await two.groups.add("room", "two!b")
    assert await one.peers.group_members("room", 5) == ["two!b"]
    rabbit.full.add("two")
    asking = asyncio.create_task(one.peers.group_members("room", 5))
    await asyncio.sleep(0.05)
    rabbit.full.clear()
    assert await asking == ["two!b"]


async def test_a_question_through_an_outage(one: Process, two: Process, rabbit: FakeRabbit) -> None:
    """It is asked again on the next connection, and carried out once."""
    await two.groups.add("room", "two!b")
    rabbit.confirms = False
    asking = asyncio.create_task(one.peers.group_members("room", 5))
    await asyncio.sleep(0.05)
    rabbit.confirms = True
    rabbit.cut()
    assert await asking == ["two!b"]


class TestElsewhere:
    """Channels of another process: that process is asked to add and discard them."""

    async def test_joins_and_leaves(self, one: Process, two: Process, rabbit: FakeRabbit) -> None:
        """It binds for them, and unbinds."""
        await one.peers.group_add("two", "room", "two!b")
        assert rabbit.bound() == {"room": ["two"]}
        await one.peers.group_discard("two", "room", "two!b")
        await until(lambda: rabbit.bound() == {})

    async def test_not_its_own(self, one: Process, two: Process, rabbit: FakeRabbit) -> None:
        """A process adds no channel of another one."""
        await one.peers.group_add("two", "room", "three!c")
        assert rabbit.bound() == {}

    async def test_process_that_has_gone(self, one: Process) -> None:
        """Nothing happens."""
        await one.peers.group_add("three", "room", "three!c")

    async def test_silent_process(
        self, one: Process, two: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error names the process and the time that it had."""
        monkeypatch.setattr(two.peers, "handle", lambda name, message: None)
        with pytest.raises(
            NotAnswered, match=r"process two did not answer within send_timeout \(1 s\)"
        ):
            await one.peers.group_add("two", "room", "two!b")

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
        await one.peers.group_add("two", "room", "two!b")
        assert done == ["join"]
        assert len(set(answers)) == 1


class TestFlush:
    """Every process empties what it has."""

    async def test_all(self, one: Process, two: Process, rabbit: FakeRabbit) -> None:
        """Queues, groups and the normal channels that were used."""
        await two.groups.add("room", "two!b")
        await two.normal.send("jobs", two.encode("jobs", {"n": 1}))
        await one.peers.flush()
        assert rabbit.bound() == {}
        assert not rabbit.queues["asgi.channel::jobs"].messages
        assert {method.queue for method in rabbit.seen(Queue.Purge)} == {
            "one",
            "two",
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
        async with process(port, "two", send_timeout=0.05) as two:

            def lose(method: Any) -> None:
                if isinstance(method, Queue.Purge) and method.queue == "two":
                    rabbit.silent = (Queue.Purge,)
                else:
                    rabbit.silent = ()

            rabbit.refuse = lose
            assert await one.peers.group_members("room", 5) == []
            with pytest.raises(
                NotAnswered, match=r"1 processes did not flush within send_timeout \(1 s\)"
            ):
                await one.peers.flush()
            assert two.events == ["started"]
        assert "Could not do what another process asked for (flush)" in caplog.text


class TestStrangers:
    """What does not come from a process like ours."""

    @pytest.mark.parametrize(
        "message",
        [
            {},
            {"from": 1},
            {"from": "one"},
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
            rabbit.publish("groups", control_key(""), body)
        assert await one.peers.group_members("room", 0.5) == []
        assert one.events == ["started"]

    async def test_many_questions(
        self, one: Process, two: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The questions that are remembered are bounded in number."""
        monkeypatch.setattr(module, "_REMEMBERED", 3)
        for _ in range(6):
            await one.peers.group_members("room", 5)
        assert len(two.peers._served) == 3
