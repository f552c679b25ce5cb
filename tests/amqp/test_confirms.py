"""Publisher confirms against a model of what the server may answer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.amqp.confirms import Confirms
from channels_rabbitmq.errors import ServerSentNack

NACK = ServerSentNack("not stored")


@pytest.fixture
def confirms() -> Confirms:
    """No publish was made yet."""
    return Confirms()


def publish(confirms: Confirms, count: int = 1) -> list[asyncio.Future[None]]:
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


async def test_tags_count_from_one(confirms: Confirms) -> None:
    """Publishes are numbered as the server numbers them."""
    loop = asyncio.get_running_loop()

    assert [confirms.add(loop.create_future()) for _ in range(3)] == [1, 2, 3]
    assert len(confirms) == 3


async def test_ack_of_one(confirms: Confirms) -> None:
    """A single ack, in any order, is for its own publish."""
    futures = publish(confirms, 3)
    confirms.ack(2, False)

    assert states(futures) == "waw"
    assert confirms.get(2) is None
    assert confirms.get(3) is futures[2]


async def test_ack_of_many(confirms: Confirms) -> None:
    """An ack with ``multiple`` is for all up to its number that are still waiting."""
    futures = publish(confirms, 5)
    confirms.ack(2, False)
    confirms.ack(4, True)

    assert states(futures) == "aaaaw"
    assert len(confirms) == 1


async def test_nack(confirms: Confirms) -> None:
    """A nack fails its own publish, and with ``multiple`` all up to it."""
    futures = publish(confirms, 5)
    confirms.nack(4, False, NACK)
    confirms.nack(2, True, NACK)
    confirms.ack(5, True)

    assert states(futures) == "nnana"


async def test_cancelled_publish_is_passed_over(confirms: Confirms) -> None:
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


async def test_answers_for_what_is_not_waiting(confirms: Confirms) -> None:
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


async def test_fail_all(confirms: Confirms) -> None:
    """When no answer can come any more, all that wait fail, but for those that were cancelled."""
    futures = publish(confirms, 3)
    futures[1].cancel()
    error = ConnectionError()
    confirms.fail_all(error)

    assert states(futures) == "ece"
    assert futures[0].exception() is error
    assert len(confirms) == 0


async def test_expire(confirms: Confirms) -> None:
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


async def test_answers_after_the_limit(confirms: Confirms) -> None:
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


async def test_expire_without_a_limit(confirms: Confirms) -> None:
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
def test_against_a_model(steps: list[tuple[str, int]]) -> None:
    """Each publish ends by the first answer that covers it, whatever the server sends."""

    async def run() -> None:
        confirms = Confirms()
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
