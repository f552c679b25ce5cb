"""``mailboxes``: what is held, for whom, for how long, and when RabbitMQ is told."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from channels_rabbitmq.local.mailboxes import STUCK_AFTER, Delivery, Mailboxes
from channels_rabbitmq.wire.messages import CHANNEL_KEY, Message


class Source:
    """An AMQP channel that remembers what was acknowledged, and refuses to hear it twice."""

    def __init__(self) -> None:
        self.acked: list[int] = []

    def ack(self, delivery_tag: int) -> None:
        assert delivery_tag not in self.acked, "acknowledged twice"
        self.acked.append(delivery_tag)


class Waiter:
    """Somebody who waits, without an event loop."""

    def __init__(self) -> None:
        self.state = "waits"

    def done(self) -> bool:
        return self.state != "waits"

    def cancelled(self) -> bool:
        return self.state == "cancelled"

    def set_result(self, result: None) -> None:
        assert not self.done()
        self.state = "woken"

    def set_exception(self, exception: type | BaseException) -> None:
        assert not self.done()
        self.state = type(exception).__name__


def deliver(
    mailboxes: Mailboxes, source: Source, tag: int, *channels: str, now: float = 0.0
) -> None:
    """Put the message {"n": [tag]} into the mailboxes of some channels."""
    message: Message = {"n": [tag]}
    body = msgpack.packb({**message, CHANNEL_KEY: "x!y"})
    mailboxes.put(Delivery(source, tag, now, body, message), channels)


def take(mailboxes: Mailboxes, channel: str) -> int:
    """Take a message that ``deliver()`` made, and give its tag."""
    return mailboxes.take(mailboxes.box(channel))["n"][0]  # type: ignore[index, no-any-return]


def test_acknowledged_when_read() -> None:
    """A delivery is acknowledged when its only channel reads it, not before."""
    mailboxes, source = Mailboxes(10, 60), Source()
    deliver(mailboxes, source, 1, "a")
    assert source.acked == []
    assert take(mailboxes, "a") == 1
    assert source.acked == [1]
    assert len(mailboxes) == 0


def test_shared_delivery_counts_once() -> None:
    """A delivery for two channels takes one place, and is acknowledged after the second read."""
    mailboxes, source = Mailboxes(1, 60), Source()
    deliver(mailboxes, source, 1, "a", "b")
    assert len(mailboxes) == 1
    take(mailboxes, "a")
    assert source.acked == []
    assert mailboxes.full
    take(mailboxes, "b")
    assert source.acked == [1]


def test_each_reader_has_its_own_copy() -> None:
    """What one reader does to a message, the next one does not see."""
    mailboxes, source = Mailboxes(10, 60), Source()
    deliver(mailboxes, source, 1, "a", "b", "c")
    mailboxes.take(mailboxes.box("a"))["n"] = "spoilt"
    nested = mailboxes.take(mailboxes.box("b"))["n"]
    assert isinstance(nested, list)
    nested.append("spoilt")
    assert mailboxes.take(mailboxes.box("c")) == {"n": [1]}


def test_delivery_for_nobody_is_acknowledged() -> None:
    """A delivery to a group without local members is acknowledged at once."""
    mailboxes, source = Mailboxes(10, 60), Source()
    deliver(mailboxes, source, 1)
    assert source.acked == [1]
    assert len(mailboxes) == 0


def test_clear() -> None:
    """clear() acknowledges all that is held."""
    mailboxes, source = Mailboxes(10, 60), Source()
    deliver(mailboxes, source, 1, "a", "b")
    deliver(mailboxes, source, 2, "b")
    mailboxes.clear()
    assert source.acked == [1, 2]
    assert len(mailboxes) == 0


def test_one_waiter_is_woken_for_each_message() -> None:
    """The one that has waited longest is woken, one for each message."""
    mailboxes, source = Mailboxes(10, 60), Source()
    first, second = Waiter(), Waiter()
    mailboxes.box("a").waiters += [first, second]
    deliver(mailboxes, source, 1, "a")
    assert (first.state, second.state) == ("woken", "waits")
    deliver(mailboxes, source, 2, "a")
    assert second.state == "woken"


def test_woken_and_cancelled_waiter_passes_it_on() -> None:
    """A waiter that is cancelled just after it was woken hands the message to the next in line."""
    mailboxes, source = Mailboxes(10, 60), Source()
    box = mailboxes.box("a")
    first, second = Waiter(), Waiter()
    box.waiters += [first, second]
    deliver(mailboxes, source, 1, "a")
    box.give_up(first)
    assert second.state == "woken"


def test_cancelled_waiter_is_passed_over() -> None:
    """A waiter that was cancelled in line is forgotten."""
    mailboxes, source = Mailboxes(10, 60), Source()
    box = mailboxes.box("a")
    first, second = Waiter(), Waiter()
    box.waiters += [first, second]
    first.state = "cancelled"
    box.give_up(first)
    deliver(mailboxes, source, 1, "a")
    assert second.state == "woken"


def test_fail_waiters() -> None:
    """fail_waiters() wakes with an error all who still wait."""
    mailboxes = Mailboxes(10, 60)
    waits, woken = Waiter(), Waiter()
    woken.state = "woken"
    mailboxes.box("a").waiters += [waits, woken]
    mailboxes.fail_waiters(LookupError())
    assert (waits.state, woken.state) == ("LookupError", "woken")


def test_unused() -> None:
    """A process that has only sent holds nothing and waits for nothing."""
    mailboxes, source = Mailboxes(10, 60), Source()
    mailboxes.box("a")
    assert mailboxes.unused
    deliver(mailboxes, source, 1, "a")
    assert not mailboxes.unused


def test_expiry_is_counted_by_channel() -> None:
    """Messages older than the expiry are dropped, acknowledged, and counted by channel."""
    mailboxes, source = Mailboxes(10, 5), Source()
    deliver(mailboxes, source, 1, "a", now=100)
    deliver(mailboxes, source, 2, "a", "b", now=101)
    deliver(mailboxes, source, 3, "b", now=103)
    assert mailboxes.oldest == 100
    assert mailboxes.expire(104.9) == {}
    assert mailboxes.expire(106) == {"a": 2, "b": 1}
    assert source.acked == [1, 2]
    assert mailboxes.oldest == 103
    assert take(mailboxes, "b") == 3


def test_put_back_comes_first() -> None:
    """A message that is put back is the next one read, and is not acknowledged again."""
    mailboxes, source = Mailboxes(10, 60), Source()
    deliver(mailboxes, source, 1, "a")
    deliver(mailboxes, source, 2, "a")
    message = mailboxes.take(mailboxes.box("a"))
    waiter = Waiter()
    mailboxes.box("a").waiters.append(waiter)
    mailboxes.put_back("a", message, 1.0)
    assert waiter.state == "woken"
    assert [take(mailboxes, "a"), take(mailboxes, "a")] == [1, 2]
    assert source.acked == [1, 2]
    assert len(mailboxes) == 0


def test_unused_mailboxes_are_cleared_away() -> None:
    """A million channels that came and went leave nothing behind; used ones stay."""
    mailboxes, source = Mailboxes(10, 60), Source()
    waiter = Waiter()
    mailboxes.box("waits").waiters.append(waiter)
    deliver(mailboxes, source, 1, "holds")
    for number in range(10_000):
        mailboxes.box(f"passing{number}")
    assert mailboxes.find("waits")
    assert mailboxes.find("holds")
    assert len(mailboxes._boxes) < 500


def fill(mailboxes: Mailboxes, source: Source, **counts: int) -> None:
    """Deliver so many messages to each channel, and let STUCK_AFTER pass from time 0 on."""
    tag = len(mailboxes)
    for channel, count in counts.items():
        for _ in range(count):
            tag += 1
            deliver(mailboxes, source, tag, channel)
    assert mailboxes.full
    assert mailboxes.relieve(0.0, ()) == {}


def test_lonely_channel_loses_nothing() -> None:
    """The only channel in use back-pressures, however full the window is."""
    mailboxes, source = Mailboxes(4, 60), Source()
    fill(mailboxes, source, a=4)
    assert mailboxes.relieve(1000.0, ["a"]) == {}


@pytest.mark.parametrize("other", ["member", "waiter", "holder"])
def test_stuck_channel_loses_its_oldest(other: str) -> None:
    """While another channel is in use in whatever way, a stuck one pays with its oldest message."""
    mailboxes, source = Mailboxes(4, 60), Source()
    if other == "waiter":
        mailboxes.box("b").waiters.append(Waiter())
    fill(mailboxes, source, **({"a": 3, "b": 1} if other == "holder" else {"a": 4}))
    in_groups = ["b"] if other == "member" else []
    assert mailboxes.relieve(STUCK_AFTER, in_groups) == {"a": 1}
    assert source.acked == [1]
    assert not mailboxes.full
    assert take(mailboxes, "a") == 2


def test_fullest_of_the_stuck_loses() -> None:
    """Of two stuck channels, the fuller one pays."""
    mailboxes, source = Mailboxes(5, 60), Source()
    fill(mailboxes, source, a=2, b=3)
    assert mailboxes.relieve(STUCK_AFTER, ()) == {"b": 1}


def test_channel_that_is_read_is_not_stuck() -> None:
    """A channel that was read since the last look pays nothing, though it holds most."""
    mailboxes, source = Mailboxes(5, 60), Source()
    fill(mailboxes, source, a=4, b=1)
    take(mailboxes, "a")
    deliver(mailboxes, source, 6, "a")
    assert mailboxes.relieve(STUCK_AFTER, ()) == {"b": 1}


def test_slot_of_a_shared_delivery() -> None:
    """Dropping goes on, fullest channel first, until a slot is really free."""
    mailboxes, source = Mailboxes(2, 60), Source()
    deliver(mailboxes, source, 1, "a", "b")
    deliver(mailboxes, source, 2, "a", "b")
    mailboxes.relieve(0.0, ())
    dropped = mailboxes.relieve(STUCK_AFTER, ())
    assert dropped["a"] >= 1
    assert dropped["b"] >= 1
    assert source.acked[0] == 1
    assert not mailboxes.full


def test_window_bounds_what_reconnections_leave() -> None:
    """Deliveries of ended connections never add up to more than the window."""
    mailboxes = Mailboxes(3, 60)
    for _ in range(4):
        source = Source()
        for tag in (1, 2, 3):
            deliver(mailboxes, source, tag, "a")
        mailboxes.relieve(0.0, ())
        assert len(mailboxes) == 3


def test_fullest_are_named() -> None:
    """fullest() names the channels that hold most, with their counts."""
    mailboxes, source = Mailboxes(100, 60), Source()
    tag = 0
    for channel, count in {"a": 1, "b": 3, "c": 2, "d": 5}.items():
        for _ in range(count):
            tag += 1
            deliver(mailboxes, source, tag, channel)
    assert mailboxes.fullest() == [("d", 5), ("b", 3), ("c", 2)]


class TestChannelCapacity:
    """With ``channel_capacity``: a channel that has a cap of its own."""

    @staticmethod
    def mailboxes() -> Mailboxes:
        """Where channels with "small" in their names hold two messages."""
        return Mailboxes(100, 60, cap=lambda name: 2 if "small" in name else None)

    def test_the_oldest_go(self, caplog: pytest.LogCaptureFixture) -> None:
        """Past its cap a channel loses its oldest messages, and a warning names it."""
        mailboxes, source = self.mailboxes(), Source()
        for tag in (1, 2, 3, 4):
            deliver(mailboxes, source, tag, "q!small")
        assert source.acked == [1, 2]
        assert len(mailboxes) == 2
        assert take(mailboxes, "q!small") == 3
        assert "channel_capacity (2) dropped the oldest message of q!small" in caplog.text

    def test_others_are_not_capped(self) -> None:
        """A channel that no pattern matches holds what it is sent, as does one without members."""
        mailboxes, source = self.mailboxes(), Source()
        for tag in (1, 2, 3):
            deliver(mailboxes, source, tag, "q!large")
        deliver(mailboxes, source, 4)
        assert source.acked == [4]

    def test_a_message_that_others_hold_stays(self) -> None:
        """A channel that loses a message of a group takes it from nobody else."""
        mailboxes, source = self.mailboxes(), Source()
        for tag in (1, 2, 3):
            deliver(mailboxes, source, tag, "q!small", "q!large")
        assert source.acked == []
        assert take(mailboxes, "q!large") == 1
        assert source.acked == [1]


CAPACITY = 6
EXPIRY = 30.0
CHANNELS = [f"q!{letter}" for letter in "abcd"]
GROUPS = ["g", "h"]
channels = st.sampled_from(CHANNELS)
groups = st.sampled_from(GROUPS)


class MailboxesMachine(RuleBasedStateMachine):
    """Random use of mailboxes, beside the plainest model that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.mailboxes = Mailboxes(CAPACITY, EXPIRY)
        self.now = 0.0
        self.serial = 0
        self.source = Source()
        self.sources = [self.source]
        self.tag = 0
        # The model
        self.members: dict[str, list[str]] = {group: [] for group in GROUPS}
        self.queues: dict[str, list[int]] = {channel: [] for channel in CHANNELS}
        self.arrived: dict[int, float] = {}
        self.where: dict[int, tuple[Source, int]] = {}
        self.last_read: dict[str, float] = {}

    def in_window(self) -> int:
        return self.tag - len(self.source.acked)

    def put(self, names: list[str]) -> None:
        self.serial += 1
        self.tag += 1
        message = self.message(self.serial)
        body = msgpack.packb({**message, CHANNEL_KEY: "x!y"})
        self.mailboxes.put(Delivery(self.source, self.tag, self.now, body, message), names)
        self.arrived[self.serial] = self.now
        self.where[self.serial] = (self.source, self.tag)
        for name in names:
            self.queues[name].append(self.serial)

    @staticmethod
    def message(serial: int) -> Message:
        """A flat one, or one with a list: their copies are made in different ways."""
        return {"n": serial} if serial % 2 else {"n": serial, "list": []}

    @precondition(lambda self: self.in_window() < CAPACITY)
    @rule(channel=channels)
    def put_direct(self, channel: str) -> None:
        self.put([channel])

    @precondition(lambda self: self.in_window() < CAPACITY)
    @rule(group=groups)
    def put_group(self, group: str) -> None:
        self.put(list(self.members[group]))

    @rule(channel=channels)
    def take(self, channel: str) -> None:
        box = self.mailboxes.box(channel)
        assert bool(box.queue) == bool(self.queues[channel])
        if box.queue:
            message = self.mailboxes.take(box)
            assert message == self.message(self.queues[channel].pop(0))
            message["more"] = "not seen by others"
            if isinstance(nested := message.get("list"), list):
                nested.append("not seen by others")
            self.last_read[channel] = self.now

    @rule(group=groups, channel=channels)
    def join(self, group: str, channel: str) -> None:
        if channel not in self.members[group]:
            self.members[group].append(channel)

    @rule(group=groups, channel=channels)
    def leave(self, group: str, channel: str) -> None:
        if channel in self.members[group]:
            self.members[group].remove(channel)

    @rule(seconds=st.sampled_from([0.01, STUCK_AFTER, 1.0, EXPIRY / 2]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        expected = Counter(
            {
                channel: count
                for channel, queue in self.queues.items()
                if (count := sum(self.arrived[n] <= self.now - EXPIRY for n in queue))
            }
        )
        assert self.mailboxes.expire(self.now) == expected
        for channel, count in expected.items():
            del self.queues[channel][:count]

    @rule()
    def relieve(self) -> None:
        before = {channel: list(queue) for channel, queue in self.queues.items()}
        held = len(self.mailboxes)
        in_groups = {channel for members in self.members.values() for channel in members}
        dropped = self.mailboxes.relieve(self.now, in_groups)
        assert len(self.mailboxes) <= CAPACITY
        if held < CAPACITY:
            assert not dropped
        over = held > CAPACITY  # left from earlier connections: the oldest go, whosever they are
        for channel, count in dropped.items():
            assert 0 < count <= len(before[channel])
            # Its oldest, and nobody's who just read.
            del self.queues[channel][:count]
            assert over or self.now - self.last_read.get(channel, -1e9) >= STUCK_AFTER
            in_use = any(
                other != channel
                and (before[other] or any(other in m for m in self.members.values()))
                for other in CHANNELS
            )
            assert over or in_use
        if len(dropped) == 1 and not over:
            # Nobody who had more, and was not read for as long, came off better.
            (channel,) = dropped
            spared = [
                other
                for other in CHANNELS
                if len(before[other]) > len(before[channel])
                and self.mailboxes.box(other).unread_since <= self.now - STUCK_AFTER
                and not self.mailboxes.box(other).read
            ]
            assert not spared

    @rule()
    def reconnect(self) -> None:
        self.source = Source()
        self.sources.append(self.source)
        self.tag = 0

    @invariant()
    def held_is_what_is_not_acknowledged(self) -> None:
        held = {n for queue in self.queues.values() for n in queue}
        assert len(self.mailboxes) == len(held)
        for serial, (source, tag) in self.where.items():
            assert (tag in source.acked) == (serial not in held)

    @invariant()
    def oldest_is_known(self) -> None:
        held = [self.arrived[n] for queue in self.queues.values() for n in queue]
        assert self.mailboxes.oldest == (min(held) if held else None)


TestMailboxesMachine = MailboxesMachine.TestCase
TestMailboxesMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
