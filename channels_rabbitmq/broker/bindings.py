"""Binding and unbinding the process's queue, spread over as many AMQP channels as it is worth."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial

from ..amqp.channel import Channel
from ..amqp.frames import Method
from ..amqp.futures import retrieve
from ..amqp.protocol import Protocol
from ..errors import AmqpError, ChannelClosed, ConnectionClosed, describe
from ..local.background import Background
from ..local.bindings import BOUND, Binding, BindingTable
from ..local.contention import LEAST_PATIENCE, Contention
from ..local.pace import MOST_CHANNELS, Pace, batch_size

#: Seconds that a binding stays after the last member left: a page that is reloaded leaves and
#: joins within less.
LINGER = 5.0
#: The most bindings that stay so; beyond, the oldest go at once.
MOST_LINGERING = 10_000
#: One more AMQP channel is worth its while for so many bindings that wait.
_WORTH_A_CHANNEL = 8
#: Batches under way on each AMQP channel: one that the server works at, and the next one.
_BATCHES = 2
#: Seconds without anything to bind until the AMQP channels of a burst are closed.
_BURST_OVER = 0.5
#: A timer that fires so many seconds late says that this process was busy, not the server.
_LATE = 0.02
#: Unbinding is no haste: it has this part of the channels, and small batches.
_UNBINDING_PART = 4
_UNBINDING_BATCH = 4
#: Routing keys that are put in line in one turn of the loop.
_AT_ONCE = 5000


class _Lane:
    """An AMQP channel for bindings, and how many batches are under way on it."""

    __slots__ = ("channel", "under_way")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.under_way = 0


class Bindings:
    """The bindings of the process's queue on one connection.

    What is to be bound or unbound waits in the line of a :class:`.BindingTable`; batches of it go
    out on AMQP channels, in the order of the line: on one, ``home``, as a rule, and on as many as
    :class:`.Pace` says in a burst, which are opened for it and closed after it.

    An error on any of these AMQP channels ends the topology, whose next one binds all that is
    wanted; so all who wait here fail, and ask there.
    """

    def __init__(
        self,
        protocol: Protocol,
        exchange: str,
        home: Channel,
        open_channel: Callable[[], Channel],
        pace: Pace,
        on_silent: Callable[[], None],
        silence: float,
    ) -> None:
        self._protocol = protocol
        self._loop = protocol.loop
        self._exchange = exchange
        self._open_channel = open_channel
        self._pace = pace
        #: Called if nothing that is under way is answered for so many seconds.
        self._on_silent = on_silent
        self._silence = silence
        self._table = BindingTable(LINGER, MOST_LINGERING)
        #: What :meth:`join` gives for a binding that is there; whoever cancels it changes nothing.
        self._joined: asyncio.Future[None] = self._loop.create_future()
        self._joined.set_result(None)
        #: The queue that is bound; None until :meth:`open`.
        self._queue_name: str | None = None
        #: The first is for good.
        self._lanes = [_Lane(home)]
        self._timers = Background(self._loop)
        #: Why there is no more binding; None while there is.
        self._error: Exception | None = None
        self._pump_scheduled = False
        #: Whether a timer runs for bindings that have lingered for long.
        self._watches_lingering = False
        #: Whether a timer runs to close the channels of a burst, and when it was last one.
        self._watches_burst = False
        self._busy_at = 0.0
        #: The batches under way, oldest first, with when the answer to each is overdue. (In a dict,
        #: what was deleted at the front is walked over each time that the first is looked for.)
        self._under_way: OrderedDict[asyncio.Future[Method], float] = OrderedDict()
        #: How many bindings they have.
        self._bindings_under_way = 0
        self._contention = Contention()
        #: Seconds to rest once nothing is under way; None while there is no need to.
        self._rest: float | None = None
        #: Whether a timer runs to look for overdue answers.
        self._watches_answers = False
        #: Answers so far, for the watch over silence.
        self._answers = 0
        self._watches_silence = False
        #: Those who wait until all is bound.
        self._settling: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<Bindings over {len(self._lanes)} channels: {self._table!r}>"

    def __len__(self) -> int:
        return len(self._table)

    @property
    def confirmed(self) -> int:
        """How many bindings RabbitMQ has confirmed, with those that linger."""
        return len(self._table) - self._table.unconfirmed

    @property
    def unconfirmed(self) -> int:
        """How many bindings are wanted and not confirmed yet."""
        return self._table.unconfirmed

    @property
    def lingering(self) -> int:
        """How many bindings stay for a while that no local channel needs."""
        return self._table.lingering

    @property
    def idle(self) -> bool:
        """Whether all that is wanted is bound, nothing lingers, and nothing is under way."""
        table = self._table
        return not (self._under_way or table.waiting or table.lingering)

    @property
    def rests(self) -> bool:
        """Whether nothing is asked for just now, so that the server gets done with other work."""
        return self._rest is not None

    @property
    def channels(self) -> int:
        """How many AMQP channels are open for bindings."""
        return len(self._lanes)

    # What is wanted

    def is_bound(self, key: str) -> bool:
        """Whether RabbitMQ confirmed the binding for a routing key."""
        return self._table.is_bound(key)

    def is_wanted(self, key: str) -> bool:
        """Whether a routing key is to be bound, or is."""
        return self._table.is_wanted(key)

    def bind(self, key: str) -> None:
        """Want a binding, without waiting for it."""
        self._table.join(key)
        self._schedule_pump()

    def join(self, key: str) -> asyncio.Future[None]:
        """Want a binding; the future is done once it is there, or not wanted any more.

        Each caller that has to wait has a future of its own, which may be cancelled. It fails when
        the topology ends.
        """
        if self._error is None:
            binding = self._table.join(key)
            if binding.state is BOUND:
                return self._joined
        waiter: asyncio.Future[None] = self._loop.create_future()
        if self._error is not None:
            waiter.set_exception(self._error)
            return waiter
        binding.add_waiter(waiter)
        if not self._pump_scheduled:
            self._schedule_pump()
        return waiter

    def leave(self, key: str) -> None:
        """Want a binding no more; it lingers for some seconds."""
        self._table.leave(key, self._loop.time())
        if self._table.leaving:
            self._schedule_pump()
        self._watch_lingering()

    def leave_now(self, key: str) -> None:
        """Remove a binding that lingers, as a message came in vain."""
        self._table.leave_now(key)
        self._schedule_pump()

    async def bind_all(self, keys: Iterable[str]) -> None:
        """Want bindings; a part of very many in each turn of the loop."""
        for number, key in enumerate(list(keys), 1):
            self.bind(key)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def want_only(self, keys: Iterable[str]) -> None:
        """Want these and no others."""
        wanted = dict.fromkeys(keys)
        for key in self._table.keys - wanted.keys():
            self.leave(key)
        for key in wanted:
            self.bind(key)

    # Beginning and end

    def open(self, queue_name: str) -> None:
        """Begin to bind the queue: it is declared."""
        self._queue_name = queue_name
        self._schedule_pump()

    async def wait_settled(self, timeout: float) -> None:
        """Wait until all that is wanted is bound, at most so many seconds; raise what ended it."""
        if self._error is not None:
            raise self._error
        if self._table.unconfirmed:
            settled: asyncio.Future[None] = self._loop.create_future()
            self._settling.append(settled)
            settled.add_done_callback(retrieve)
            await asyncio.wait({settled}, timeout=timeout)
            if settled.done():
                settled.result()

    def end(self, reason: Exception | None) -> None:
        """Ask for nothing more, as the topology ended; fail those who wait."""
        if self._error is not None:
            return
        if not isinstance(reason, AmqpError):
            why = "the connection is closed" if reason is None else describe(reason)
            reason = ConnectionClosed(why)
        self._error = reason
        self._timers.cancel()
        self._pace.pause()
        self._table.fail(self._error)
        self._tell_settled(self._error)

    # Sending batches

    def _schedule_pump(self) -> None:
        if not self._pump_scheduled and self._error is None and self._queue_name is not None:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    @property
    def _most_channels(self) -> int:
        """How many channels there may be; others of the connection need some as well."""
        return max(1, self._protocol.share_of_channels(MOST_CHANNELS))

    def _pump(self) -> None:
        """Send what waits, as far as the channels are free for it."""
        self._pump_scheduled = False
        if self._error is not None or self._queue_name is None or self._rest is not None:
            return
        table, limited = self._table, self._contention.window is not None
        if table.waiting:
            self._send_binds(self._queue_name)
        if limited or not table.waiting:
            self._pace.pause()
        if table.leaving and (not table.waiting or (table.crowded and not limited)):
            self._send_unbinds(self._queue_name)
        self._watch_burst()

    def _send_binds(self, queue_name: str) -> None:
        table, window = self._table, self._contention.window
        room = table.waiting
        if window is not None:
            room = min(room, window - self._bindings_under_way)
        if room <= 0:
            return
        allowed = min(self._pace.channels, self._most_channels)
        lanes = self._use_lanes(min(allowed, -(-room // _WORTH_A_CHANNEL)))
        most = batch_size(len(lanes))
        for depth in range(_BATCHES):
            for lane in lanes:
                if lane.under_way == depth:
                    # No more than its share, so that what is left is spread, too.
                    share = -(-room // (len(lanes) * (_BATCHES - depth)))
                    batch = table.take_to_bind(min(most, share))
                    if not batch:
                        return
                    room -= len(batch)
                    answer = lane.channel.bind(
                        queue_name, self._exchange, [binding.key for binding in batch]
                    )
                    self._sent(lane, answer, len(batch), partial(self._bound, batch))

    def _send_unbinds(self, queue_name: str) -> None:
        table = self._table
        allowed = min(self._pace.channels, self._most_channels)
        # Where too many linger they go as fast as others come; else there is no haste.
        most, room = batch_size(allowed), _BATCHES + 1
        if not table.crowded:
            allowed, most, room = max(1, allowed // _UNBINDING_PART), _UNBINDING_BATCH, 1
        for lane in self._use_lanes(min(allowed, -(-table.leaving // _WORTH_A_CHANNEL))):
            if lane.under_way < room:
                batch = table.take_to_unbind(most)
                if not batch:
                    return
                answer = lane.channel.unbind(
                    queue_name, self._exchange, [binding.key for binding in batch]
                )
                self._sent(lane, answer, len(batch), partial(self._unbound, batch))

    def _use_lanes(self, wanted: int) -> list[_Lane]:
        """Open channels up to a number, if there are fewer; close those beyond what is allowed."""
        while len(self._lanes) < wanted:
            try:
                self._lanes.append(_Lane(self._open_channel()))
            except (ChannelClosed, ConnectionClosed):
                break  # users have the others
        self._close_lanes(max(self._pace.channels, wanted))
        return self._lanes[:wanted]

    def _close_lanes(self, keep: int) -> None:
        """Close channels that nothing is under way on, to keep so many."""
        while len(self._lanes) > keep and not self._lanes[-1].under_way:
            self._lanes.pop().channel.close()

    def _sent(
        self, lane: _Lane, answer: asyncio.Future[Method], count: int, done: Callable[[], None]
    ) -> None:
        lane.under_way += 1
        self._bindings_under_way += count
        patience = self._contention.patience(self._bindings_under_way, self._pace.rate)
        self._under_way[answer] = self._loop.time() + patience
        self._watch_answers()
        self._watch_silence()

        def answered(answer: asyncio.Future[Method]) -> None:
            lane.under_way -= 1
            self._bindings_under_way -= count
            del self._under_way[answer]
            if answer.exception() is not None:
                return  # the error ends the topology
            self._answers += 1
            done()
            if self._rest is None:
                self._contention.in_time(count)
                self._schedule_pump()
            elif not self._under_way:
                self._timers.call_later(self._rest, self._rested)

        answer.add_done_callback(answered)

    def _rested(self) -> None:
        self._rest = None
        self._schedule_pump()

    def _bound(self, batch: list[Binding]) -> None:
        now = self._loop.time()
        self._table.bound(batch, now)
        if self._table.waiting and self._contention.window is None:
            self._pace.answered(len(batch), now, self._most_channels)
        if not self._table.unconfirmed:
            self._tell_settled(None)
        self._watch_lingering()

    def _unbound(self, batch: list[Binding]) -> None:
        self._table.unbound(batch)

    def _tell_settled(self, error: Exception | None) -> None:
        settling, self._settling = self._settling, []
        for waiter in settling:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    # Timers

    def _watch_lingering(self) -> None:
        if self._watches_lingering:
            return
        due = self._table.next_due
        if due is not None:
            self._watches_lingering = True
            self._timers.call_at(due, self._lingered)

    def _lingered(self) -> None:
        self._watches_lingering = False
        self._table.expire(self._loop.time())
        self._schedule_pump()
        self._watch_lingering()

    def _watch_burst(self) -> None:
        """Close the channels of a burst once there was nothing to do for a while."""
        self._busy_at = self._loop.time()
        if not self._watches_burst and len(self._lanes) > 1:
            self._watches_burst = True
            self._timers.call_later(_BURST_OVER, self._look_for_burst)

    def _look_for_burst(self) -> None:
        left = self._busy_at + _BURST_OVER - self._loop.time()
        self._watches_burst = bool(self._under_way) or left > 0
        if self._watches_burst:
            self._timers.call_later(left if left > 0 else _BURST_OVER, self._look_for_burst)
        else:
            self._close_lanes(1)

    def _watch_answers(self, at_least: float = 0.0) -> None:
        """Look for an overdue answer when the oldest may be one."""
        if self._watches_answers or not self._under_way:
            return
        self._watches_answers = True
        when = max(at_least, next(iter(self._under_way.values())))
        self._timers.call_at(when, partial(self._look_for_overdue, when))

    def _look_for_overdue(self, when: float) -> None:
        """Rest if an answer is overdue while more waits for the server."""
        self._watches_answers = False
        if not self._under_way or self._rest is not None:
            return
        now = self._loop.time()
        oldest, due = next(iter(self._under_way.items()))
        overdue = due <= now and not oldest.done()
        # If this process was busy, an answer may have come that it has not read.
        idle = now - when < _LATE
        if overdue and idle and self._table.waiting and self._protocol.blocked is None:
            self._rest = self._contention.overdue(now)
            if self._rest is None:
                self._pace.forget()
                self._schedule_pump()
        if self._rest is None:
            self._watch_answers(now + LEAST_PATIENCE)

    def _watch_silence(self) -> None:
        """Tell if nothing is answered for long. RabbitMQ answers none while it has an alarm."""
        if self._watches_silence:
            return
        self._watches_silence = True
        answers = self._answers

        def look() -> None:
            self._watches_silence = False
            if not self._under_way:
                return
            if self._answers == answers and self._protocol.blocked is None:
                self._on_silent()
            else:
                self._watch_silence()

        self._timers.call_later(self._silence, look)
