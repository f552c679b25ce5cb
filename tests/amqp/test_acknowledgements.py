"""Publisher confirms and consumer acknowledgements, each against a model of the server."""

from __future__ import annotations

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.amqp.acknowledgements import ConsumerAcks, PublisherConfirms
from channels_rabbitmq.errors import ServerSentNack

NACK = ServerSentNack("not stored")
_FRAME = struct.Struct(">BHIHHQBB")


class Unacknowledged:
    """What RabbitMQ holds for one channel; it closes the channel over an ack that does not fit."""

    def __init__(self) -> None:
        self.tags: set[int] = set()
        self.last = 0

    def deliver(self, count: int) -> None:
        """Deliver some messages."""
        self.tags.update(range(self.last + 1, self.last + count + 1))
        self.last += count

    def take(self, data: bytes) -> list[int]:
        """Take ack frames; give the tags that they acknowledge."""
        acknowledged = []
        for at in range(0, len(data), _FRAME.size):
            kind, channel, size, class_id, method_id, tag, multiple, end = _FRAME.unpack_from(
                data, at
            )
            assert (kind, channel, size, class_id, method_id, end) == (1, 9, 13, 60, 80, 0xCE)
            assert tag in self.tags, "an ack of a tag that is not unacknowledged"
            covered = {held for held in self.tags if held <= tag} if multiple else {tag}
            assert not multiple or len(covered) > 1, "multiple, for one"
            self.tags -= covered
            acknowledged += sorted(covered)
        return acknowledged


def flush(*tags: int, acks: ConsumerAcks | None = None) -> list[tuple[int, bool]]:
    """Note tags and give tag and ``multiple`` of each frame."""
    acks = acks or ConsumerAcks(9)
    for tag in tags:
        acks.add(tag)
    data = acks.flush()
    frames = [_FRAME.unpack_from(data, at) for at in range(0, len(data), _FRAME.size)]
    return [(frame[5], bool(frame[6])) for frame in frames]


def test_add_counts() -> None:
    """A tag is told how many were noted since the last flush, so that somebody plans the next."""
    acks = ConsumerAcks(9)
    assert not acks.noted
    assert [acks.add(1), acks.add(2)] == [1, 2]
    assert acks.noted
    acks.flush()
    assert not acks.noted
    assert acks.add(3) == 1


def test_nothing_to_flush() -> None:
    """A flush without tags sends nothing."""
    assert flush() == []


def test_a_run_is_one_frame() -> None:
    """Tags without a gap go into one frame, in whichever order they were done with."""
    assert flush(3, 1, 2) == [(3, True)]


def test_one_is_not_multiple() -> None:
    """A single tag is acknowledged by itself."""
    assert flush(1) == [(1, False)]


def test_beyond_a_gap() -> None:
    """What lies beyond a message that is still held is acknowledged one by one."""
    acks = ConsumerAcks(9)
    assert flush(1, 2, 4, 6, acks=acks) == [(2, True), (4, False), (6, False)]
    assert flush(7, acks=acks) == [(7, False)]
    assert flush(3, acks=acks) == [(3, False)]
    assert flush(5, 8, 9, acks=acks) == [(9, True)]


def test_a_gap_that_closes() -> None:
    """A multiple ack reaches over what was acknowledged before."""
    acks = ConsumerAcks(9)
    assert flush(2, 4, acks=acks) == [(2, False), (4, False)]
    assert flush(1, 3, acks=acks) == [(3, True)]


def test_one_message_held_for_long() -> None:
    """A message that is held while a hundred thousand others pass costs no memory for each."""
    acks = ConsumerAcks(9)
    for tag in range(2, 100_000):
        acks.add(tag)
        if tag % 10 == 0:
            acks.flush()

    assert len(acks._held) == 1
    acks.add(1)
    acks.flush()
    assert not acks._held


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("deliver"), st.integers(1, 20)),
            st.tuples(st.just("done"), st.integers(0, 100)),
            st.tuples(st.just("flush"), st.just(0)),
        ),
        max_size=80,
    )
)
def test_acks_against_a_model(steps: list[tuple[str, int]]) -> None:
    """What is done with, and nothing else, is acknowledged at the flush, each exactly once."""
    server = Unacknowledged()
    acks = ConsumerAcks(9)
    held: list[int] = []
    done: list[int] = []

    def check_flush() -> None:
        assert sorted(server.take(acks.flush())) == sorted(done)
        done.clear()
        assert server.tags == set(held)

    for step, number in steps:
        if step == "deliver":
            held += range(server.last + 1, server.last + number + 1)
            server.deliver(number)
        elif step == "flush":
            check_flush()
        elif held:
            tag = held.pop(number % len(held))
            done.append(tag)
            assert acks.add(tag) == len(done)
    while held:
        tag = held.pop()
        acks.add(tag)
        done.append(tag)
    check_flush()
    assert not server.tags


@pytest.fixture
def confirms() -> PublisherConfirms:
    """No publish was made yet."""
    return PublisherConfirms()


def publish(confirms: PublisherConfirms, count: int = 1) -> list[asyncio.Future[None]]:
    """Note some publishes."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(count)]
    for future in futures:
        confirms.add(future)
    return futures


def states(futures: list[asyncio.Future[None]]) -> str:
    """A letter for each: waiting, acked, nacked or another error, cancelled."""
    letters = ""
    for future in futures:
        if not future.done():
            letters += "w"
        elif future.cancelled():
            letters += "c"
        else:
            error = future.exception()
            letters += "a" if error is None else "n" if error is NACK else "e"
    return letters


async def test_tags_count_from_one(confirms: PublisherConfirms) -> None:
    """Publishes are numbered as the server numbers them."""
    loop = asyncio.get_running_loop()

    assert [confirms.add(loop.create_future()) for _ in range(3)] == [1, 2, 3]
    assert len(confirms) == 3


async def test_ack_of_one(confirms: PublisherConfirms) -> None:
    """A single ack, in any order, is for its own publish."""
    futures = publish(confirms, 3)
    confirms.ack(2, False)

    assert states(futures) == "waw"
    assert confirms.get(2) is None
    assert confirms.get(3) is futures[2]


async def test_ack_of_many(confirms: PublisherConfirms) -> None:
    """An ack with ``multiple`` is for all up to its number that are still waiting."""
    futures = publish(confirms, 5)
    confirms.ack(2, False)
    confirms.ack(4, True)

    assert states(futures) == "aaaaw"
    assert len(confirms) == 1


async def test_nack(confirms: PublisherConfirms) -> None:
    """A nack fails its own publish, and with ``multiple`` all up to it."""
    futures = publish(confirms, 5)
    confirms.nack(4, False, NACK)
    confirms.nack(2, True, NACK)
    confirms.ack(5, True)

    assert states(futures) == "nnana"


async def test_cancelled_publish_is_passed_over(confirms: PublisherConfirms) -> None:
    """The late answer for a publish that its owner cancelled disturbs nothing."""
    futures = publish(confirms, 6)
    for future in futures[::2]:
        future.cancel()
    confirms.ack(1, False)
    confirms.nack(3, False, NACK)
    confirms.ack(4, True)
    confirms.nack(6, True, NACK)

    assert states(futures) == "cacacn"
    assert len(confirms) == 0


async def test_answers_for_what_is_not_waiting(confirms: PublisherConfirms) -> None:
    """Answers that repeat, or come before the publish, are passed over and cost no time."""
    futures = publish(confirms, 2)
    for multiple in (False, True):
        confirms.ack(2**63, False)
        confirms.nack(2**63, False, NACK)
        confirms.ack(1, multiple)
        confirms.ack(1, multiple)
        confirms.nack(1, multiple, NACK)
        confirms.ack(0, multiple)
    assert states(futures) == "aw"

    confirms.ack(2**63, True)
    confirms.nack(2**63, True, NACK)

    assert states(futures) == "aa"
    assert states(publish(confirms)) == "w"


async def test_fail_all(confirms: PublisherConfirms) -> None:
    """When no answer can come any more, all that wait fail, but for those that were cancelled."""
    futures = publish(confirms, 3)
    futures[1].cancel()
    error = ConnectionError()
    confirms.fail_all(error)

    assert states(futures) == "ece"
    assert futures[0].exception() is error
    assert len(confirms) == 0


async def test_expire(confirms: PublisherConfirms) -> None:
    """What waits for longer than the limit fails; what was published since the mark does not."""
    error = TimeoutError()
    first = publish(confirms, 2)
    confirms.expire(0.0, 10.0, error)
    second = publish(confirms, 2)
    first[0].cancel()
    confirms.expire(9.5, 10.0, error)
    assert states(first + second) == "cwww"

    confirms.expire(10.0, 10.0, error)
    assert states(first + second) == "ceww"
    assert first[1].exception() is error

    confirms.expire(19.5, 10.0, error)
    assert states(second) == "ee"


async def test_answers_after_the_limit(confirms: PublisherConfirms) -> None:
    """An answer that comes after its publish was given up keeps the count right."""
    futures = publish(confirms, 2)
    confirms.expire(0.0, 1.0, TimeoutError())
    confirms.expire(1.0, 1.0, TimeoutError())
    futures += publish(confirms)
    confirms.ack(1, False)
    confirms.nack(2, True, NACK)
    confirms.ack(3, False)

    assert states(futures) == "eea"
    assert len(confirms) == 0


async def test_expire_without_a_limit(confirms: PublisherConfirms) -> None:
    """A limit of nothing at all fails what waits, and nothing else."""
    futures = publish(confirms)
    confirms.expire(5.0, 0.0, TimeoutError())
    confirms.expire(5.0, 0.0, TimeoutError())

    assert states(futures) == "e"


STEPS = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 5)),
    st.tuples(st.just("cancel"), st.integers(1, 30)),
    st.tuples(st.sampled_from(["ack", "nack", "ack all", "nack all"]), st.integers(0, 40)),
)


@given(st.lists(STEPS, max_size=40))
def test_confirms_against_a_model(steps: list[tuple[str, int]]) -> None:
    """Each publish ends by the first answer that covers it, whatever the server sends."""

    async def run() -> None:
        confirms = PublisherConfirms()
        futures: list[asyncio.Future[None]] = []
        expected: list[str] = []
        for step, number in steps:
            if step == "publish":
                futures += publish(confirms, number)
                expected += "w" * number
            elif step == "cancel":
                if number <= len(futures):
                    futures[number - 1].cancel()
                    if expected[number - 1] == "w":
                        expected[number - 1] = "c"
            else:
                answer, _, multiple = step.partition(" ")
                if answer == "ack":
                    confirms.ack(number, bool(multiple))
                else:
                    confirms.nack(number, bool(multiple), NACK)
                for index in range(0 if multiple else number - 1, number):
                    if 0 <= index < len(expected) and expected[index] == "w":
                        expected[index] = answer[0]
            assert states(futures) == "".join(expected)
        confirms.ack(len(futures), True)
        assert len(confirms) == 0

    asyncio.run(run())


async def test_expired_confirms_are_forgotten(confirms: PublisherConfirms) -> None:
    """What expired stays in no memory, is counted as unanswered, and may be answered late."""
    loop = asyncio.get_running_loop()
    for second in range(1000):
        future: asyncio.Future[None] = loop.create_future()
        confirms.add(future)
        confirms.expire(float(second), 10.0, TimeoutError())
        if future.done():
            future.exception()
        assert len(confirms) <= 11
    assert len(confirms._marks) <= 11
    assert confirms.unanswered_since == 0.0
    confirms.ack(3, False)
    confirms.ack(500, True)
    assert confirms.unanswered_since is None
    confirms.expire(1000.0, 10.0, TimeoutError())
    assert confirms.unanswered_since == 990.0
    confirms.nack(995, False, TimeoutError())
    assert confirms.unanswered_since is None
    confirms.fail_all(TimeoutError())
    assert len(confirms) == 0
