"""`capped`: a cap for a channel of the process, in memory."""

from __future__ import annotations

import logging

import pytest

from channels_rabbitmq.local.capped import CappedMailboxes
from channels_rabbitmq.local.mailboxes import Delivery


class Acks:
    """A source that notes what is acknowledged."""

    def __init__(self) -> None:
        self.tags: list[int] = []

    def ack(self, delivery_tag: int) -> None:
        """Note it."""
        self.tags.append(delivery_tag)


def mailboxes() -> CappedMailboxes:
    return CappedMailboxes(100, 60, cap=lambda name: 2 if name.endswith("!small") else None)


def put(boxes: CappedMailboxes, source: Acks, tag: int, *names: str) -> None:
    boxes.put(Delivery(source, tag, 0.0, b"", {"tag": tag}), names)


def test_the_oldest_go(caplog: pytest.LogCaptureFixture) -> None:
    """Past its cap a channel loses its oldest messages, and a warning names it."""
    boxes, source = mailboxes(), Acks()
    with caplog.at_level(logging.WARNING):
        for tag in (1, 2, 3, 4):
            put(boxes, source, tag, "q!small")
    assert source.tags == [1, 2]
    assert len(boxes) == 2
    assert boxes.take(boxes.box("q!small")) == {"tag": 3}
    assert "channel_capacity (2) dropped the oldest message of q!small" in caplog.text


def test_others_are_not_capped() -> None:
    """A channel that no pattern matches holds what it is sent, as does one without members."""
    boxes, source = mailboxes(), Acks()
    for tag in (1, 2, 3):
        put(boxes, source, tag, "q!large")
    put(boxes, source, 4)
    assert source.tags == [4]


def test_a_message_that_others_hold_stays() -> None:
    """A channel that loses a message of a group takes it from nobody else."""
    boxes, source = mailboxes(), Acks()
    for tag in (1, 2, 3):
        put(boxes, source, tag, "q!small", "q!large")
    assert source.tags == []
    assert boxes.take(boxes.box("q!large")) == {"tag": 1}
    assert source.tags == [1]
