"""Joins the mailboxes to the link, on one event loop: the layer's methods as seen from there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from carehare import ChannelClosed, ChannelClosedByServer, ConnectionClosed, ServerSentNack
from channels.exceptions import ChannelFull, StopConsumer

from .amqp.channel import Channel
from .amqp.connection import Connection
from .errors import NotConnected
from .link import Link
from .mailboxes import STUCK_AFTER, Delivery, Mailboxes
from .messages import GROUP_KEY, BadMessage, Message, decode
from .options import Options
from .ratelimit import RateLimitedWarning
from .session import Session

logger = logging.getLogger(__name__)

#: A message past ``local_expiry`` is dropped within this many seconds.
_EXPIRY_PRECISION = 0.1

_T = TypeVar("_T")


class Hub:
    """The process's side of the channel layer. All of it runs on one event loop.

    ``mailboxes`` outlive it: the next hub, on another loop, goes on with the same ones.
    """

    def __init__(
        self,
        options: Options,
        queue_name: str,
        mailboxes: Mailboxes,
        on_end: Callable[[Hub], None],
    ) -> None:
        self._options = options
        self._queue_name = queue_name
        self._mailboxes = mailboxes
        self.loop = asyncio.get_running_loop()
        self._closed = False
        #: Called when the loop cancels all that it has: another hub goes on with the mailboxes.
        self._on_end = on_end
        #: Memberships that no ``group_add()`` has returned for yet, with the calls that wait.
        self._joining: dict[tuple[str, str], set[object]] = {}
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._relief_timer: asyncio.TimerHandle | None = None
        self._warn_expired = RateLimitedWarning(logger)
        self._warn_dropped = RateLimitedWarning(logger)
        self._warn_back_pressure = RateLimitedWarning(logger)
        self._warn_bad_message = RateLimitedWarning(logger)
        self._warn_group_dropped = RateLimitedWarning(logger)
        self._warn_binding = RateLimitedWarning(logger)
        self.link = Link(
            options,
            queue_name,
            on_delivery=self._deliver,
            groups=lambda: mailboxes.groups,
            on_end=self._end,
        )
        if len(mailboxes):
            self._watch_expiry()

    def __repr__(self) -> str:
        return f"<Hub: {self.link!r}, {self._mailboxes!r}>"

    # Sending

    async def send(self, queue_name: str, body: bytes) -> None:
        """Publish to one process's queue.

        Raises :class:`channels.exceptions.ChannelFull` when it is full, and
        :class:`~channels_rabbitmq.errors.NotConnected` when RabbitMQ does not answer in time.
        """
        try:
            await self._publish("", queue_name, body)
        except ServerSentNack:
            raise ChannelFull("the receiving process stores no more messages") from None

    async def send_group(self, group: str, body: bytes) -> None:
        """Publish to every process that has a member; drop, with a warning, where it cannot."""
        try:
            await self._publish(self._options.groups_exchange, group, body)
        except ServerSentNack:
            self._warn_group_dropped(
                "Message to group %s dropped for at least one process that stores no more", group
            )
        except NotConnected as err:
            self._warn_group_dropped("Message to group %s dropped: %s", group, err)

    async def _publish(self, exchange: str, routing_key: str, body: bytes) -> None:
        session = self.link.session
        try:
            if session is not None and session.usable:
                await session.publish(exchange, routing_key, body)
            else:
                await self._in_time(self._publish_later(exchange, routing_key, body))
        except asyncio.TimeoutError:
            raise NotConnected("RabbitMQ is away") from None
        except (ConnectionClosed, ChannelClosed, ChannelClosedByServer):
            raise NotConnected("the connection to RabbitMQ ended meanwhile") from None

    async def _publish_later(self, exchange: str, routing_key: str, body: bytes) -> None:
        while True:
            session = await self.link.wait_session()
            if session.blocked is not None:
                raise NotConnected(f"RabbitMQ takes no messages: {session.blocked}")
            if session.usable:
                await session.publish(exchange, routing_key, body)
                return
            await session.wait_writable()

    # Receiving

    async def receive(self, channel: str) -> Message:
        """Wait for the oldest message of a local channel, through outages; cancellation is safe."""
        mailboxes = self._mailboxes
        box = mailboxes.box(channel)
        while not box.queue:
            if self._closed:
                raise StopConsumer("the channel layer is closed")
            waiter: asyncio.Future[None] = self.loop.create_future()
            box.waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                box.give_up(waiter)
                raise
            box = mailboxes.box(channel)
        return mailboxes.take(box)

    def take_back(self, channel: str, message: Message) -> None:
        """A message that was read for a caller who was cancelled before it got it."""
        self._mailboxes.put_back(channel, message, self.loop.time())
        if self._expiry_timer is None:
            self._watch_expiry()

    def _deliver(self, source: Channel, tag: int, redelivered: bool, body: bytes) -> None:
        if self._closed:
            return
        if redelivered:
            source.ack(tag)  # at most once
            return
        try:
            kind, name, message = decode(body)
        except BadMessage as err:
            self._warn_bad_message("Dropped %d bytes that are no message: %s", len(body), err)
            source.ack(tag)
            return
        mailboxes = self._mailboxes
        delivery = Delivery(source, tag, self.loop.time(), body, message)
        mailboxes.put(delivery, mailboxes.members(name) if kind == GROUP_KEY else (name,))
        if self._expiry_timer is None:
            self._watch_expiry()
        if self._relief_timer is None and mailboxes.full:
            self._relieve()

    # What time brings

    def _watch_expiry(self) -> None:
        self._expiry_timer = None
        now = self.loop.time()
        expired = self._mailboxes.expire(now)
        if expired:
            self._warn_expired(
                "%d messages expired after local_expiry (%g s) unread, in %s. A consumer is too "
                "slow, or a group_discard() is missing",
                sum(expired.values()),
                self._options.local_expiry,
                _list_channels(expired.most_common(3)),
            )
        oldest = self._mailboxes.oldest
        if oldest is not None:
            due = max(oldest + self._options.local_expiry, now + _EXPIRY_PRECISION)
            self._expiry_timer = self.loop.call_at(due, self._watch_expiry)

    def _relieve(self) -> None:
        """While the window is full, see to it that no stuck channel keeps it so."""
        still_full = self._relief_timer is not None
        self._relief_timer = None
        mailboxes = self._mailboxes
        dropped = mailboxes.relieve(self.loop.time())
        if dropped:
            self._warn_dropped(
                "local_capacity (%d messages) is used up by channels that are not read; dropped "
                "the %d oldest messages of %s",
                self._options.local_capacity,
                sum(dropped.values()),
                _list_channels(dropped.most_common(3)),
            )
        if mailboxes.full:
            if still_full:  # not just for the moment
                self._warn_back_pressure(
                    "Back-pressuring: local_capacity (%d messages) is used up. Fullest: %s",
                    self._options.local_capacity,
                    _list_channels(mailboxes.fullest()),
                )
            self._relief_timer = self.loop.call_later(STUCK_AFTER / 2, self._relieve)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Join; return once RabbitMQ has the binding, or after ``send_timeout`` without it.

        The membership then stays, and is bound on reconnection. Cancelled, it is undone.
        """
        joined = self._mailboxes.join(group, channel)
        session = self.link.session
        if session is not None and session.is_bound(group):
            return
        member = (group, channel)
        waits = self._joining.setdefault(member, set()) if joined else self._joining.get(member)
        this = object()
        if waits is not None:
            waits.add(this)
        try:
            await self._in_time(self._bind(group))
        except asyncio.TimeoutError:
            self._warn_binding("Group %s is not bound yet: RabbitMQ is away", group)
        except asyncio.CancelledError:
            if waits is not None and this in waits:
                waits.remove(this)
                if not waits:
                    self.group_discard(group, channel)
            raise
        # From here on the membership stands, whatever becomes of others who asked for it.
        if waits is not None:
            waits.clear()
            if self._joining.get(member) is waits:
                del self._joining[member]

    async def _bind(self, group: str) -> None:
        while group in self._mailboxes.groups:
            session = await self.link.wait_session()
            try:
                await asyncio.shield(session.bind(group))
                return
            except (ConnectionClosed, ChannelClosed, ChannelClosedByServer):
                # The next session binds it; the link has yet to notice that this one ended.
                await asyncio.shield(session.ended)

    def group_discard(self, group: str, channel: str) -> None:
        """Leave, at once; the last local member takes the binding along."""
        waits = self._joining.pop((group, channel), None)
        if waits is not None:
            waits.clear()
        if self._mailboxes.leave(group, channel):
            session = self.link.session
            if session is not None:
                session.unbind(group)

    # The connection, and the end

    async def connection(self) -> Connection:
        """Wait for the open connection."""
        session: Session = await self.link.wait_session()
        return session.connection

    async def close(self) -> None:
        """Close the connection; ``receive()`` raises StopConsumer from now on."""
        self._closed = True
        self._mailboxes.fail_waiters(StopConsumer("the channel layer is closed"))
        self._cancel_timers()
        await self.link.close()

    def _end(self) -> None:
        self.retire()
        self._on_end(self)

    def retire(self) -> None:
        """Touch the mailboxes no more: this loop has ended, and they move to another."""
        self._closed = True
        self._cancel_timers()

    def _cancel_timers(self) -> None:
        for timer in (self._expiry_timer, self._relief_timer):
            if timer is not None:
                timer.cancel()

    async def _in_time(self, work: Awaitable[_T]) -> _T:
        return await asyncio.wait_for(work, self._options.send_timeout)


def _list_channels(sizes: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sizes)
