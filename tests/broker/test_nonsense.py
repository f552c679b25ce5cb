"""A server that says something senseless at one step, and then nothing more: it is left.

Each kind of nonsense at each step of the handshake and of a session must end in a connection that
works, to the same server, which is sound from the second connection on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Callable
from typing import Any

import pamqp.body
import pamqp.frame
import pamqp.header
import pytest
from pamqp.commands import Basic, Channel, Confirm, Connection, Exchange, Queue

from channels_rabbitmq.amqp import protocol as protocol_module
from channels_rabbitmq.amqp.frames import HEARTBEAT
from channels_rabbitmq.broker import topology as topology_module
from channels_rabbitmq.errors import AmqpError, NotConnected
from tests.helpers.scripted import ScriptedServer, content

from .fake_rabbit import FakeRabbit, Link, running
from .process import Process

#: Seconds until the layer leaves a server that says no more.
PATIENCE = 0.4


def frame(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    """Any frame at all."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def method(channel: int, *made: Any) -> bytes:
    """Frames of methods."""
    return b"".join(pamqp.frame.marshal(one, channel) for one in made)


def endless(channel: int) -> bytes:
    """The beginning of a delivery of 2**63 bytes."""
    header = struct.pack(">HHQH", 60, 0, 2**63, 0)
    deliver = method(channel, Basic.Deliver("c", 1, False, "", "q"))
    return deliver + frame(2, channel, header) + frame(3, channel, bytes(100_000)) * 20


#: What the server says: bytes, made for the channel that the step is on; None drops the connection.
KINDS: dict[str, Callable[[int], bytes | None]] = {
    "silence": lambda channel: b"",
    "reset": lambda channel: None,
    "HTTP": lambda channel: b"HTTP/1.1 400 Bad Request\r\n\r\n<html>",
    "TLS alert": lambda channel: b"\x15\x03\x03\x00\x02\x02\x46",
    "refused version": lambda channel: b"AMQP\x00\x00\x09\x01",
    "zeros": lambda channel: bytes(100),
    "ones": lambda channel: b"\xff" * 100,
    "half a frame": lambda channel: method(channel, Queue.DeclareOk("q", 1, 1))[:-3],
    "no frame end": lambda channel: frame(1, channel, b"\x00\x0a\x00\x0a", b"\x00"),
    "huge frame": lambda channel: struct.pack(">BHI", 1, channel, 2**32 - 1) + bytes(1000),
    "unknown frame": lambda channel: frame(4, channel, b""),
    "heartbeats": lambda channel: HEARTBEAT * 1000,
    "empty method": lambda channel: frame(1, channel, b""),
    "unknown method": lambda channel: frame(1, channel, b"\x00\x3c\xff\xff"),
    "cut method": lambda channel: frame(1, channel, b"\x00\x32\x00\x0b\xff"),
    "client's method": lambda channel: method(channel, Queue.Declare(queue="q")),
    "start": lambda channel: method(0, Connection.Start(0, 9, {}, "PLAIN", "en_US")),
    "start without PLAIN": lambda channel: method(0, Connection.Start(0, 9, {}, "X", "en_US")),
    "start with half a table": lambda channel: frame(
        1, 0, b"\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x08\x01aA\x00\x00\x00\xff"
    ),
    "secure": lambda channel: method(0, Connection.Secure("more")),
    "tune": lambda channel: method(0, Connection.Tune(1, 8, 0)),
    "tune to nothing": lambda channel: method(0, Connection.Tune(1, 4096, 0)),
    "open-ok": lambda channel: method(0, Connection.OpenOk()),
    "close": lambda channel: method(0, Connection.Close(320, "bye\n\x1b[2J", 0, 0)),
    "close-ok": lambda channel: method(0, Connection.CloseOk()),
    "blocked for a moment": lambda channel: method(
        0, *[Connection.Blocked("low"), Connection.Unblocked()] * 500
    ),
    "channel.close": lambda channel: method(channel, Channel.Close(504, "CHANNEL_ERROR", 0, 0)),
    "channel.close 0": lambda channel: method(channel, Channel.Close(0, "", 0, 0)),
    "channel.close-ok": lambda channel: method(channel, Channel.CloseOk()),
    "another channel": lambda channel: method(channel + 77, Channel.OpenOk(), Basic.Ack(1)),
    "channel method on 0": lambda channel: method(0, Channel.OpenOk()),
    "another answer": lambda channel: method(channel, Queue.PurgeOk(1)),
    "too many answers": lambda channel: method(channel, *[Basic.QosOk()] * 1000),
    "delivery": lambda channel: content(channel, Basic.Deliver("c", 9, False, "", "q"), b"x"),
    "endless delivery": endless,
    "return": lambda channel: content(channel, Basic.Return(312, "NO", "", "q"), b"x"),
    "get-ok": lambda channel: content(channel, Basic.GetOk(1, False, "", "q", 0), b"x"),
    "header": lambda channel: pamqp.frame.marshal(pamqp.header.ContentHeader(body_size=9), channel),
    "body": lambda channel: pamqp.frame.marshal(pamqp.body.ContentBody(b"x"), channel),
    "ack for all": lambda channel: method(channel, Basic.Ack(2**63 - 1, True)),
    "nack for all": lambda channel: method(channel, Basic.Nack(2**63 - 1, True)),
    "cancel": lambda channel: method(channel, Basic.Cancel("nobody", True)),
    "flow": lambda channel: method(channel, Channel.Flow(False)),
}

#: When the server says it: instead of its first words, instead of an answer to a method, or after
#: it has confirmed the first publish.
STEPS: list[type[Any] | str] = [
    "instead of start",
    Connection.StartOk,
    Connection.Open,
    Channel.Open,
    Confirm.Select,
    Exchange.Declare,
    Queue.Declare,
    Queue.Bind,
    Basic.Qos,
    Basic.Consume,
    Basic.Publish,
    "after a confirm",
    "instead of an answer to the look",
    Connection.Close,
]


class Senseless(FakeRabbit):
    """A server whose first connection comes to nonsense at a step."""

    def __init__(self, step: type[Any] | str, kind: Callable[[int], bytes | None]) -> None:
        super().__init__()
        self._step = step
        self._kind = kind
        #: It has said it.
        self.done = False

    async def serve(self, peer: ScriptedServer) -> None:
        """Serve one connection."""
        if self.done:
            await super().serve(peer)
            return
        with contextlib.suppress(_Said):
            if self._step == "instead of start":
                await peer.reader.readexactly(8)
                self._say(peer, 0)
            if self._step is Connection.StartOk:
                await peer.start()
                self._say(peer, 0)
            if self._step is Connection.Open:
                await peer.start()
                peer.send(0, Connection.Tune(2047, 131072, 0))
                await peer.expect(Connection.TuneOk)
                await peer.expect(Connection.Open)
                self._say(peer, 0)
            await super().serve(peer)
        await peer.wait_eof()

    def _handle(self, link: Link, channel: int, method: Any, body: bytes) -> None:
        if self.done:
            super()._handle(link, channel, method, body)
            return
        look = (
            isinstance(method, Queue.Declare)
            and method.passive
            and method.queue in self.queues
            and self.queues[method.queue].consumer is not None
        )
        after = self._step == "after a confirm" and isinstance(method, Basic.Publish)
        if after:
            super()._handle(link, channel, method, body)
        if (
            after
            or (look and self._step == "instead of an answer to the look")
            or (isinstance(self._step, type) and isinstance(method, self._step))
        ):
            self._forget(link)
            self._say(link.peer, channel)
        super()._handle(link, channel, method, body)

    def _say(self, peer: ScriptedServer, channel: int) -> None:
        self.done = True
        said = self._kind(channel)
        if said is None:
            peer.writer.transport.abort()
        else:
            peer.writer.write(said)
        raise _Said


class _Said(Exception):
    """The nonsense was said, and nothing more is."""


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a server that does not answer soon."""
    monkeypatch.setattr(protocol_module, "CLOSE_TIMEOUT", PATIENCE)
    monkeypatch.setattr(topology_module, "_START_TIMEOUT", PATIENCE)
    monkeypatch.setattr(topology_module, "_LOOK_TIMEOUT", PATIENCE)
    monkeypatch.setattr(topology_module, "_VERIFY", (0.05, 0.05))
    monkeypatch.setattr(topology_module, "_LEAST_SILENCE", 0.0)


async def survive(step: type[Any] | str, kind: Callable[[int], bytes | None]) -> None:
    """Connect to the server, and go on until a message has gone through it after the nonsense."""
    rabbit = Senseless(step, kind)
    async with running(rabbit) as port:
        url = f"amqp://127.0.0.1:{port}?heartbeat=0&connection_timeout={PATIENCE * 1000:.0f}"
        process = Process(port, host=url, send_timeout=PATIENCE, max_reconnect_delay=0.5)
        try:
            while not (rabbit.done and process.delivered):
                process.delivered.clear()
                with contextlib.suppress(AmqpError, NotConnected, TimeoutError):
                    topology = await process.recovery.wait_topology()
                    if step is Connection.Close and not rabbit.done:
                        break
                    async with asyncio.timeout(PATIENCE):
                        await topology.publish("", process.queue_name, b"x")
                await asyncio.sleep(0.01)
        finally:
            await process.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "step", STEPS, ids=[step if isinstance(step, str) else step.name for step in STEPS]
)
async def test_nonsense(step: type[Any] | str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the server says at a step, the layer is soon connected again, without a bug."""
    tasks = {name: asyncio.create_task(survive(step, kind)) for name, kind in KINDS.items()}
    _, hanging = await asyncio.wait(tasks.values(), timeout=30)
    for task in hanging:
        task.cancel()
    await asyncio.wait(tasks.values())
    assert [name for name, task in tasks.items() if task in hanging] == []
    failed = {
        name: error for name, task in tasks.items() if (error := task.exception()) is not None
    }
    assert not failed
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert all(line.isprintable() for line in caplog.messages)
