"""Acknowledgements against a model of what RabbitMQ holds as unacknowledged."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from channels_rabbitmq.amqp.acks import Acks

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


def flush(*tags: int, acks: Acks | None = None) -> list[tuple[int, bool]]:
    """Note tags and give tag and ``multiple`` of each frame."""
    acks = acks or Acks(9)
    for tag in tags:
        acks.add(tag)
    data = acks.flush()
    frames = [_FRAME.unpack_from(data, at) for at in range(0, len(data), _FRAME.size)]
    return [(frame[5], bool(frame[6])) for frame in frames]


def test_add_tells_the_first() -> None:
    """Only the first tag since the last flush needs a flush to be planned."""
    acks = Acks(9)
    assert [acks.add(1), acks.add(2)] == [True, False]
    acks.flush()
    assert acks.add(3)


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
    acks = Acks(9)
    assert flush(1, 2, 4, 6, acks=acks) == [(2, True), (4, False), (6, False)]
    assert flush(7, acks=acks) == [(7, False)]
    assert flush(3, acks=acks) == [(3, False)]
    assert flush(5, 8, 9, acks=acks) == [(9, True)]


def test_a_gap_that_closes() -> None:
    """A multiple ack reaches over what was acknowledged before."""
    acks = Acks(9)
    assert flush(2, 4, acks=acks) == [(2, False), (4, False)]
    assert flush(1, 3, acks=acks) == [(3, True)]


def test_one_message_held_for_long() -> None:
    """A message that is held while a hundred thousand others pass costs no memory for each."""
    acks = Acks(9)
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
def test_against_a_model(steps: list[tuple[str, int]]) -> None:
    """What is done with, and nothing else, is acknowledged at the flush, each exactly once."""
    server = Unacknowledged()
    acks = Acks(9)
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
            assert acks.add(tag) == (not done)
            done.append(tag)
    while held:
        tag = held.pop()
        acks.add(tag)
        done.append(tag)
    check_flush()
    assert not server.tags
