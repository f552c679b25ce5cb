"""Whatever happens in whatever order, three layers do as a simple model of them does.

Hypothesis makes up the story: sends, joins, leaves, event loops that end, cuts, messages that
expire. The model knows of each message which channels may get it and which must.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest
from channels.exceptions import ChannelFull
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.helpers.proxy import Proxy
from tests.helpers.waiting import until

T = TypeVar("T")

#: How long a call may take on a busy machine, in seconds.
LONGEST = 30.0
#: ``local_expiry`` of the layer whose messages expire, in seconds.
EXPIRY = 0.2


class RunningLoop:
    """An event loop that runs in a thread, and ends as ``asyncio.run()`` ends one."""

    def __init__(self) -> None:
        ready = threading.Event()

        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._end = asyncio.Event()
            ready.set()
            await self._end.wait()

        self._thread = threading.Thread(target=asyncio.run, args=(main(),))
        self._thread.start()
        ready.wait()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LONGEST)

    def end(self) -> None:
        """End the loop, and the tasks on it."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


class Process:
    """A layer, and the loops that it is used on: what one process of a site is."""

    def __init__(self, name: str, loops: int, **config: object) -> None:
        self.name = name
        self.layer = RabbitmqChannelLayer(**config)  # type: ignore[arg-type]
        self.loops = [RunningLoop() for _ in range(loops)]
        self._turn = itertools.cycle(range(loops))

    def __repr__(self) -> str:
        return self.name

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on one of the loops, each time on the next."""
        return self.loops[next(self._turn)].run(work)

    def end_loop(self, index: int) -> None:
        """End one of the loops; there is another one in its place. Wait for the connection."""
        index %= len(self.loops)
        self.loops[index].end()
        self.loops[index] = RunningLoop()
        self.run(self.connect())

    async def connect(self) -> None:
        """Wait for the connection."""
        await self.layer.current_connection

    def end(self) -> None:
        """Close the layer, and end all loops."""
        self.run(self.layer.close())
        for loop in self.loops:
            loop.end()


@dataclass(eq=False)
class Channel:
    """A channel, as the model sees it."""

    name: str
    process: Process
    #: Messages that must arrive, those that may, and those that have, in order.
    must: set[int] = field(default_factory=set)
    may: set[int] = field(default_factory=set)
    got: list[tuple[str, int]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"{self.process}!{self.name[-4:]}"


class Site(RuleBasedStateMachine):
    """Three processes: *a* is cut and moves between loops, *c* lets messages expire."""

    #: Where RabbitMQ is.
    url: ClassVar[str]

    channels = Bundle("channels")

    @initialize(target=channels)
    def start(self) -> Any:
        """Start the processes, with a channel each."""
        self.hop = RunningLoop()
        self.proxy = Proxy(self.url)
        self.hop.run(self.proxy.accept())
        config: dict[str, Any] = {
            "host": self.url,
            "groups_exchange": f"groups-{secrets.token_hex(6)}",
            "local_capacity": 1000,
            "remote_capacity": 1000,
            "group_send_raises": True,
            "max_reconnect_delay": 0.1,
        }
        self.a = Process("a", 2, **config | {"host": self.proxy.url})
        self.b = Process("b", 1, **config)
        self.c = Process("c", 1, **config | {"local_expiry": EXPIRY})
        self.processes = {"a": self.a, "b": self.b, "c": self.c}
        self.everyone: list[Channel] = []
        self.members: dict[str, set[Channel]] = {"g": set(), "h": set()}
        self.to_group: dict[str, set[int]] = {"g": set(), "h": set()}
        self.numbers = itertools.count(1)
        self.waits = 0
        for process in self.processes.values():
            process.run(process.connect())
        return multiple(*(self._new_channel(process) for process in self.processes.values()))

    def _new_channel(self, process: Process) -> Channel:
        channel = Channel(process.run(process.layer.new_channel()), process)
        self.everyone.append(channel)
        return channel

    @rule(target=channels, process=st.sampled_from("abc"))
    def new_channel(self, process: str) -> Channel:
        """A process has one more channel."""
        return self._new_channel(self.processes[process])

    # Sending

    def _send(
        self, sender: Process, target: Channel | str, count: int, *, fault: bool = False
    ) -> None:
        numbers = list(itertools.islice(self.numbers, count))

        async def send(number: int) -> None:
            message = {"from": sender.name, "n": number}
            if isinstance(target, str):
                await sender.layer.group_send(target, message)
            else:
                await sender.layer.send(target.name, message)

        async def send_all() -> list[BaseException | None]:
            return await asyncio.gather(*map(send, numbers), return_exceptions=True)

        results = sender.run(send_all())
        receivers = self.members[target] if isinstance(target, str) else {target}
        if isinstance(target, str):
            self.to_group[target].update(numbers)
        for number, error in zip(numbers, results, strict=True):
            if error is not None:
                assert fault, error
                assert isinstance(error, ChannelFull), error
            for channel in receivers:
                channel.may.add(number)
                # What was sent to a process that was cut off may be lost, and so may what expires.
                away = channel.process is self.c or (fault and channel.process is self.a)
                if error is None and not away:
                    channel.must.add(number)
        note(f"{sender} -> {target}: {numbers} {[e for e in results if e]}")

    @rule(sender=st.sampled_from("abc"), channel=channels, count=st.integers(1, 5))
    def send(self, sender: str, channel: Channel, count: int) -> None:
        """Send some messages to a channel, without waiting from one to the next."""
        self._send(self.processes[sender], channel, count)

    @rule(sender=st.sampled_from("abc"), group=st.sampled_from("gh"), count=st.integers(1, 5))
    def group_send(self, sender: str, group: str, count: int) -> None:
        """Send some messages to a group."""
        self._send(self.processes[sender], group, count)

    # Groups

    def _join(self, by: Process, group: str, channel: Channel) -> None:
        by.run(by.layer.group_add(group, channel.name))
        self.members[group].add(channel)
        channel.may |= self.to_group[group]  # what is still on its way may reach it, too

    def _leave(self, by: Process, group: str, channel: Channel) -> None:
        by.run(by.layer.group_discard(group, channel.name))
        self.members[group].discard(channel)
        channel.must -= self.to_group[group]  # what is still on its way need not arrive

    @rule(by=st.sampled_from("abc"), group=st.sampled_from("gh"), channel=channels)
    def join(self, by: str, group: str, channel: Channel) -> None:
        """A channel joins, whichever process asks for it."""
        self._join(self.processes[by], group, channel)

    @rule(by=st.sampled_from("abc"), group=st.sampled_from("gh"), channel=channels)
    def leave(self, by: str, group: str, channel: Channel) -> None:
        """A channel leaves: what is sent from now on does not reach it."""
        self._leave(self.processes[by], group, channel)

    # Faults

    def _lose_what_is_on_its_way(self) -> None:
        for channel in self.everyone:
            if channel.process is self.a:
                channel.must.clear()

    @rule(
        story=st.lists(
            st.one_of(
                st.tuples(st.just("send"), st.sampled_from("abc"), st.integers(0, 9)),
                st.tuples(st.just("group"), st.sampled_from("abc"), st.sampled_from("gh")),
                st.tuples(st.just("join"), st.sampled_from("gh"), st.integers(0, 9)),
                st.tuples(st.just("leave"), st.sampled_from("gh"), st.integers(0, 9)),
            ),
            max_size=4,
        )
    )
    def cut(self, story: list[tuple[str, str, Any]]) -> None:
        """The connection of *a* is cut; meanwhile something happens; it comes back."""
        self._lose_what_is_on_its_way()
        before = self.proxy.accepted

        async def cut() -> None:
            self.proxy.cut()

        async def back() -> None:
            await until(lambda: self.proxy.accepted > before, LONGEST)

        self.hop.run(cut())
        for what, who, which in story:
            channel = self.everyone[which % len(self.everyone)] if isinstance(which, int) else None
            if what == "send" and channel:
                self._send(self.processes[who], channel, 3, fault=True)
            elif what == "join" and channel:
                self._join(channel.process, who, channel)
            elif what == "leave" and channel:
                self._leave(channel.process, who, channel)
            else:
                self._send(self.processes[who], which, 3, fault=True)
        self.hop.run(back())
        self.a.run(self.a.connect())

    @rule(index=st.integers(0, 1))
    def end_loop(self, index: int) -> None:
        """One of the loops of *a* ends: perhaps the one with the connection, which moves."""
        self._lose_what_is_on_its_way()
        self.a.end_loop(index)

    @precondition(lambda self: self.waits < 3)
    @rule()
    def expire(self) -> None:
        """What *c* received expires, unless it was read."""
        self.waits += 1
        time.sleep(2 * EXPIRY)

    # Receiving

    @rule(channel=channels)
    def read(self, channel: Channel) -> None:
        """Read all that was sent to a channel, and compare."""
        ends = {f"{process}{secrets.token_hex(4)}" for process in self.processes.values()}
        for end in ends:
            process = self.processes[end[0]]
            process.run(process.layer.send(channel.name, {"end": end}))
        received = channel.process.run(self._receive(channel, ends))
        note(f"{channel} got {received}, must {sorted(channel.must)}")
        seen = {number for _, number in channel.got}
        numbers = [number for _, number in received]
        assert len(numbers) == len(set(numbers)), "twice"
        assert not seen.intersection(numbers), "twice"
        channel.got += received
        for sender in self.processes:
            sent = [number for name, number in channel.got if name == sender]
            assert sent == sorted(sent), f"out of order, from {sender}"
        assert channel.may.issuperset(numbers), "to a channel that was not in the group"
        assert channel.must <= {number for _, number in channel.got}, "lost"

    async def _receive(self, channel: Channel, ends: set[str]) -> list[tuple[str, int]]:
        received = []
        while ends:
            receiving = channel.process.layer.receive(channel.name)
            try:
                message = await asyncio.wait_for(
                    receiving, 0.5 if channel.process is self.c else 20
                )
            except TimeoutError:
                assert channel.process is self.c, f"{ends} did not arrive"
                break  # it expired
            if "end" in message:
                ends.discard(message["end"])
            else:
                received.append((message["from"], message["n"]))
        return received

    @invariant()
    def remembers_members(self) -> None:
        """Each process knows its members, through cuts and moves."""
        for group, members in getattr(self, "members", {}).items():
            for process in self.processes.values():
                known = set(process.layer._owner._local.memberships.members(group))
                assert known == {m.name for m in members if m.process is process}

    def teardown(self) -> None:
        """Read everything, and end."""
        if not hasattr(self, "waits"):
            return
        try:
            for channel in self.everyone:
                self.read(channel)
        finally:
            for process in self.processes.values():
                process.end()
            self.hop.run(self.proxy.__aexit__(None, None, None))
            self.hop.end()


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_model(amqp_url: str) -> None:
    """Never twice, never out of order, never after leaving; and all, where there was no fault."""
    machine = type("Site", (Site,), {"url": amqp_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            # Each attempt to shrink a story takes a second: it would end at the test's timeout.
            phases=[Phase.generate],
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
