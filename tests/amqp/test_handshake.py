"""From the socket to an open connection, and heartbeats, with servers of every kind of manners."""

from __future__ import annotations

import asyncio
import time

import pamqp.commands
import pytest

from channels_rabbitmq.amqp import protocol as protocol_module
from channels_rabbitmq.amqp.frames import HEARTBEAT
from channels_rabbitmq.errors import (
    BadBytesFromServer,
    ChannelClosedByServer,
    ConnectionClosedByHeartbeatMonitor,
    ConnectionClosedByServer,
    describe,
)
from tests.helpers.scripted import ScriptedServer, connected, fail_to_connect, serve, unconnected
from tests.helpers.waiting import until

# Servers that do not answer, or not in AMQP


@pytest.mark.parametrize("words", [0, 1, 2])
async def test_silence_is_bounded(words: int) -> None:
    """A server that falls silent, after however much of the handshake, is left in time."""
    gone: list[bytes] = []

    async def script(peer: ScriptedServer) -> None:
        if words > 0:
            await peer.start()
        if words > 1:
            peer.send(0, pamqp.commands.Connection.Tune(0, 131072, 60))
            await peer.expect(pamqp.commands.Connection.TuneOk)
        gone.append(await peer.wait_eof())

    async with serve(script) as port:
        started = time.monotonic()
        error = await fail_to_connect(port, connect_timeout=0.3)
        assert 0.25 < time.monotonic() - started < 5
        assert isinstance(error, asyncio.TimeoutError)
        assert describe(error) == "no answer in time"
        await until(lambda: gone)


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"AMQP\x00\x01\x00\x00",
        bytes(64),
    ],
)
async def test_server_of_another_kind(words: bytes) -> None:
    """A server that does not speak AMQP 0-9-1 is left at once, with a hint at the port."""

    async def script(peer: ScriptedServer) -> None:
        peer.writer.write(words)

    async with serve(script) as port:
        error = await fail_to_connect(port)
        assert isinstance(error, BadBytesFromServer)
        assert "is that an AMQP port?" in describe(error)


async def test_server_that_closes_at_once() -> None:
    """A server that closes the socket without a word makes ``connect()`` fail at once."""

    async def script(peer: ScriptedServer) -> None:
        peer.writer.close()

    async with serve(script) as port:
        error = await fail_to_connect(port)
        assert isinstance(error, ConnectionError)
        assert "closed the socket without a word" in describe(error) or error.errno is not None


# Servers that refuse


async def test_refused_before_tuning() -> None:
    """What the server says when it refuses the credentials is what ``connect()`` raises."""

    async def script(peer: ScriptedServer) -> None:
        await peer.start()
        peer.send(0, pamqp.commands.Connection.Close(403, "ACCESS_REFUSED", 0, 0))
        await peer.expect(pamqp.commands.Connection.CloseOk)

    async with serve(script) as port:
        error = await fail_to_connect(port)
        assert isinstance(error, ConnectionClosedByServer)
        assert error.reply_code == 403


async def test_no_mechanism_in_common() -> None:
    """Where the server offers no way to log in that we may use, the error names both sides'."""

    async def script(peer: ScriptedServer) -> None:
        peer.send(0, pamqp.commands.Connection.Start(0, 9, {}, "EXTERNAL ANONYMOUS", "en_US"))

    async with serve(script) as port:
        error = await fail_to_connect(port, auth_mechanisms=("PLAIN", "AMQPLAIN"))
        assert describe(error) == (
            "RabbitMQ offers EXTERNAL, ANONYMOUS to log in; auth_mechanism allows PLAIN, AMQPLAIN"
        )


@pytest.mark.parametrize(
    ("mechanism", "response"),
    [
        ("PLAIN", b"\0us\xc3\xa9r\0" + b"p" * 200),
        (
            "AMQPLAIN",
            b"\x05LOGINS\x00\x00\x00\x05us\xc3\xa9r\x08PASSWORDS\x00\x00\x00\xc8" + b"p" * 200,
        ),
        ("EXTERNAL", b""),
    ],
)
async def test_mechanisms(mechanism: str, response: bytes) -> None:
    """Each mechanism's response is what RabbitMQ wants, for long passwords too."""
    responses: list[bytes] = []

    async def script(peer: ScriptedServer) -> None:
        responses.append(await peer.start(f"OTHER {mechanism}"))

    async with serve(script) as port:
        await fail_to_connect(
            port,
            username="usér",
            password="p" * 200,
            auth_mechanisms=(mechanism,),
            connect_timeout=0.3,
        )
        assert responses == [response]


async def test_mechanism_in_order_of_preference() -> None:
    """The first of our mechanisms that the server offers is used."""
    used: list[str] = []

    async def script(peer: ScriptedServer) -> None:
        peer.send(0, pamqp.commands.Connection.Start(0, 9, {}, "PLAIN AMQPLAIN", "en_US"))
        await peer.reader.readexactly(8)
        start_ok = await peer.expect(pamqp.commands.Connection.StartOk)
        used.append(start_ok.mechanism)

    async with serve(script) as port:
        await fail_to_connect(
            port, auth_mechanisms=("EXTERNAL", "AMQPLAIN", "PLAIN"), connect_timeout=0.3
        )
        assert used == ["AMQPLAIN"]


async def test_mechanisms_that_are_not_text() -> None:
    """A list of mechanisms that is not UTF-8 is one without any of ours."""

    async def script(peer: ScriptedServer) -> None:
        payload = b"\x00\x0a\x00\x0a\x00\x09" + bytes(4) + b"\x00\x00\x00\x01\xff" + bytes(4)
        peer.writer.write(b"\x01\x00\x00" + len(payload).to_bytes(4, "big") + payload + b"\xce")

    async with serve(script) as port:
        assert "to log in" in describe(await fail_to_connect(port))


@pytest.mark.parametrize("order", ["tune first", "open-ok first", "start twice", "blocked twice"])
async def test_handshake_out_of_order(order: str) -> None:
    """A handshake in the wrong order is given up."""

    async def script(peer: ScriptedServer) -> None:
        start = pamqp.commands.Connection.Start(0, 9, {}, "PLAIN", "en_US")
        tune = pamqp.commands.Connection.Tune(0, 0, 60)
        if order == "tune first":
            peer.send(0, tune)
        elif order == "open-ok first":
            peer.send(0, start, pamqp.commands.Connection.OpenOk())
        elif order == "start twice":
            peer.send(0, start, start)
        else:
            peer.send(0, start, pamqp.commands.Connection.Blocked("x"), tune, tune)

    async with serve(script) as port:
        error = await fail_to_connect(port)
        assert isinstance(error, BadBytesFromServer)
        assert "was not expected" in str(error)


# Negotiation


@pytest.mark.parametrize(
    ("theirs", "ours", "agreed"),
    [
        ((131072, 2047, 60), (0, 0, 60), (131072, 2047, 60)),
        ((0, 0, 0), (0, 0, 60), (131072, 2047, 0)),
        ((8192, 100, 20), (0, 0, 60), (8192, 100, 20)),
        ((131072, 2047, 60), (4096, 16, 5), (4096, 16, 5)),
        ((131072, 2047, 60), (0, 0, 0), (131072, 2047, 0)),
        ((0, 65535, 600), (1048576, 4000, 30), (1048576, 4000, 30)),
    ],
)
async def test_negotiation(
    theirs: tuple[int, int, int], ours: tuple[int, int, int], agreed: tuple[int, int, int]
) -> None:
    """The smaller limit of both sides counts, and 0 is no limit, or no heartbeat."""
    told: list[tuple[int, int, int]] = []

    async def script(peer: ScriptedServer) -> None:
        frame_max, channel_max, heartbeat = theirs
        tune_ok = await peer.handshake(
            frame_max=frame_max, channel_max=channel_max, heartbeat=heartbeat
        )
        told.append((tune_ok.frame_max, tune_ok.channel_max, tune_ok.heartbeat))
        await peer.accept_close()

    async with serve(script) as port:
        frame_max, channel_max, heartbeat = ours
        async with unconnected(
            port, frame_max=frame_max, channel_max=channel_max, heartbeat=heartbeat
        ) as connection:
            assert told == [agreed]
            assert connection.protocol.frame_max == agreed[0]
            assert connection.protocol.channel_max == agreed[1]


async def test_frame_max_below_the_least() -> None:
    """A server that wants frames smaller than AMQP allows is left."""

    async def script(peer: ScriptedServer) -> None:
        await peer.start()
        peer.send(0, pamqp.commands.Connection.Tune(0, 7, 0))

    async with serve(script) as port:
        error = await fail_to_connect(port)
        assert describe(error) == "frame_max is smaller than AMQP allows"


async def test_frame_larger_than_negotiated() -> None:
    """A frame larger than was agreed on ends the connection."""

    async def script(peer: ScriptedServer) -> None:
        await peer.handshake(frame_max=4096)
        number = await peer.accept_channel()
        peer.deliver(number, 1, bytes(4088))
        peer.deliver(number, 2, bytes(4089))

    async with serve(script) as port:
        connection = unconnected(port)
        await connection.connect()
        got: list[int] = []
        connection.protocol.open_channel(on_delivery=lambda _, tag, again, body: got.append(tag))
        with pytest.raises(BadBytesFromServer, match="larger than was negotiated"):
            await asyncio.wait_for(connection.closed, 10)
        assert got == [1]


# Heartbeats


async def test_no_heartbeats_no_timers() -> None:
    """Where either side wants no heartbeat, there is no timer and nothing is sent."""
    for theirs, ours in ((0, 60), (60, 0)):
        said: list[bytes] = []

        async def script(
            peer: ScriptedServer, theirs: int = theirs, said: list[bytes] = said
        ) -> None:
            await peer.handshake(heartbeat=theirs)
            said.append(await peer.wait_eof())

        async with serve(script) as port:
            connection = unconnected(port, heartbeat=ours)
            await connection.connect()
            assert connection.protocol._heartbeat_timer is None
            await asyncio.sleep(0.1)
            connection.protocol.abort()
            await until(lambda said=said: said)
            assert said == [b""]


@pytest.mark.slow
async def test_silent_server_is_left_within_two_heartbeats() -> None:
    """A server that sends nothing is left after more than one heartbeat and within two."""

    async def script(peer: ScriptedServer) -> None:
        await peer.handshake(heartbeat=1)

    async with serve(script) as port:
        connection = unconnected(port, heartbeat=60)
        await connection.connect()
        started = time.monotonic()
        with pytest.raises(ConnectionClosedByHeartbeatMonitor):
            await asyncio.wait_for(connection.closed, 10)
        assert 1 < time.monotonic() - started < 2.5


@pytest.mark.slow
async def test_heartbeats_keep_both_sides_content() -> None:
    """A server that only sends heartbeats is not left, and gets heartbeats in return."""
    heard = 0

    async def script(peer: ScriptedServer) -> None:
        nonlocal heard
        await peer.handshake(heartbeat=1)
        for _ in range(6):
            peer.writer.write(HEARTBEAT)
            await asyncio.sleep(0.5)
        heard = (await peer.reader.read(1000)).count(HEARTBEAT)
        peer.writer.close()

    async with serve(script) as port:
        connection = unconnected(port, heartbeat=60)
        await connection.connect()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(connection.closed, 10)
        assert heard >= 2


# Alarms

TAKES_NO = "RabbitMQ takes no publishes:"


async def test_blocked_and_unblocked(caplog: pytest.LogCaptureFixture) -> None:
    """The server's word that it takes no publishes is kept until it takes it back."""
    caplog.set_level("INFO")
    unblock = asyncio.Event()

    async def script(peer: ScriptedServer) -> None:
        peer.send(0, pamqp.commands.Connection.Blocked("low on memory"))
        await unblock.wait()
        peer.send(0, pamqp.commands.Connection.Unblocked())
        peer.send(0, pamqp.commands.Connection.Blocked(""))

    async with connected(script) as connection:
        protocol = connection.protocol
        assert await until(lambda: protocol.blocked) == "low on memory"
        unblock.set()
        assert await until(lambda: protocol.blocked == "an alarm")
        assert caplog.messages == [
            "RabbitMQ takes no publishes: low on memory",
            "RabbitMQ takes publishes again",
            "RabbitMQ takes no publishes: an alarm",
        ]


async def test_alarms_without_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alarms that come and go without end fill no log, and none of them forges a line of it.

    What is so in the end is logged all the same.
    """
    monkeypatch.setattr(protocol_module, "_ALARM_INTERVAL", 0.2)
    caplog.set_level("INFO")

    async def script(peer: ScriptedServer) -> None:
        for _ in range(5000):
            peer.send(0, pamqp.commands.Connection.Blocked("low\nFORGED \x1b[2J\u202e"))
            peer.send(0, pamqp.commands.Connection.Unblocked())
        peer.send(0, pamqp.commands.Connection.Blocked("the last"))

    async with connected(script) as connection:
        assert await until(lambda: connection.protocol.blocked == "the last")
        last = await until(
            lambda: [line for line in caplog.messages if line.startswith(f"{TAKES_NO} the last")]
        )
        assert connection.protocol._alarm_timer is None
    told = [line for line in caplog.messages if "publishes" in line]
    # Handling ten thousand may take longer than the interval.
    assert told[0] == rf"{TAKES_NO} low\nFORGED \x1b[2J\u202e"
    assert told[-1:] == last
    assert len(told) < 50
    assert last[0].endswith(" changes within 0.2 s)")
    assert all(line.isprintable() for line in told)


async def test_reasons_are_escaped() -> None:
    """What the server gives as a reason to close can forge no line of a log."""

    async def script(peer: ScriptedServer) -> None:
        number = await peer.accept_channel()
        await peer.expect(pamqp.commands.Queue.Declare)
        peer.send(number, pamqp.commands.Channel.Close(404, "NOT_FOUND\nFORGED", 50, 10))
        await peer.expect(pamqp.commands.Channel.CloseOk)
        peer.send(0, pamqp.commands.Connection.Close(320, "bye\x1b[2J", 0, 0))

    async with connected(script) as connection:
        with pytest.raises(ChannelClosedByServer) as caught:
            await connection.queue_declare("q")
        assert caught.value.reply_text == r"NOT_FOUND\nFORGED"
        with pytest.raises(ConnectionClosedByServer) as closed:
            await asyncio.wait_for(connection.closed, 10)
        assert str(closed.value) == r"RabbitMQ closed the connection: 320 bye\x1b[2J"
