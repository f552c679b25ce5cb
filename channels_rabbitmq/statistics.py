"""What :meth:`.RabbitmqChannelLayer.statistics` gives: the layer's numbers at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Statistics"]


@dataclass(frozen=True)
class Statistics:
    """The numbers of one process's layer, as it knows them itself: RabbitMQ is not asked.

    Counters begin at 0 when the layer is made, and anew in a forked child; they live across
    reconnections and moves between event loops, and never go down. Gauges say what is so now.
    Taken on the loop that owns the connection, these hold exactly; on another thread a message that
    is on its way at that moment may be in one field and not yet in another::

        published == confirmed + refused + unconfirmed + under_way
        copies == delivered + expired + sum(dropped.values()) + given_back + unread
    """

    #: Whether the layer is connected, so that publishes go out.
    connected: bool
    #: Whether its queue is declared and consumed as well, so that it receives. After a reconnection
    #: that may come seconds later.
    receiving: bool
    #: When it connected, in seconds of UNIX time; None while it is not connected.
    connected_since: float | None
    #: Since when it has tried to connect, in seconds of UNIX time; None while it is connected, or
    #: does not try: before it is first used, and once it is closed.
    disconnected_since: float | None
    #: Counter of connections after the first. It grows before ``current_connection`` resolves.
    reconnections: int
    #: Counter of failed attempts to connect. One attempt tries every address once.
    failed_connections: int
    #: Whether ``close()`` was called.
    closed: bool
    #: Whether RabbitMQ takes no publishes, because of an alarm.
    blocked: bool
    #: RabbitMQ's reason for that, printable; None while it is not so.
    blocked_reason: str | None
    #: The connection's name: in log lines, and on RabbitMQ's management page.
    connection_name: str
    #: The process's queue: what its new channels have before the exclamation mark.
    queue_name: str
    #: ``host:port/vhost`` of the connection; None while there is none.
    address: str | None

    #: Counter of messages of ``send()`` and ``group_send()`` that were written to a connection.
    #: One to a group counts once, whatever number of processes it is for.
    published: int
    #: Counter of those that RabbitMQ confirmed: every queue that they are for has them.
    confirmed: int
    #: Counter of those that RabbitMQ refused: at least one queue was full, or not reached.
    refused: int
    #: Counter of those that were not confirmed within ``send_timeout``, or before the connection
    #: ended. They may have arrived.
    unconfirmed: int
    #: Gauge of those that RabbitMQ may still confirm.
    under_way: int
    #: Counter of messages that were not written at all, because RabbitMQ was away, or took no
    #: publishes, for ``send_timeout``. They are in no other field.
    unsent: int

    #: Counter of messages that RabbitMQ sent to the process: one to a group counts once, whatever
    #: number of local members it has. Without what processes ask each other.
    received: int
    #: Counter of copies: for each message received, one for each local channel that it is for; one,
    #: if there is none. One whose reader was cancelled as it got it counts again.
    copies: int
    #: Counter of copies that ``receive()`` took.
    delivered: int
    #: Counters of copies that nobody got, by cause: ``local_capacity`` (taken from a channel that
    #: lags), ``channel_capacity``, ``bad_message`` (not decodable, or not decryptable),
    #: ``too_large`` (more than ``max_message_size``), ``redelivered`` (received before, perhaps),
    #: ``no_receiver`` (the last member had just left), ``flush``, and ``close``.
    dropped: Mapping[str, int]
    #: Counter of copies that nobody read within ``local_expiry``.
    expired: int
    #: Counter of copies for normal channels that went back to RabbitMQ as the layer was closed.
    given_back: int
    #: Gauge of messages held in memory, and not yet received by all that they are for. With
    #: ``local_capacity`` of them RabbitMQ sends no more.
    waiting: int
    #: Gauge of copies that these are still to be received as.
    unread: int
    #: Gauge: seconds for which the oldest of these has been held; 0 if there is none.
    oldest_waiting: float
    #: The option ``local_capacity``, in messages.
    local_capacity: int

    #: Gauge of the process's own channels that are waited for, hold messages, or are in a group.
    channels: int
    #: Gauge of groups with a member in this process.
    groups: int
    #: Gauge of bindings for groups that RabbitMQ has confirmed on this connection.
    bindings: int
    #: Gauge of bindings that it was asked for and has not confirmed yet.
    bindings_pending: int
    #: Gauge of those of ``bindings`` whose last local member left, and that stay for some seconds.
    bindings_lingering: int
    #: Gauge of calls that wait for RabbitMQ to be back.
    calls_waiting: int

    #: Counter of bytes of AMQP that were read from sockets, without those of TLS.
    bytes_in: int
    #: Counter of bytes of AMQP that were written to sockets, without those of TLS.
    bytes_out: int
