"""Joining and leaving groups on one event loop, with the bindings that this takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from functools import partial

from ..amqp.futures import Deadlines
from ..amqp.log import NamedLogger
from ..config.options import Options
from ..errors import AmqpError, LoopEnded
from ..local.background import Background
from ..local.state import LocalState
from ..log import RateLimitedWarning
from ..wire.names import group_key
from .recovery import Recovery
from .topology import Topology

logger = logging.getLogger(__name__)

#: So many joins of groups that are bound are done before the event loop has a turn.
_AT_ONCE = 200
#: Memberships past ``group_expiry`` are ended at most once in so many seconds.
_EXPIRY_PRECISION = 0.25


class Groups:
    """Joins and leaves groups. The queue is bound for a group while it has a member here.

    Who is a member is decided in ``state``, which outlives this; here is what RabbitMQ is told of
    it. A routing key that is bound without a member does no harm and is unbound by the next
    topology at the latest; a member without a binding would miss messages. So the member comes
    first, and whoever takes the last one out unbinds.
    """

    def __init__(
        self,
        options: Options,
        state: LocalState,
        recovery: Recovery,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._options = options
        #: The routing key of a group.
        self._key = partial(group_key, options.prefix)
        self._mailboxes = state.mailboxes
        self._memberships = state.memberships
        self._recovery = recovery
        self._loop = loop
        #: Another loop has taken over: what is waited for here is to be asked for there.
        self._retired = False
        #: For those who wait for a binding.
        self._deadlines = Deadlines(loop, options.send_timeout)
        self._timers = Background(loop, options.connection_name)
        #: Whether memberships end by themselves, and a timer runs for the one that ends next.
        self._expires = options.group_expiry > 0
        self._watches_expiry = False
        #: Joins without a turn of the event loop, at least so many of late.
        self._at_once = 0
        self._warn_binding = RateLimitedWarning(NamedLogger(logger, options.connection_name))
        self._watch_expiry()

    def routing_keys(self) -> Iterator[str]:
        """The routing keys to bind."""
        for group in self._memberships.groups:
            yield self._key(group)

    def join(self, group: str, channel: str) -> Awaitable[None] | None:
        """Join: None if that is done, as the group is bound; else await what it gives, at once.

        It is as :meth:`add` otherwise.
        """
        if self._at_once >= _AT_ONCE:
            # Else a plain loop of joins would keep the event loop from all else, such as hearing
            # that the connection is lost.
            self._at_once = 0
            return self._join_in_next_turn(group, channel)
        topology = self._recovery.topology
        joined = None if topology is None else topology.bindings.join(self._key(group))
        if joined is None or not joined.done() or joined.exception() is not None:
            return self._join_unbound(group, channel, joined)
        self._memberships.establish(group, channel, self._loop.time())
        if self._expires:
            self._watch_expiry()
        self._at_once += 1
        return None

    async def _join_in_next_turn(self, group: str, channel: str) -> None:
        await asyncio.sleep(0)
        joining = self.join(group, channel)
        if joining is not None:
            await joining

    async def add(self, group: str, channel: str, claim: object = None) -> None:
        """Join; return once RabbitMQ has the binding, or after ``send_timeout`` without it.

        The membership then stays, and is bound on reconnection. Cancelled, it is undone.

        With a ``claim`` it stays only from :meth:`confirm_add` on; :meth:`undo_add` ends it. That
        is for calls from other loops, whose results may cross with a cancellation.

        Raises :class:`~channels_rabbitmq.errors.LoopEnded` if another loop took over meanwhile,
        and :class:`channels.exceptions.StopConsumer` if the layer was closed.
        """
        if claim is not None:
            await self._join_unbound(group, channel, None, claim)
        elif (joining := self.join(group, channel)) is not None:
            await joining

    async def _join_unbound(
        self,
        group: str,
        channel: str,
        joined: asyncio.Future[None] | None,
        claim: object = None,
    ) -> None:
        now = self._loop.time()
        topology = self._recovery.publishing
        if joined is None and topology is not None:
            joined = topology.bindings.join(self._key(group))
        mine = claim or object()
        self._memberships.claim(group, channel, mine, now)
        if self._expires:
            self._watch_expiry()
        try:
            # Thousands may wait for theirs at once: so no task and no timer for each.
            if joined is not None:
                if not joined.done():
                    self._deadlines.watch(joined, now)
                try:
                    await joined
                except AmqpError:
                    topology = None  # it has ended
            # While it is starting other processes cannot ask this one.
            if topology is None or topology is not self._recovery.topology:
                async with asyncio.timeout_at(now + self._options.send_timeout):
                    await self.wait_bound(group)
        except TimeoutError:
            self._warn_not_bound(group)
        except BaseException:
            self.undo_add(group, channel, mine)
            raise
        if self._retired:
            raise LoopEnded(started=False)  # the claim is given up: see retire()
        if claim is None:
            self._memberships.keep(group, channel, self._loop.time())

    def confirm_add(self, group: str, channel: str) -> None:
        """Establish a membership, as the call that claimed it has returned.

        It may have been given up as another loop took over, after the call was done there.
        """
        self._memberships.establish(group, channel, self._loop.time())
        self._watch_expiry()
        topology = self._recovery.publishing
        if topology is not None:
            topology.bindings.bind(self._key(group))

    def undo_add(self, group: str, channel: str, claim: object) -> None:
        """End a claim, as the call that made it was cancelled."""
        if self._memberships.withdraw(group, channel, claim):
            self._unbind_if_empty(group)

    def discard(self, group: str, channel: str) -> None:
        """Leave, at once; the last local member takes the binding along."""
        if self._memberships.leave(group, channel):
            self._unbind_if_empty(group)

    def note_vain(self, group: str) -> None:
        """Drop the binding of a group without a member, as a message came by it for nobody."""
        topology = self._recovery.publishing
        if topology is not None:
            topology.bindings.leave_now(self._key(group))

    def clear(self) -> None:
        """Empty all mailboxes and groups of the process's own channels."""
        self._mailboxes.clear()
        for group in dict(self._memberships.clear()):
            self._unbind_if_empty(group)

    def retire(self) -> None:
        """Give up what is only claimed, as another loop takes over. On any thread.

        No call has returned for it yet, and whoever still waits asks the next one. So the next
        one begins with what is established.
        """
        self._retired = True
        self._memberships.give_up()

    def stop(self, error: Exception) -> None:
        """Fail those who wait for a binding with the error; no timer is left."""
        self._deadlines.end(error)
        self._timers.cancel()

    # Bindings

    def bound_members(self, group: str) -> list[str]:
        """The members here that messages of the group reach."""
        topology = self._recovery.topology
        if topology is None or not topology.bindings.is_bound(self._key(group)):
            return []
        return list(self._memberships.members(group))

    async def wait_bound(self, group: str) -> None:
        """Wait until RabbitMQ has the binding of a group, as long as that has a member here."""
        key = self._key(group)

        async def bind(topology: Topology) -> None:
            if group in self._memberships.groups:  # not left meanwhile
                await topology.bindings.join(key)

        await self._recovery.run(bind)

    def _warn_not_bound(self, group: str) -> None:
        topology = self._recovery.publishing
        if topology is None:
            self._warn_binding("Group %s is not bound yet: RabbitMQ is away", group)
        else:
            self._warn_binding(
                "Group %s is not bound yet: RabbitMQ is slow, %s of %s groups not bound yet",
                group,
                f"{topology.bindings.unconfirmed:,}",
                f"{len(self._memberships.groups):,}",
            )

    def _unbind_if_empty(self, group: str) -> None:
        topology = self._recovery.publishing
        if topology is not None and group not in self._memberships.groups:
            topology.bindings.leave(self._key(group))

    # group_expiry

    def _watch_expiry(self) -> None:
        if self._watches_expiry:
            return
        due = self._memberships.next_due
        if due is not None:
            self._watches_expiry = True
            self._timers.call_at(
                max(due, self._loop.time() + _EXPIRY_PRECISION), self._end_memberships
            )

    def _end_memberships(self) -> None:
        self._watches_expiry = False
        for group, channel in self._memberships.due(self._loop.time()):
            self.discard(group, channel)
        self._watch_expiry()
