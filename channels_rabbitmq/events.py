"""What the option ``on_event`` is told of: one frozen object for each thing that happened."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Event", "EventKind"]


class EventKind(enum.StrEnum):
    """What happened."""

    #: Publishes go out on a new connection. ``detail`` is its ``host:port/vhost``.
    CONNECTED = "connected"
    #: A connection that was so was lost, and not by ``close()``. ``detail`` says why.
    DISCONNECTED = "disconnected"
    #: No address could be connected to; it is tried again. ``detail`` says why, for each.
    CONNECT_FAILED = "connect_failed"
    #: RabbitMQ takes no publishes from now on. ``detail`` is its reason.
    BLOCKED = "blocked"
    #: RabbitMQ takes publishes again.
    UNBLOCKED = "unblocked"
    #: A message that is sent was not taken by at least one queue: it is full, or not reached.
    #: ``name`` is the channel or group.
    REFUSED = "refused"
    #: A message that is sent was not confirmed in time, and may have arrived. ``name`` is the
    #: channel or group, ``detail`` says why.
    UNCONFIRMED = "unconfirmed"
    #: A message that is sent was not given to RabbitMQ. ``name`` and ``detail`` are as above.
    UNSENT = "unsent"
    #: Received messages were dropped. ``cause`` is one of the keys of
    #: :attr:`.Statistics.dropped`, ``name`` the channel that lost ``count`` of them, if it is one.
    DROPPED = "dropped"
    #: Received messages were not read within ``local_expiry``. ``name`` is the channel that lost
    #: ``count`` of them.
    EXPIRED = "expired"


@dataclass(frozen=True)
class Event:
    """Something that happened to a layer. It never holds a message, a password or a key."""

    kind: EventKind
    #: When, in seconds of UNIX time.
    time: float
    #: Which connection: as in log lines and on RabbitMQ's management page.
    connection_name: str
    #: Why messages were dropped; empty for other kinds.
    cause: str = ""
    #: The channel or group that it is about; empty where there is none.
    name: str = ""
    #: How many messages it is about.
    count: int = 1
    #: More for people to read, on one line; empty where there is none.
    detail: str = ""


#: What ``on_event`` is: a plain function, which must not block.
EventHook = Callable[[Event], object]
