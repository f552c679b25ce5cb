"""One AMQP connection over an asyncio transport: handshake, heartbeats, channels, flow control.

References: AMQP 0-9-1 specification, sections 2.2 and 4.2;
https://www.rabbitmq.com/docs/heartbeats, https://www.rabbitmq.com/docs/connection-blocked.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import platform
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import pamqp.commands
import pamqp.encode

from .channel import NO_LIMIT, Channel, OnClosed, OnDelivery, OnOversized
from .counts import ByteCounts, PublishCounts
from .endpoint import Endpoint
from .errors import (
    BadBytesFromServer,
    ChannelClosed,
    ConnectionClosed,
    ConnectionClosedByHeartbeatMonitor,
    ConnectionClosedByServer,
    describe,
)
from .frames import (
    FRAME_MIN_SIZE,
    HEARTBEAT,
    PROTOCOL_HEADER,
    Decoder,
    Method,
    encode_method,
    encode_start_ok,
)
from .futures import retrieve
from .log import NamedLogger
from .state import CONNECTION_MOVES, ConnectionState, StateMachine
from .text import printable

if TYPE_CHECKING:
    from pamqp.common import FieldTable

logger = logging.getLogger(__name__)

#: The limits that we propose: RabbitMQ's own defaults.
FRAME_MAX = 131072
CHANNEL_MAX = 2047

#: Seconds for the closing handshake, to the end of the socket; fewer during an alarm, when the
#: server does not read what we send.
CLOSE_TIMEOUT = 5.0
CLOSE_TIMEOUT_BLOCKED = 1.0

#: Writes in one turn of the event loop after which those so far go to the socket: the server then
#: begins to work while we go on. 2,000 joins and leaves at once are 10 to 20 % faster.
_MOST_PIECES = 128

#: Lines about alarms that one connection may log within so many seconds; then one says how many
#: there would have been, and what is so by then.
_MOST_ALARMS = 4
_ALARM_INTERVAL = 10.0

#: A consumer's tag has at most 255 bytes; some are left to tell those of one connection apart.
_MOST_TAG = 240

#: Of ``SO_LINGER``: closing the socket sends a TCP reset (``tcp(7)``, ``socket(7)``).
_RESET = struct.pack("ii", 1, 0)

_CAPABILITIES = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}


def _negotiate(theirs: int | None, ours: int) -> int:
    """Take the smaller limit, where the server's 0 means that it has none."""
    return min(theirs or ours, ours)


class Protocol(asyncio.Protocol):
    """The asyncio protocol of one connection, to be opened with :func:`.connect.connect`.

    What is written during one turn of the event loop goes to the socket in one piece, or few. Use
    it on its own loop; :meth:`cut` alone may be called on any thread.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        loop: asyncio.AbstractEventLoop,
        counts: ByteCounts | None = None,
        *,
        name: str = "",
    ) -> None:
        #: The event loop that all of it runs on.
        self.loop = loop
        #: Where it connects to, and as whom.
        self.endpoint = endpoint
        #: What it is called in RabbitMQ's management and in log lines; empty for nothing.
        self.name = name
        self._log = NamedLogger(logger, name)
        self._state = StateMachine("connection", CONNECTION_MOVES, ConnectionState.CONNECTING, name)
        #: Done once the server accepted us; fails if it did not.
        self.opened: asyncio.Future[None] = loop.create_future()
        #: Done once the socket is closed; fails unless we closed it.
        self.closed: asyncio.Future[None] = loop.create_future()
        self.opened.add_done_callback(retrieve)
        self.closed.add_done_callback(retrieve)
        #: The greatest whole frame that either side may send; negotiated.
        self.frame_max = FRAME_MAX
        #: The most channels at a time; negotiated.
        self.channel_max = CHANNEL_MAX
        #: How many channels only their owner may open, when it says that it is not for a user.
        self.reserved = 0
        #: The channels that have a number: open ones, and those whose close is not confirmed.
        self._channels: dict[int, Channel] = {}
        #: Numbers that channels had; used again before a new one is.
        self._free_numbers: list[int] = []
        #: The highest number that a channel has had.
        self._last_number = 0
        self._decoder = Decoder(self, FRAME_MAX)
        #: The method that the handshake brings next; None once it is over.
        self._expected: type[Method] | None = pamqp.commands.Connection.Start
        #: The socket under the transport. Set by :meth:`attach`, before it is connected.
        self._socket: socket.socket | None = None
        #: Writes to the socket. Set by :meth:`connection_made`.
        self._transport: asyncio.Transport | None = None
        #: What goes to the socket at the end of this turn of the loop.
        self._out: list[bytes] = []
        #: Produce what goes there after that. Called at the end of this turn of the loop.
        self._late: list[Callable[[], bytes]] = []
        #: Whether :meth:`_flush` will run at the end of this turn of the loop.
        self._flush_scheduled = False
        #: Done when the socket takes more; None while it does.
        self._resumed: asyncio.Future[None] | None = None
        #: Why the server takes no publishes (an alarm), printable; None while it does.
        self.blocked: str | None = None
        #: Called with that whenever it changes. It must not raise.
        self.on_blocked: Callable[[str | None], None] | None = None
        #: When the latest lines about alarms were logged, oldest first.
        self._alarm_times: deque[float] = deque(maxlen=_MOST_ALARMS)
        #: Beginnings and ends of alarms that were not logged.
        self._alarms_left_out = 0
        #: Logs what is so after them. Set when the first is left out.
        self._alarm_timer: asyncio.TimerHandle | None = None
        #: Why the connection ended; None while it has not, and if we closed it. Set once.
        self.error: Exception | None = None
        #: Runs :meth:`_tick`. Set once heartbeats are agreed on.
        self._heartbeat_timer: asyncio.TimerHandle | None = None
        #: Aborts a closing handshake that takes too long. Set when that begins.
        self._close_timer: asyncio.TimerHandle | None = None
        #: Whether anything went out since the last :meth:`_tick`.
        self._wrote = False
        #: How often :meth:`_tick` ran since anything came in.
        self._silent_ticks = 0
        self._counts = ByteCounts() if counts is None else counts

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.endpoint} {self._state.state.value}, "
            f"{len(self._channels)} channels>"
        )

    # Operations

    @property
    def open(self) -> bool:
        """Whether channels may be opened and used."""
        return self._state.state is ConnectionState.OPEN

    @property
    def started(self) -> bool:
        """Whether connecting was begun; a protocol connects once."""
        return self._socket is not None

    @property
    def connected(self) -> bool:
        """Whether a transport was made, which closes the socket when it ends."""
        return self._transport is not None

    @property
    def writable(self) -> bool:
        """Whether the socket takes more; else await :meth:`wait_writable`."""
        return self._resumed is None

    @property
    def usable(self) -> bool:
        """Whether a publish would go out at once: the socket takes more, and so does RabbitMQ."""
        return self._resumed is None and self.blocked is None

    @property
    def consumer_tag(self) -> str:
        """What the tags of its consumers begin with: the name, as far as a tag holds it."""
        return self.name[-_MOST_TAG:] or "channels_rabbitmq"

    @property
    def received(self) -> int:
        """How many bytes came in so far, on this connection or before."""
        return self._counts.received

    async def wait_writable(self) -> None:
        """Wait until the socket takes more, or the connection ended."""
        while self._resumed is not None:
            await asyncio.shield(self._resumed)

    def open_channel(
        self,
        *,
        confirm: bool = False,
        on_delivery: OnDelivery | None = None,
        on_closed: OnClosed | None = None,
        max_body: int = NO_LIMIT,
        on_oversized: OnOversized | None = None,
        counts: PublishCounts | None = None,
        ack_batch: int = 1,
        for_user: bool = False,
    ) -> Channel:
        """Open a channel; it can be used at once. ``for_user`` leaves the last ones to the owner.

        So many acknowledgements as ``ack_batch`` says wait for each other, for milliseconds at
        most: a server has as much to do for one of them as for all.

        A delivery of more than ``max_body`` bytes is not collected: ``on_oversized`` is told of it
        instead of ``on_delivery``, and acknowledges it. Publishes are added to ``counts``.

        Raises :class:`.ConnectionClosed`, and :class:`.ChannelClosed` when
        ``channel_max`` channels are open, or nearly all for a user.
        """
        if not self.open:
            raise ConnectionClosed("the connection is closed")
        if for_user and len(self._channels) >= self.channel_max - self.reserved:
            raise ChannelClosed(
                f"all {self.channel_max - self.reserved} channels that users may open are in use"
            )
        if self._free_numbers:
            number = self._free_numbers.pop()
        elif self._last_number < self.channel_max:
            number = self._last_number = self._last_number + 1
        else:
            raise ChannelClosed(f"all {self.channel_max} channels are in use")
        channel = Channel(
            self,
            number,
            confirm=confirm,
            on_delivery=on_delivery,
            on_closed=on_closed,
            max_body=max_body,
            on_oversized=on_oversized,
            counts=counts,
            ack_batch=ack_batch,
        )
        self._channels[number] = channel
        return channel

    def share_of_channels(self, wanted: int) -> int:
        """Cap ``wanted`` at a quarter of ``channel_max``, so that small limits are shared."""
        return min(wanted, self.channel_max // 4)

    def forget(self, channel: Channel) -> None:
        """Free the channel's number for another channel."""
        del self._channels[channel.number]
        self._free_numbers.append(channel.number)

    def write(self, data: bytes) -> None:
        """Send bytes at the end of this turn of the loop."""
        self._out.append(data)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush)
        elif len(self._out) == _MOST_PIECES:
            self._flush()
            # The scheduled call will come all the same, and is for what this turn still writes.
            self._flush_scheduled = True

    def write_late(self, produce: Callable[[], bytes]) -> None:
        """Send what ``produce()`` returns at the end of this turn of the loop.

        For what grows during the turn, such as acknowledgements: it becomes one frame for many.
        """
        self._late.append(produce)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush)

    def close(self) -> None:
        """Begin the closing handshake; wait for :attr:`closed`. May be called again.

        ``connection.close`` goes out, the server answers ``connection.close-ok`` and both close the
        socket. Whatever arrives before that answer was sent before the server saw our close, and is
        passed over, so nothing is delivered any more. If the answer does not come in time, the
        socket is aborted, which is no error: :attr:`error` stays None once we have closed.
        """
        if self._state.state is ConnectionState.OPEN:
            self._state.move(ConnectionState.CLOSING)
            # Late writes too: a delivery whose acknowledgement does not go out comes again.
            for channel in self._channels.values():
                channel.flush_acks()
            self._flush()
            self.write(encode_method(0, pamqp.commands.Connection.Close(200, "", 0, 0)))
            self._flush()
            self._limit_closing()
        elif self._state.state is ConnectionState.CONNECTING:
            self.abort(ConnectionClosed("closed before it was open"))

    def abort(self, error: Exception | None = None) -> None:
        """Close the socket at once, without the closing handshake.

        ``error`` is what ended the connection, unless something else did before.
        """
        if self.error is None and self._state.state is not ConnectionState.CLOSING:
            self.error = error
        if self._transport is not None:
            self._transport.abort()
        elif self._state.state is not ConnectionState.CLOSED:
            self.connection_lost(None)  # without a transport, nobody else calls it

    def reset(self, error: Exception) -> None:
        """Abort, and have the server's system discard what the server has not read yet.

        For one that hangs: should it go on after all, what was published before and not confirmed
        would come late, after what was published on the next connection.
        """
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.abort(error)

    def attach(self, sock: socket.socket) -> None:
        """Tell which socket :meth:`cut` and :meth:`disown` are to act on."""
        self._socket = sock

    def cut(self) -> None:
        """Shut the socket down, whatever becomes of the event loop; from any thread.

        A closed loop cannot close its transports, and the server must see the connection end.
        """
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def disown(self) -> None:
        """In a forked child: close its copy of the socket; the parent's goes on undisturbed."""
        if self._socket is not None:
            descriptor = self._socket.detach()
            if descriptor >= 0:
                os.close(descriptor)

    def _limit_closing(self) -> None:
        limit = CLOSE_TIMEOUT if self.blocked is None else CLOSE_TIMEOUT_BLOCKED
        self._close_timer = self.loop.call_later(limit, self.abort)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake: the socket is connected, and TLS agreed on."""
        # uvloop's transports are none of asyncio's classes, so there is nothing to check.
        self._transport = cast("asyncio.Transport", transport)
        if self._state.state is ConnectionState.CLOSED:
            self._transport.abort()  # given up while the socket was being connected
        else:
            self._counts.sent += len(PROTOCOL_HEADER)
            self._transport.write(PROTOCOL_HEADER)

    def data_received(self, data: bytes) -> None:
        """Handle what came; anything that cannot be handled ends the connection."""
        self._silent_ticks = 0
        self._counts.received += len(data)
        try:
            self._decoder.feed(data)
        except BadBytesFromServer as err:
            self.abort(err)
        except Exception as err:
            # Frames after this one cannot be trusted to be handled: better a new connection.
            self._log.exception("Handling a frame failed; giving the connection up")
            self.abort(err)

    def eof_received(self) -> bool:
        """Have the transport close the socket: the server will send no more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail everything that waits: the socket is closed. Runs once."""
        if self._state.state is ConnectionState.CLOSED:
            return
        if self.error is None and self._state.state is not ConnectionState.CLOSING:
            self.error = exc or ConnectionResetError("RabbitMQ closed the socket without a word")
        self._state.move(ConnectionState.CLOSED)
        for timer in (self._heartbeat_timer, self._close_timer, self._alarm_timer):
            if timer is not None:
                timer.cancel()
        self._out.clear()
        self._late.clear()
        self.resume_writing()
        self._fail_channels()
        if self.error is None:
            self.closed.set_result(None)
            return
        self.closed.set_exception(self.error)
        if not self.opened.done():
            self.opened.set_exception(self.error)

    def _fail_channels(self) -> None:
        why = "the connection is closed" if self.error is None else describe(self.error)
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.handle_connection_lost(ConnectionClosed(why))

    def pause_writing(self) -> None:
        """Have publishers wait: the socket's buffer is full."""
        if self._resumed is None:
            self._resumed = self.loop.create_future()

    def resume_writing(self) -> None:
        """Let publishers go on: the socket's buffer has room."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)

    def routing(self) -> tuple[str, str]:
        """The exchange and routing key of the delivery that is being handled."""
        return self._decoder.routing()

    def properties(self) -> bytes:
        """Flags and values of the properties of the delivery that is being handled."""
        return self._decoder.properties()

    # FrameHandler

    def handle_delivery(
        self, channel: int, delivery_tag: int, redelivered: bool, body: bytes
    ) -> None:
        """Hand a message to its channel."""
        target = self._channels.get(channel)
        if target is not None:
            target.handle_delivery(delivery_tag, redelivered, body)

    def body_limit(self, channel: int, method: Method | None) -> int:
        """Give the most bytes of a body that anybody on a channel wants."""
        target = self._channels.get(channel)
        return 0 if target is None else target.body_limit(method)

    def handle_oversized(self, channel: int, delivery_tag: int, size: int) -> None:
        """Tell a message's channel that it was too large."""
        target = self._channels.get(channel)
        if target is not None:
            target.handle_oversized(delivery_tag, size)

    def handle_confirm(self, channel: int, delivery_tag: int, multiple: bool) -> None:
        """Hand a confirm to its channel."""
        target = self._channels.get(channel)
        if target is not None:
            target.confirms.ack(delivery_tag, multiple)

    def handle_content(self, channel: int, method: Method, body: bytes) -> None:
        """Hand a method with content to its channel."""
        target = self._channels.get(channel)
        if target is not None:
            target.handle_content(method, body)

    def handle_method(self, channel: int, method: Method) -> None:
        """Hand a method to its channel, or to the connection itself."""
        if channel == 0:
            self._handle_connection_method(method)
        else:
            target = self._channels.get(channel)
            if target is not None:
                target.handle_method(method)

    def _handle_connection_method(self, method: Method) -> None:
        closing = self._state.state in (ConnectionState.CLOSING, ConnectionState.CLOSED)
        if isinstance(method, pamqp.commands.Connection.Close):
            self.write(encode_method(0, pamqp.commands.Connection.CloseOk()))
            self._flush()
            if not closing:
                self.error = ConnectionClosedByServer(method.reply_code or 0, method.reply_text)
                self._state.move(ConnectionState.CLOSING)
                self._limit_closing()
                self._fail_channels()
            self._close_transport()
        elif isinstance(method, pamqp.commands.Connection.CloseOk):
            self._close_transport()
        elif closing:
            pass  # on its way before the server saw our connection.close
        elif isinstance(method, pamqp.commands.Connection.Blocked):
            self._set_blocked(printable(method.reason or "an alarm"))
        elif isinstance(method, pamqp.commands.Connection.Unblocked):
            self._set_blocked(None)
        elif self._expected is None or not isinstance(method, self._expected):
            raise BadBytesFromServer(f"{method.name} was not expected")
        elif isinstance(method, pamqp.commands.Connection.Start):
            self._expected = pamqp.commands.Connection.Tune
            self._start(method)
        elif isinstance(method, pamqp.commands.Connection.Tune):
            self._expected = pamqp.commands.Connection.OpenOk
            self._tune(method)
        else:
            self._expected = None
            self._state.move(ConnectionState.OPEN)
            self.opened.set_result(None)

    def _set_blocked(self, reason: str | None) -> None:
        changed, self.blocked = self.blocked != reason, reason
        self._alarm_changed()
        if changed and self.on_blocked is not None:
            self.on_blocked(reason)

    def _alarm_changed(self) -> None:
        """Log an alarm's beginning or end, now or later: a server may send them without end."""
        now = self.loop.time()
        times = self._alarm_times
        if self._alarm_timer is None and (
            len(times) < _MOST_ALARMS or times[0] <= now - _ALARM_INTERVAL
        ):
            times.append(now)
            self._log_alarm("")
            return
        self._alarms_left_out += 1
        if self._alarm_timer is None:
            self._alarm_timer = self.loop.call_later(_ALARM_INTERVAL, self._log_left_out)

    def _log_left_out(self) -> None:
        self._alarm_timer = None
        self._alarm_times.append(self.loop.time())
        left_out, self._alarms_left_out = self._alarms_left_out, 0
        self._log_alarm(f" ({left_out} changes within {_ALARM_INTERVAL:g} s)")

    def _log_alarm(self, changes: str) -> None:
        if self.blocked is None:
            self._log.info("RabbitMQ takes publishes again%s", changes)
        else:
            self._log.warning("RabbitMQ takes no publishes: %s%s", self.blocked, changes)

    def _close_transport(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # Handshake

    def _start(self, start: pamqp.commands.Connection.Start) -> None:
        offered = printable(str(start.mechanisms)).split()
        wanted = self.endpoint.auth_mechanisms
        mechanism = next((name for name in wanted if name in offered), None)
        if mechanism is None:
            self.abort(
                ConnectionError(
                    f"RabbitMQ offers {', '.join(offered)} to log in; "
                    f"auth_mechanism allows {', '.join(wanted)}"
                )
            )
            return
        properties: FieldTable = {
            "product": "channels_rabbitmq",
            "version": importlib.metadata.version("channels_rabbitmq"),
            "platform": f"Python {platform.python_version()}",
            "capabilities": dict(_CAPABILITIES),
        }
        if self.name:
            properties["connection_name"] = self.name
        self.write(encode_start_ok(properties, mechanism, self._credentials(mechanism)))

    def _credentials(self, mechanism: str) -> bytes:
        user, password = self.endpoint.username, self.endpoint.password
        if mechanism == "PLAIN":
            return f"\0{user}\0{password}".encode()
        if mechanism == "AMQPLAIN":
            return pamqp.encode.field_table({"LOGIN": user, "PASSWORD": password})[4:]
        return b""  # EXTERNAL: the client's certificate tells who it is

    def _tune(self, tune: pamqp.commands.Connection.Tune) -> None:
        self.frame_max = _negotiate(tune.frame_max, self.endpoint.frame_max or FRAME_MAX)
        if self.frame_max < FRAME_MIN_SIZE:
            raise BadBytesFromServer("frame_max is smaller than AMQP allows")
        self._decoder.frame_max = self.frame_max
        self.channel_max = _negotiate(tune.channel_max, self.endpoint.channel_max or CHANNEL_MAX)
        # Either side may turn heartbeats off, by 0.
        seconds = min(tune.heartbeat or 0, self.endpoint.heartbeat)
        self.write(
            encode_method(
                0, pamqp.commands.Connection.TuneOk(self.channel_max, self.frame_max, seconds)
            )
            + encode_method(0, pamqp.commands.Connection.Open(self.endpoint.virtual_host))
        )
        if seconds:
            self._heartbeat_timer = self.loop.call_later(seconds / 2, self._tick, seconds / 2)

    # Heartbeats

    def _tick(self, interval: float) -> None:
        """Send a heartbeat if nothing was sent, and look whether anything came: each half interval.

        The two directions are independent. Ours: the server drops a client that it has heard
        nothing of for two intervals, so something goes out in every half interval. Theirs:
        RabbitMQ sends as often as that too, so after three ticks without a byte three of its
        heartbeats are missing. The connection then ends between one and a half and two intervals
        after the last byte. Any frame counts as a heartbeat (specification, section 4.2.7).
        """
        if self._silent_ticks >= 3:
            self.reset(ConnectionClosedByHeartbeatMonitor("RabbitMQ sent nothing for too long"))
            return
        self._silent_ticks += 1
        if not self._wrote:
            self.write(HEARTBEAT)
        self._wrote = False
        self._heartbeat_timer = self.loop.call_later(interval, self._tick, interval)

    # Writing

    def _flush(self) -> None:
        """Hand what was written in this turn to the transport, what was to come late at its end."""
        self._flush_scheduled = False
        for produce in self._late:
            self._out.append(produce())
        self._late.clear()
        if self._out and self._transport is not None:
            data = b"".join(self._out)
            self._out.clear()
            self._wrote = True
            self._counts.sent += len(data)
            self._transport.write(data)
