"""What outlives a connection, or the event loop that it lived on."""

from __future__ import annotations

import asyncio

from channels_rabbitmq.config.options import Options
from channels_rabbitmq.local.mailbox import Delivery
from channels_rabbitmq.local.state import LocalState, NormalMailboxes
from channels_rabbitmq.wire.messages import decode


class Refuses:
    """A connection of another loop: nothing may be acknowledged on it any more."""

    def ack(self, delivery_tag: int) -> None:
        """Fail the test."""
        raise AssertionError(delivery_tag)


def make_state() -> LocalState:
    """A state with the default options."""
    return LocalState(Options.from_config({}), decode)


def test_unused() -> None:
    """A process that has only sent holds nothing and is in no group, by whichever channel."""
    state = make_state()
    state.normal.note_use("jobs", 0.0, 60.0)
    assert state.unused
    state.memberships.establish("g", "q!a", 0.0)
    assert not state.unused
    state.memberships.leave("g", "q!a")
    state.normal_memberships.establish("g", "jobs", 0.0)
    assert not state.unused


async def test_take_over() -> None:
    """Messages and memberships move; those who wait stay, and are told that it is over."""
    old, new = make_state(), make_state()
    loop = asyncio.get_running_loop()
    waiters = [loop.create_future() for _ in range(2)]
    old.mailboxes.box("q!waits").waiters.append(waiters[0])
    old.normal.box("idle").waiters.append(waiters[1])
    old.mailboxes.put(Delivery(Refuses(), 1, 0.0, b"", {"n": 1}), ["q!a"])
    old.memberships.establish("g", "q!a", 0.0)
    old.normal.hold("jobs", {"n": 2}, b"2", 0.0)
    old.normal_memberships.establish("g", "jobs", 0.0)
    new.take_over(old)
    assert old.memberships.pairs == []
    assert new.memberships.pairs == [("g", "q!a")]
    assert new.normal_memberships.pairs == [("g", "jobs")]
    assert new.mailboxes.take(new.mailboxes.box("q!a")) == {"n": 1}
    assert new.normal.take(new.normal.box("jobs")) == {"n": 2}
    old.fail_waiters(LookupError())
    assert all(isinstance(waiter.exception(), LookupError) for waiter in waiters)


class TestNormalMailboxes:
    """What the process holds of normal channels."""

    async def test_a_message_wakes_the_first_in_line(self) -> None:
        """Each message wakes one of those who wait."""
        mailboxes = NormalMailboxes(60)
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        mailboxes.box("c").waiters += [first, second]
        assert mailboxes.waited_for == ["c"]
        mailboxes.hold("c", {"n": 1}, b"1", 0.0)
        assert first.done()
        assert not second.done()
        assert mailboxes.take(mailboxes.box("c")) == {"n": 1}
        mailboxes.fail_waiters(ValueError(), "other")
        assert not second.done()
        mailboxes.fail_waiters(ValueError())
        assert isinstance(second.exception(), ValueError)

    def test_expired_messages_are_not_given(self) -> None:
        """What was held for too long is dropped when it is asked for."""
        mailboxes = NormalMailboxes(10)
        mailboxes.hold("c", {"n": 1}, b"1", 0.0)
        mailboxes.hold("c", {"n": 2}, b"2", 1.0)
        assert mailboxes.ready(mailboxes.box("c"), 10.5)
        assert mailboxes.take(mailboxes.box("c")) == {"n": 2}
        assert not mailboxes.ready(mailboxes.box("c"), 10.5)

    def test_put_back_comes_first(self) -> None:
        """A message whose reader was cancelled keeps its place."""
        mailboxes = NormalMailboxes(10)
        mailboxes.hold("c", {"n": 2}, b"2", 0.0)
        mailboxes.put_back("c", {"n": 1}, b"1", 0.0)
        assert [delivery.body for _, delivery in mailboxes.take_all(0.0)] == [b"1", b"2"]
        assert mailboxes.unused

    def test_clear(self) -> None:
        """After a flush nothing is held."""
        mailboxes = NormalMailboxes(10)
        mailboxes.hold("c", {}, b"", 0.0)
        assert not mailboxes.unused
        mailboxes.clear()
        assert mailboxes.unused

    def test_many_names_are_forgotten(self) -> None:
        """A process that sends to ever new channels does not grow."""
        mailboxes = NormalMailboxes(10)
        for n in range(5000):
            mailboxes.note_use(f"reply.{n}", float(n), 60.0)
            mailboxes.box(f"reply.{n}")
        assert len(mailboxes.used) < 600
        assert "reply.4999" in mailboxes.used
