"""Cancelled at every point at which it can wait, no method leaves anything behind.

Each method runs again and again, and is cancelled at its first suspension, then at its second, and
so on until it completes: as it suspends, a moment later, and just as what it waits for is there.
Where the layer is owned by another loop, the suspensions of the work there are counted as well.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull, StopConsumer

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotAnswered
from tests.helpers.connections import LOOPS, loop_in_thread
from tests.helpers.proxy import Proxy
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

#: When a call is cancelled, seen from the suspension.
MOMENTS = ["as it suspends", "a moment later", "as it is answered"]
#: Seconds that "a moment" takes: about what RabbitMQ needs for half of its answer.
MOMENT = 0.0005
#: Seconds after which a call that nothing answers is cancelled.
LONGEST = 0.3
#: The tasks that a layer has as long as its connection.
STANDING = {"Recovery._run", "ControlExchange.run"}


class Steps:
    """Awaits a coroutine, counts its suspensions, and calls ``cancel`` at one of them."""

    def __init__(
        self, work: Coroutine[Any, Any, Any], nth: int, moment: str, cancel: Callable[[], object]
    ) -> None:
        self._work = work
        self._nth = nth
        self._moment = moment
        self._cancel = cancel
        self.suspensions = 0

    @property
    def struck(self) -> bool:
        """Whether the coroutine came to the suspension at which it is cancelled."""
        return self.suspensions > self._nth

    def __await__(self) -> Generator[Any, None, Any]:
        error: BaseException | None = None
        while True:
            try:
                waits_for = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as stop:
                return stop.value
            if self.suspensions == self._nth:
                self._strike(waits_for)
            self.suspensions += 1
            try:
                yield waits_for
                error = None
            except BaseException as err:
                error = err

    def _strike(self, waits_for: asyncio.Future[object] | None) -> None:
        if self._moment == "a moment later":
            asyncio.get_running_loop().call_later(MOMENT, self._cancel)
        elif self._moment == "as it is answered" and waits_for is not None:
            # Ahead of the callback that wakes the task: that finds itself cancelled, the result
            # in its hands.
            waits_for.add_done_callback(lambda _: self._cancel())
        else:
            self._cancel()


@dataclass
class Probe:
    """Where the work of a call on the owning loop is to be cancelled from."""

    nth: int
    moment: str
    cancel: Callable[[], object]
    steps: Steps | None = None


_probe: contextvars.ContextVar[Probe | None] = contextvars.ContextVar("probe", default=None)


def probing(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """A task factory: the first task that a probed call starts on the loop is counted."""
    probe = _probe.get()
    if probe is not None and probe.steps is None:
        steps = probe.steps = Steps(work, probe.nth, probe.moment, probe.cancel)

        async def drive() -> object:
            return await steps

        work = drive()
    return asyncio.Task(work, loop=loop, **options)


@dataclass
class Place:
    """A layer that is called, another one beside it, and channels of all kinds."""

    layer: RabbitmqChannelLayer
    peer: RabbitmqChannelLayer
    own: str
    foreign: str
    group: str = field(default_factory=lambda: f"g{secrets.token_hex(6)}")
    normal: str = field(default_factory=lambda: f"n{secrets.token_hex(6)}")
    sent: int = 0
    received: list[tuple[str, int]] = field(default_factory=list)

    @property
    def owner(self) -> asyncio.AbstractEventLoop:
        """The loop that owns the layer."""
        loop_layer = self.layer._owner._loop_layer
        assert loop_layer is not None
        return loop_layer.loop

    def message(self) -> dict[str, Any]:
        """A message that no other is like."""
        self.sent += 1
        return {"n": self.sent}

    async def read_all(self) -> None:
        """Receive all that was sent before, on every channel."""
        await self._read_all(self.layer, self.own)
        await self._read_all(self.layer, self.normal)
        await self._read_all(self.peer, self.foreign)
        assert len(self.received) == len(set(self.received)), "a message came twice"

    async def _read_all(self, reader: RabbitmqChannelLayer, channel: str) -> None:
        # Order is promised from each sender: behind these nothing of theirs is on its way.
        ends = {secrets.token_hex(6) for _ in range(2)}
        for sender, end in zip((self.layer, self.peer), sorted(ends), strict=True):
            await sender.send(channel, {"end": end})
        async with asyncio.timeout(10):
            while ends:
                message = await reader.receive(channel)
                self.take(channel, message)
                ends.discard(message.get("end", ""))

    def take(self, channel: str, message: dict[str, Any]) -> None:
        """Note what was received."""
        if "n" in message:
            self.received.append((channel, message["n"]))

    def left_the_group(self) -> bool:
        """Whether no channel received the message to the group that all had left."""
        return all(n != -1 for _, n in self.received)

    async def nothing_left(self) -> None:
        """Wait until nothing is left behind."""
        try:
            await until(lambda: not self.left_behind())
        except AssertionError as err:
            err.add_note(repr(self.left_behind()))
            raise

    def left_behind(self) -> dict[str, object]:
        """What a call that is over must not leave in the layer: nothing."""
        loop_layer = self.layer._owner._loop_layer
        assert loop_layer is not None
        local = loop_layer.local
        boxes = [*local.mailboxes._boxes.values(), *local.normal._boxes.values()]
        left = {
            "tasks": [name for name in package_tasks(self.owner) if name not in STANDING],
            "waiters": [box.name for box in boxes if box.waiters],
            "claims": [*local.memberships.claimed, *local.normal_memberships.claimed],
            "members": [*local.memberships.pairs, *local.normal_memberships.pairs],
            "questions": list(loop_layer._peers._asked),
            "calls": list(loop_layer.portal._callers),
            "deadlines": [
                future
                for _, futures in loop_layer._groups._deadlines._watched
                for future in futures
                if not future.done()
            ],
        }
        return {what: found for what, found in left.items() if found}


def package_tasks(loop: asyncio.AbstractEventLoop) -> list[str]:
    """The names of the coroutines of the package that are tasks on a loop."""
    names = []
    for task in asyncio.all_tasks(loop):
        work = task.get_coro()
        if inspect.iscoroutine(work) and "/channels_rabbitmq/" in work.cr_code.co_filename:
            names.append(work.__qualname__)
    return names


Call = Callable[[Place], Coroutine[Any, Any, Any]]


async def receive(place: Place, channel: str) -> None:
    """Receive one message that is on its way."""
    place.take(channel, await place.layer.receive(channel))


async def receive_many(place: Place, channels: list[str], block: bool) -> None:
    """Receive one message that is on its way, of any of the channels."""
    channel, message = await place.layer.receive_many(channels, block=block)
    if channel is not None and message is not None:
        place.take(channel, message)


async def wait(awaitable: Awaitable[object]) -> None:
    """Await what is no coroutine."""
    await awaitable


CALLS: dict[str, Call] = {
    "send, own": lambda at: at.layer.send(at.own, at.message()),
    "send, normal": lambda at: at.layer.send(at.normal, at.message()),
    "send, foreign": lambda at: at.layer.send(at.foreign, at.message()),
    "receive, own": lambda at: receive(at, at.own),
    "receive, normal": lambda at: receive(at, at.normal),
    "receive_many, blocking": lambda at: receive_many(at, [at.own, at.normal], True),
    "receive_many": lambda at: receive_many(at, [at.own, at.normal], False),
    "group_add, own": lambda at: at.layer.group_add(at.group, at.own),
    "group_add, normal": lambda at: at.layer.group_add(at.group, at.normal),
    "group_add, foreign": lambda at: at.layer.group_add(at.group, at.foreign),
    "group_discard, own": lambda at: at.layer.group_discard(at.group, at.own),
    "group_discard, normal": lambda at: at.layer.group_discard(at.group, at.normal),
    "group_discard, foreign": lambda at: at.layer.group_discard(at.group, at.foreign),
    "group_send": lambda at: at.layer.group_send(at.group, at.message()),
    "group_members": lambda at: at.layer.group_members(at.group, 0.2),
    "flush": lambda at: at.layer.flush(),
    "new_channel": lambda at: at.layer.new_channel(),
    "current_connection": lambda at: wait(at.layer.current_connection),
    "carehare_connection": lambda at: wait(at.layer.carehare_connection),
}


@asynccontextmanager
async def owning_loop(loop: str, layer: RabbitmqChannelLayer) -> AsyncIterator[None]:
    """Have a layer owned by one of :data:`LOOPS`, whether it connects or not."""
    if loop == "own loop":
        layer._owner._settle(asyncio.get_running_loop())
        yield
        return
    with loop_in_thread() as other:
        other.set_task_factory(probing)

        async def settle() -> None:
            layer._owner._settle(other)

        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(settle(), other))
        try:
            yield
        finally:
            await layer.close()


async def attempt(place: Place, call: Call, nth: int, moment: str, *, in_work: bool) -> bool:
    """Make one call, and cancel it at its n-th suspension; whether it came to that."""
    loop = asyncio.get_running_loop()
    task: asyncio.Task[object]
    probe = None
    if in_work:
        probe = Probe(nth, moment, lambda: loop.call_soon_threadsafe(task.cancel))

    async def drive() -> object:
        _probe.set(probe)
        return await steps

    steps = Steps(call(place), -1 if in_work else nth, moment, lambda: task.cancel())
    task = asyncio.create_task(drive())
    done, _ = await asyncio.wait({task}, timeout=LONGEST)
    if not done:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        error = task.exception()
        if error is not None and not isinstance(error, (ChannelFull, NotAnswered)):
            raise error
    reached = probe.steps if probe is not None else steps
    return reached is not None and reached.struck


async def every_point(
    place: Place,
    call: Call,
    moments: list[str],
    before: Callable[[], Awaitable[object]],
    after: Callable[[], Awaitable[object]],
) -> None:
    """Cancel a call at every suspension, its own and those of its work on the owning loop."""
    elsewhere = place.owner is not asyncio.get_running_loop()
    for moment in moments:
        for in_work in (False, True) if elsewhere else (False,):
            nth, struck = 0, True
            while struck:
                await before()
                struck = await attempt(place, call, nth, moment, in_work=in_work)
                try:
                    await after()
                except BaseException as err:
                    where = "its work's" if in_work else "its"
                    err.add_note(f"cancelled {moment}, at {where} suspension {nth}")
                    raise
                nth += 1
                assert nth < 100, "it never completes"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", CALLS)
async def test_connected(make_layer: MakeLayer, name: str, loop: str) -> None:
    """While RabbitMQ answers, a cancelled call leaves nothing, and the layer works as before."""
    layer, peer = make_layer(), make_layer()
    async with owning_loop(loop, layer):
        place = Place(layer, peer, await layer.new_channel(), await peer.new_channel())
        channels = [place.own, place.normal, place.foreign]
        first = await layer.current_connection, await peer.current_connection
        await layer.group_members(place.group)  # from here on they know each other

        async def before() -> None:
            if name.startswith(("group_discard", "group_send")):
                for channel in channels:
                    await layer.group_add(place.group, channel)
            if name.startswith("receive"):
                # Sooner or later: some calls find it there, some wait for it.
                channel = place.normal if "normal" in name else place.own
                arriving.append(asyncio.create_task(peer.send(channel, place.message())))

        async def after() -> None:
            while arriving:
                await arriving.pop()
            if name in ("group_add, own", "group_add, normal") and not completed[0]:
                await until(lambda: not place.left_behind().get("members"))
            for channel in channels:
                await layer.group_discard(place.group, channel)
            if name == "flush":
                # A process that was asked goes on with it, and purges what is sent meanwhile.
                await layer.flush()
            await layer.group_send(place.group, {"n": -1})
            await place.read_all()
            assert place.left_the_group(), "a channel is in the group that has left it"
            if name.startswith("receive"):
                assert len(place.received) == place.sent, "a message is lost"
            await place.nothing_left()

        arriving: list[asyncio.Task[None]] = []
        completed = [False]

        async def noted(at: Place) -> None:
            completed[0] = False
            await CALLS[name](at)
            completed[0] = True

        await every_point(place, noted, MOMENTS, before, after)
        assert (await layer.current_connection, await peer.current_connection) == first


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("state", ["away", "silent"])
async def test_not_connected(make_layer: MakeLayer, proxy: Proxy, state: str, loop: str) -> None:
    """While RabbitMQ is away, or silent, a cancelled call leaves nothing for when it is back."""
    layer = make_layer(host=proxy.url, send_timeout=0.1, max_reconnect_delay=0.1)
    peer = make_layer()
    if state == "away":
        await proxy.refuse()
    async with owning_loop(loop, layer):
        place = Place(layer, peer, await layer.new_channel(), await peer.new_channel())
        if state == "silent":
            await layer.current_connection
            proxy.freeze()

        async def before() -> None:
            pass

        async def after() -> None:
            if completed[0]:  # it stays, and is bound later: that is no cancelled call
                await layer.group_discard(place.group, place.own)
            if completed[0] and place.left_behind().get("members"):
                await layer.group_discard(place.group, place.normal)
            await place.nothing_left()

        completed = [False]
        for name, call in CALLS.items():

            async def noted(at: Place, call: Call = call) -> None:
                completed[0] = False
                await call(at)
                completed[0] = True

            try:
                await every_point(place, noted, MOMENTS[:1], before, after)
            except BaseException as err:
                err.add_note(f"in {name}")
                raise
        await proxy.accept() if state == "away" else proxy.thaw()

        async def works() -> bool:
            try:
                await layer.group_send(place.group, {"n": -1})
                await place.read_all()
            except ChannelFull:
                return False
            return True

        await until(works)
        assert place.left_the_group()
        await place.nothing_left()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_close(make_layer: MakeLayer, proxy: Proxy, moment: str, loop: str) -> None:
    """A close() that is cancelled, wherever it waits, goes on, and all calls are refused."""

    async def closes(nth: int, in_work: bool) -> bool:
        layer = make_layer(host=proxy.url)
        async with owning_loop(loop, layer):
            place = Place(layer, layer, await layer.new_channel(), "")
            await layer.current_connection
            # A consumer of a normal channel: close() has something to wait for.
            receiving = asyncio.create_task(layer.receive(place.normal))
            await layer.send(place.normal, {"n": 0})
            await receiving
            owner = place.owner
            waiting = asyncio.create_task(layer.receive(place.own))
            await asyncio.sleep(0)
            struck = await attempt(place, lambda at: at.layer.close(), nth, moment, in_work=in_work)
            with pytest.raises(StopConsumer):
                await layer.send(place.own, {})
            with pytest.raises(StopConsumer):
                await asyncio.wait_for(waiting, 10)
            await until(lambda: proxy.connections == 0 and not package_tasks(owner))
            await asyncio.wait_for(layer.close(), 10)
        return struck

    for in_work in (False, True) if loop == "other loop" else (False,):
        nth = 0
        while await closes(nth, in_work):
            nth += 1


async def test_close_of_our_own_thread(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A close() that is cancelled ends the thread that has the connection, too."""
    layer = make_layer(host=proxy.url)
    threads = set(threading.enumerate())
    await asyncio.to_thread(async_to_sync(layer.new_channel))
    await asyncio.to_thread(async_to_sync(layer.group_add), "room", await layer.new_channel())
    (thread,) = (each for each in set(threading.enumerate()) - threads if "channels" in each.name)
    closing = asyncio.create_task(layer.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await until(lambda: proxy.connections == 0 and not thread.is_alive())
