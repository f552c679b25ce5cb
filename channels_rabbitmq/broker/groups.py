"""Which channels of the process are in which groups, on one event loop, and the bindings for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from ..amqp.futures import Deadlines, in_time
from ..config.options import Options
from ..errors import ChannelClosed, ChannelClosedByServer, ConnectionClosed, LoopEnded
from ..local.state import LocalState
from ..log import RateLimitedWarning
from ..wire.names import group_key
from .recovery import Recovery

logger = logging.getLogger(__name__)


class Groups:
    """Joins and leaves groups. The queue is bound for a group while it has a member here.

    Who is a member is kept in ``memory``, which outlives this.
    """

    def __init__(
        self,
        options: Options,
        state: LocalState,
        recovery: Recovery,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._options = options
        self._mailboxes = state.mailboxes
        self._joins = state.joins
        self._recovery = recovery
        self._loop = loop
        #: Groups that no :meth:`add` has returned for yet, with the calls that wait.
        self._joining: dict[tuple[str, str], set[object]] = {}
        #: Another loop has taken over.
        self._retired = False
        #: For those who wait for a binding.
        self._deadlines = Deadlines(loop, options.send_timeout)
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._warn_binding = RateLimitedWarning(logger)
        self._watch_expiry()

    def keys(self) -> Iterator[str]:
        """The routing keys to bind."""
        for group in self._mailboxes.groups:
            yield self._key(group)

    async def add(self, group: str, channel: str, claim: object = None) -> None:
        """Join; return once RabbitMQ has the binding, or after ``send_timeout`` without it.

        The membership then stays, and is bound on reconnection. Cancelled, it is undone.

        With a ``claim`` it stays only from :meth:`confirm_add` on; :meth:`undo_add` ends it.

        Raises :class:`~channels_rabbitmq.errors.LoopEnded` if another loop took over meanwhile,
        and :class:`channels.exceptions.StopConsumer` if the layer was closed.
        """
        joined = self._mailboxes.join(group, channel)
        if self._options.group_expiry:
            self._joins.note(group, channel, self._loop.time())
            self._watch_expiry()
        topology = self._recovery.topology
        member = (group, channel)
        bound = topology is not None and topology.is_bound(self._key(group))
        if bound and claim is None:
            self._stands(member)
            return
        waits = self._joining.setdefault(member, set()) if joined else self._joining.get(member)
        this = claim or object()
        if waits is not None:
            waits.add(this)
        try:
            if not bound:
                await self._bind_in_time(group)
        except asyncio.TimeoutError:
            self._warn_binding("Group %s is not bound yet: RabbitMQ is away", group)
        except asyncio.CancelledError:
            self.undo_add(group, channel, this)
            raise
        if self._retired and waits is not None and this in waits:
            raise LoopEnded(started=False)  # taken back: see retire()
        if claim is None and waits is not None and self._joining.get(member) is waits:
            self._stands(member)

    def confirm_add(self, group: str, channel: str) -> None:
        """Whoever claimed the membership has it, though another loop may have taken it back."""
        self._stands((group, channel))
        if self._mailboxes.join(group, channel):
            self._joins.note(group, channel, self._loop.time())
            self._watch_expiry()
            topology = self._recovery.topology
            if topology is not None:
                topology.bind(self._key(group))

    def undo_add(self, group: str, channel: str, claim: object) -> None:
        """Whoever claimed the membership is gone. It ends, unless it stands or others wait too."""
        waits = self._joining.get((group, channel))
        if waits is not None and claim in waits:
            waits.remove(claim)
            if not waits:
                self.discard(group, channel)

    def discard(self, group: str, channel: str) -> None:
        """Leave, at once; the last local member takes the binding along."""
        self._stands((group, channel))
        self._joins.forget(group, channel)
        if self._mailboxes.leave(group, channel):
            self._unbind(group)

    def forget_all(self) -> None:
        """Empty all mailboxes and groups."""
        for waits in self._joining.values():
            waits.clear()
        self._joining.clear()
        self._joins.clear()
        for group in self._mailboxes.clear():
            self._unbind(group)

    def retire(self) -> None:
        """Another loop takes over. On any thread."""
        self._retired = True
        for group, channel in self._joining:
            # Nobody was told that these stand; whoever still waits asks the next one.
            self._mailboxes.leave(group, channel)
            self._joins.forget(group, channel)
        self._joining.clear()

    def stop(self, error: Exception) -> None:
        """Who waits for a binding fails with the error, and no timer is left."""
        self._deadlines.end(error)
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()

    def _key(self, group: str) -> str:
        return group_key(self._options.prefix, group)

    def _stands(self, member: tuple[str, str]) -> None:
        """It stays as it is from here on, whatever becomes of others who asked for it."""
        waits = self._joining.pop(member, None)
        if waits is not None:
            waits.clear()

    # Bindings

    async def _bind_in_time(self, group: str) -> None:
        due = self._loop.time() + self._options.send_timeout
        topology = self._recovery.topology
        if topology is not None:
            bound = topology.bind(self._key(group)).follow()
            self._deadlines.watch(bound)
            try:
                await bound
                return
            except (ConnectionClosed, ChannelClosed, ChannelClosedByServer):
                pass  # the next session binds it
        await in_time(self._bind(group), max(due - self._loop.time(), 0))

    async def _bind(self, group: str) -> None:
        while group in self._mailboxes.groups:
            topology = await self._recovery.wait_topology()
            try:
                await topology.bind(self._key(group)).follow()
                return
            except (ConnectionClosed, ChannelClosed, ChannelClosedByServer):
                # The next session binds it; the link has yet to notice that this one ended.
                await asyncio.shield(topology.ended)
                await asyncio.sleep(0)

    def _unbind(self, group: str) -> None:
        topology = self._recovery.topology
        if topology is not None:
            topology.unbind(self._key(group))

    # group_expiry

    def _watch_expiry(self) -> None:
        due = self._joins.next_due
        if self._expiry_timer is None and due is not None:
            self._expiry_timer = self._loop.call_at(due, self._end_memberships)

    def _end_memberships(self) -> None:
        self._expiry_timer = None
        for group, channel in self._joins.due(self._loop.time()):
            self.discard(group, channel)
        self._watch_expiry()
