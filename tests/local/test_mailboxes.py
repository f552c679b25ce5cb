"""``mailboxes``: what is held, for whom, for how long, and when RabbitMQ is told."""

from __future__ import annotations

import contextlib
import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from types import FrameType

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from channels_rabbitmq.events import Event
from channels_rabbitmq.local.counts import Counts
from channels_rabbitmq.local.lag import LAG
from channels_rabbitmq.local.mailbox import NEVER, Delivery
from channels_rabbitmq.local.mailboxes import Mailboxes
from channels_rabbitmq.local.state import NormalMailboxes
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


class Meddler:
    """A hook that uses the mailboxes as it is told of an event, as one with an eager task may."""

    def __init__(self, mailboxes: Mailboxes | NormalMailboxes) -> None:
        self._mailboxes = mailboxes
        #: Channels, copies, and what was held as they were told of.
        self.told: list[tuple[str, int, int]] = []

    def __call__(self, event: Event) -> None:
        self.told.append((event.name, event.count, self._mailboxes.unread))
        self._mailboxes.box(f"new-{len(self.told)}")


def test_events_come_when_all_is_done() -> None:
    """A hook finds what it is told of done, and may make mailboxes."""
    counts = Counts()
    mailboxes, source = Mailboxes(10, 60, counts=counts), Source()
    hook = counts.events.hook = Meddler(mailboxes)
    deliver(mailboxes, source, 1, "a", "b")
    deliver(mailboxes, source, 2, "b")
    mailboxes.clear()
    assert hook.told == [("a", 1, 0), ("b", 2, 0)]
    assert source.acked == [1, 2]
    for tag in range(3, 13):
        deliver(mailboxes, source, tag, "c", now=tag)
    deliver(mailboxes, source, 13, "d", now=20)
    hook.told.clear()
    mailboxes.relieve(12, ())
    assert hook.told == [("c", 2, 9)]
    hook.told.clear()
    mailboxes.expire(70)
    assert hook.told == [("c", 6, 3)]


def test_events_of_channel_capacity_come_when_all_is_done() -> None:
    """The same where channels hold more than they may."""
    counts = Counts()
    mailboxes, source = Mailboxes(10, 60, cap=lambda name: 1, counts=counts), Source()
    hook = counts.events.hook = Meddler(mailboxes)
    deliver(mailboxes, source, 1, "a", "b")
    deliver(mailboxes, source, 2, "a", "b")
    assert hook.told == [("a", 1, 2), ("b", 1, 2)]
    assert source.acked == [1]


def test_events_of_normal_channels_come_when_all_is_done() -> None:
    """The same for normal channels, also as the layer is closed."""
    counts = Counts()
    mailboxes = NormalMailboxes(60, counts)
    hook = counts.events.hook = Meddler(mailboxes)
    for name in ("a", "a", "b"):
        mailboxes.hold(name, {"type": "x"}, b"", 0)
    mailboxes.clear()
    assert hook.told == [("a", 2, 0), ("b", 1, 0)]
    for name in ("a", "a", "b"):
        mailboxes.hold(name, {"type": "x"}, b"", 0)
    hook.told.clear()
    assert list(mailboxes.take_all(61)) == []
    assert hook.told == [("a", 2, 1), ("b", 1, 0)]


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


def test_put_back_is_as_old_as_the_next() -> None:
    """A message that is put back expires with those that came after it, and counts in order."""
    mailboxes, source = Mailboxes(10, 5), Source()
    deliver(mailboxes, source, 1, "a", now=100)
    deliver(mailboxes, source, 2, "a", now=101)
    deliver(mailboxes, source, 3, "b", now=103)
    mailboxes.put_back("a", mailboxes.take(mailboxes.box("a")), 104)
    assert mailboxes.expire(106) == {"a": 2}
    assert mailboxes.oldest == 103


def test_expiry_looks_at_no_other_mailbox() -> None:
    """Expiry takes no more calls where ten thousand other channels wait."""

    def calls(others: int) -> int:
        mailboxes, source = Mailboxes(10, 5), Source()
        for number in range(others):
            mailboxes.box(f"waits{number}").waiters.append(Waiter())
        deliver(mailboxes, source, 1, "a", "b", now=100)
        with counted() as steps:
            assert mailboxes.expire(106) == {"a": 1, "b": 1}
        return steps.number

    assert calls(0) == calls(10_000)


def test_used_again_after_a_sweep() -> None:
    """A sweep takes the mailboxes of no channel in use, nor what they hold."""
    mailboxes, source = Mailboxes(10, 60), Source()
    waiter = Waiter()
    mailboxes.box("waits").waiters.append(waiter)
    deliver(mailboxes, source, 1, "holds")
    deliver(mailboxes, source, 2, "was read")
    take(mailboxes, "was read")
    mailboxes.sweep()
    assert mailboxes.find("was read") is None
    deliver(mailboxes, source, 3, "waits", "was read")
    assert waiter.state == "woken"
    assert [take(mailboxes, name) for name in ("holds", "waits", "was read")] == [1, 3, 3]


def test_memory_of_idle_mailboxes() -> None:
    """The memory of thousands of channels that are gone is given back."""
    mailboxes, source = Mailboxes(10, 60), Source()
    channels = [f"channels_abc!{number}" for number in range(20_000)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        deliver(mailboxes, source, 1, *channels)
        for name in channels:
            take(mailboxes, name)
        mailboxes.sweep()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before > 10_000_000
    assert after - before < 100_000


def fill(mailboxes: Mailboxes, source: Source, **counts: int) -> None:
    """Deliver so many messages to each channel at time 0."""
    tag = len(mailboxes)
    for channel, count in counts.items():
        for _ in range(count):
            tag += 1
            deliver(mailboxes, source, tag, channel)
    assert mailboxes.full


class Steps:
    """How many Python and C functions were called."""

    number = 0


@contextlib.contextmanager
def counted() -> Iterator[Steps]:
    """Count the calls of functions while something is done, but none of a garbage collection."""
    steps = Steps()

    def note(frame: FrameType, event: str, arg: object) -> None:
        steps.number += event in ("call", "c_call")

    gc.collect()
    gc.disable()
    sys.setprofile(note)
    try:
        yield steps
    finally:
        sys.setprofile(None)
        gc.enable()


class TestRelief:
    """A slot of a full window is freed by channels that lag, for one that does not."""

    def test_lonely_channel_loses_nothing(self) -> None:
        """The only channel in use back-pressures, however full the window is."""
        mailboxes, source = Mailboxes(4, 60), Source()
        fill(mailboxes, source, a=4)
        assert mailboxes.relieve(1000.0, ["a"]) == {}

    @pytest.mark.parametrize("other", ["member", "waiter", "holder"])
    def test_channel_that_lags_loses_its_oldest(self, other: str) -> None:
        """While a channel is in use that keeps up, one that lags pays with its oldest message."""
        mailboxes, source = Mailboxes(4, 60), Source()
        if other == "waiter":
            mailboxes.box("b").waiters.append(Waiter())
        for tag in (1, 2, 3):
            deliver(mailboxes, source, tag, "a")
        deliver(mailboxes, source, 4, "b" if other == "holder" else "a", now=1.0)
        in_groups = ["b"] if other == "member" else []
        assert mailboxes.relieve(NEVER, in_groups) == {}
        assert mailboxes.relieve(0.5, in_groups) == {"a": 1}
        assert source.acked == [1]
        assert not mailboxes.full
        assert mailboxes.dropped == {"local_capacity": 1}
        assert repr(mailboxes) == "<Mailboxes: 3 deliveries held, 1 dropped by local_capacity>"
        assert take(mailboxes, "a") == 2

    def test_all_lag(self) -> None:
        """Where all that are in use lag together, nothing is dropped."""
        mailboxes, source = Mailboxes(4, 60), Source()
        fill(mailboxes, source, a=3, b=1)
        assert mailboxes.relieve(0.0, ["a", "b"]) == {}
        mailboxes.box("a").waiters.append(Waiter())
        assert mailboxes.relieve(0.1, ["a", "b"]) == {}

    def test_reading_is_no_excuse(self) -> None:
        """A channel that reads, but too slowly, lags all the same."""
        mailboxes, source = Mailboxes(4, 60), Source()
        fill(mailboxes, source, a=4)
        take(mailboxes, "a")
        deliver(mailboxes, source, 5, "a", now=1.0)
        assert mailboxes.relieve(0.5, ["b"]) == {"a": 1}
        assert source.acked == [1, 2]

    def test_channel_that_keeps_up_loses_nothing(self) -> None:
        """A channel that holds most, but nothing old, leaves the loss to one that lags."""
        mailboxes, source = Mailboxes(5, 60), Source()
        deliver(mailboxes, source, 1, "b")
        for tag in (2, 3, 4, 5):
            deliver(mailboxes, source, tag, "a", now=1.0)
        assert mailboxes.relieve(0.5, ()) == {"b": 1}

    def test_fullest_of_those_that_lag_loses(self) -> None:
        """Of two channels that lag, the fuller one pays; after it has read, the other."""
        mailboxes, source = Mailboxes(5, 60), Source()
        fill(mailboxes, source, a=2, b=3)
        assert mailboxes.relieve(0.0, ["c"]) == {"b": 1}
        take(mailboxes, "b")
        deliver(mailboxes, source, 6, "c", now=1.0)
        deliver(mailboxes, source, 7, "c", now=1.0)
        assert mailboxes.relieve(0.0, ["c"]) == {"a": 1}

    def test_lags_until_it_has_read_what_it_held(self) -> None:
        """Losing its old messages does not clear a channel; reading all that it held then does."""
        mailboxes, source = Mailboxes(3, 60), Source()
        deliver(mailboxes, source, 1, "a")
        deliver(mailboxes, source, 2, "a", now=1.0)
        deliver(mailboxes, source, 3, "a", now=1.0)
        assert mailboxes.relieve(0.5, ["b"]) == {"a": 1}
        deliver(mailboxes, source, 4, "a", now=1.1)
        assert mailboxes.relieve(0.5, ["b"]) == {"a": 1}
        assert [take(mailboxes, "a"), take(mailboxes, "a")] == [3, 4]
        for tag in (5, 6, 7):
            deliver(mailboxes, source, tag, "a", now=1.2)
        assert mailboxes.relieve(0.6, ["b"]) == {}

    def test_shared_with_a_channel_that_keeps_up(self) -> None:
        """A message that a channel which keeps up has yet to read is not dropped for anybody."""
        mailboxes, source = Mailboxes(2, 60), Source()
        deliver(mailboxes, source, 1, "a")
        deliver(mailboxes, source, 2, "a", "b", now=1.0)
        assert mailboxes.relieve(0.5, ["c"]) == {"a": 1}
        deliver(mailboxes, source, 3, "a", "b", now=1.1)
        assert mailboxes.relieve(0.6, ["c"]) == {}
        take(mailboxes, "b")
        assert mailboxes.relieve(0.7, ["c"]) == {"a": 1}
        assert source.acked == [1, 2]

    def test_slot_of_a_shared_delivery(self) -> None:
        """A message is taken from all that hold it at once, wherever it stands in their order."""
        mailboxes, source = Mailboxes(4, 60), Source()
        deliver(mailboxes, source, 1, "b")
        deliver(mailboxes, source, 2, "a", "b", "c")
        deliver(mailboxes, source, 3, "a", "c")
        take(mailboxes, "c")
        deliver(mailboxes, source, 4, "a", now=1.0)
        assert mailboxes.relieve(0.5, ["d"]) == {"a": 1, "b": 1}
        assert source.acked == [2]
        assert [take(mailboxes, "b"), take(mailboxes, "a"), take(mailboxes, "c")] == [1, 3, 3]

    def test_large_group(self) -> None:
        """A slot that 500 channels hold takes a few steps for each of them."""
        mailboxes, source = Mailboxes(100, 60), Source()
        members = [f"member{number}" for number in range(500)]
        for tag in range(1, 101):
            deliver(mailboxes, source, tag, *members)
        for number, name in enumerate(members):  # none of them holds the same as the next
            for _ in range(number % 50):
                take(mailboxes, name)
        mailboxes.relieve(NEVER, ["reads"])
        with counted() as steps:
            dropped = mailboxes.relieve(0.0, ["reads"])
        assert dropped.total() == 10
        assert steps.number < 10 * 500
        with counted() as steps:
            for tag in range(101, 151):
                deliver(mailboxes, source, tag, *members)
                mailboxes.relieve(0.0, ["reads"])
        assert len(mailboxes) == 99
        assert steps.number < 50 * 10 * 500

    def test_one_look_for_many_slots(self) -> None:
        """Freeing one slot after another does not look at each of 10,000 channels that wait."""
        mailboxes, source = Mailboxes(10, 60), Source()
        for number in range(10_000):
            mailboxes.box(f"waits{number}").waiters.append(Waiter())
        fill(mailboxes, source, a=10)
        mailboxes.relieve(0.0, ())
        with counted() as steps:
            for tag in range(11, 111):
                deliver(mailboxes, source, tag, "a")
                assert mailboxes.relieve(0.0, ()) == {"a": 1}
        assert steps.number < 100 * 100

    def test_what_reconnections_leave(self) -> None:
        """Deliveries of ended connections never add up to more than another window."""
        mailboxes = Mailboxes(3, 60)
        for _ in range(4):
            source = Source()
            for tag in (1, 2, 3):
                deliver(mailboxes, source, tag, "a")
            mailboxes.relieve(0.0, ())
            assert len(mailboxes) <= 6
        assert len(mailboxes) == 6


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


class Entry:
    """A message as the model knows it: held by the channels whose queues have it."""

    def __init__(self, number: int, arrived: float) -> None:
        self.number = number
        self.arrived = arrived


class MailboxesMachine(RuleBasedStateMachine):
    """Random use of mailboxes, beside the plainest model that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.mailboxes = Mailboxes(CAPACITY, EXPIRY)
        self.now = 0.0
        #: What came until then has been held for too long. A loop that stands still leaves it.
        self.limit = NEVER
        #: The limit at the last look at who lags.
        self.looked = NEVER
        self.serial = 0
        self.source = Source()
        self.tag = 0
        # The model
        self.members: dict[str, list[str]] = {group: [] for group in GROUPS}
        self.queues: dict[str, list[Entry]] = {channel: [] for channel in CHANNELS}
        self.waiting: set[str] = set()
        #: Until when what a channel holds makes it lag, because it lost a message.
        self.behind = dict.fromkeys(CHANNELS, NEVER)
        self.entries: dict[Delivery, Entry] = {}
        #: What became of the copies that were put.
        self.copies = 0
        self.taken = 0
        self.dropped: Counter[str] = Counter()

    def in_window(self) -> int:
        return self.tag - len(self.source.acked)

    def put(self, names: list[str]) -> None:
        self.serial += 1
        self.tag += 1
        message = self.message(self.serial)
        body = msgpack.packb({**message, CHANNEL_KEY: "x!y"})
        delivery = Delivery(self.source, self.tag, self.now, body, message)
        entry = self.entries[delivery] = Entry(self.serial, self.now)
        self.mailboxes.put(delivery, names)
        for name in names:
            self.queues[name].append(entry)
            self.waiting.discard(name)
        self.copies += len(names) or 1
        if not names:
            self.dropped["no_receiver"] += 1

    @staticmethod
    def message(serial: int) -> Message:
        """A flat one, or one with a list: their copies are made in different ways."""
        return {"n": serial} if serial % 2 else {"n": serial, "list": []}

    def lags(self, channel: str) -> bool:
        queue = self.queues[channel]
        return bool(queue) and queue[0].arrived <= max(self.limit, self.behind[channel])

    def in_use(self, channel: str) -> bool:
        in_group = any(channel in members for members in self.members.values())
        return in_group or bool(self.queues[channel]) or channel in self.waiting

    def holders(self, entry: Entry) -> set[str]:
        return {channel for channel, queue in self.queues.items() if entry in queue}

    def lose(self, why: str) -> dict[str, list[Entry]]:
        """Compare with what is really held; give what each channel has lost."""
        lost = {}
        for channel, queue in self.queues.items():
            left = [self.entries[held] for held in self.mailboxes.box(channel).queue]
            gone = [entry for entry in queue if entry not in left]
            assert left == [entry for entry in queue if entry in left], "order"
            if gone:
                lost[channel] = gone
                self.dropped[why] += len(gone)
                self.queues[channel] = left
                self.behind[channel] = left[-1].arrived if left else NEVER
        return lost

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
            assert message == self.message(self.queues[channel].pop(0).number)
            message["more"] = "not seen by others"
            if isinstance(nested := message.get("list"), list):
                nested.append("not seen by others")
            self.taken += 1
        elif channel not in self.waiting:
            self.waiting.add(channel)
            box.waiters.append(Waiter())

    @rule(channel=channels)
    def take_and_put_back(self, channel: str) -> None:
        box = self.mailboxes.box(channel)
        if box.queue:
            queue = self.queues[channel]
            number = queue.pop(0).number
            self.mailboxes.put_back(channel, self.mailboxes.take(box), self.now)
            entry = Entry(number, queue[0].arrived if queue else self.now)
            queue.insert(0, entry)
            self.entries[box.queue[0]] = entry
            self.waiting.discard(channel)

    @rule(group=groups, channel=channels)
    def join(self, group: str, channel: str) -> None:
        if channel not in self.members[group]:
            self.members[group].append(channel)

    @rule(group=groups, channel=channels)
    def leave(self, group: str, channel: str) -> None:
        if channel in self.members[group]:
            self.members[group].remove(channel)

    @rule(seconds=st.sampled_from([0.01, LAG, 1.0, EXPIRY / 2]))
    def run_for(self, seconds: float) -> None:
        self.now += seconds
        self.limit = max(self.limit, self.now - LAG)

    @rule()
    def stand_still(self) -> None:
        self.now += 1.0

    @rule()
    def sweep(self) -> None:
        self.mailboxes.sweep()
        self.looked = NEVER

    @rule()
    def flush(self) -> None:
        self.mailboxes.clear()
        for queue in self.queues.values():
            self.dropped["flush"] += len(queue)
            queue.clear()

    @rule()
    def expire(self) -> None:
        expected = {
            channel: old
            for channel, queue in self.queues.items()
            if (old := [entry for entry in queue if entry.arrived <= self.now - EXPIRY])
        }
        counts = self.mailboxes.expire(self.now)
        assert self.lose("local_expiry") == expected
        assert counts == {channel: len(entries) for channel, entries in expected.items()}

    @rule()
    def relieve(self) -> None:
        sizes = {channel: len(queue) for channel, queue in self.queues.items()}
        fronts = {channel: queue[0] for channel, queue in self.queues.items() if queue}
        held = len(self.mailboxes)
        lag = {channel for channel in CHANNELS if self.lags(channel)}
        # Those that can lose their oldest message so that a slot is free.
        losers = {name for name in lag if lag.issuperset(self.holders(fronts[name]))}
        others = any(self.in_use(channel) and channel not in lag for channel in CHANNELS)
        in_groups = {channel for members in self.members.values() for channel in members}
        fresh = self.limit != self.looked
        holders = {entry: self.holders(entry) for queue in self.queues.values() for entry in queue}

        counts = self.mailboxes.relieve(self.limit, in_groups)

        lost = self.lose("local_capacity")
        assert counts == {channel: len(entries) for channel, entries in lost.items()}
        assert len(self.mailboxes) <= 2 * CAPACITY
        if held < CAPACITY:
            assert not lost
            return
        self.looked = self.limit
        if held > 2 * CAPACITY:
            return  # left from earlier connections: the oldest go, whosever they are
        entries = {entry for each in lost.values() for entry in each}
        for entry in entries:  # nobody that keeps up loses, and each loss frees a slot
            assert lag.issuperset(holders[entry])
            assert all(entry in lost[channel] for channel in holders[entry])
        assert others or not lost
        if fresh and others and losers:
            assert lost
            assert held > CAPACITY or len(self.mailboxes) == CAPACITY - 1
        if fresh and len(entries) == 1:
            (entry,) = entries
            fullest = max(sizes[channel] for channel in losers)
            assert any(fronts[name] is entry and sizes[name] == fullest for name in losers)

    @rule()
    def reconnect(self) -> None:
        self.source = Source()
        self.tag = 0

    @invariant()
    def held_is_what_is_not_acknowledged(self) -> None:
        held = {entry for queue in self.queues.values() for entry in queue}
        assert len(self.mailboxes) == len(held)
        for delivery, entry in self.entries.items():
            if isinstance(delivery.source, Source):
                assert (delivery.tag in delivery.source.acked) == (entry not in held)

    @invariant()
    def oldest_is_known(self) -> None:
        held = [entry.arrived for queue in self.queues.values() for entry in queue]
        assert self.mailboxes.oldest == (min(held) if held else None)

    @invariant()
    def counts_add_up(self) -> None:
        held = sum(len(queue) for queue in self.queues.values())
        assert self.copies == self.taken + self.dropped.total() + held
        assert self.mailboxes.dropped == self.dropped


TestMailboxesMachine = MailboxesMachine.TestCase
TestMailboxesMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
