"""What no layer can beat: RabbitMQ over a raw socket, and asyncio without a network.

Each gives the same figures as the workload of that name. These are measuring sticks: the frames are
packed before the clock starts, and there is no error handling.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import struct
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack
import pamqp.body
import pamqp.commands
import pamqp.frame
import pamqp.header
from asgiref.sync import async_to_sync

from .checks import count_for
from .null import Box
from .spec import Figures, Spec

#: The last bytes of each message's body, by which its arrival is noticed.
MARKER = b"\x01end of body\x02"
#: What a layer adds to a message's text: the map, its keys and the channel's name, about.
ENVELOPE = 110
FRAME_MAX = 131072
WINDOW = 5000
LARGE = 100_000
#: Over how many AMQP channels keys are bound, where RabbitMQ stores them in Mnesia, and in Khepri:
#: those next to what is fastest there.
BINDERS = {False: (1, 4, 8), True: (32, 64, 128)}


class Locked(Exception):
    """RabbitMQ still keeps the queue for a connection that has ended."""


class Raw:
    """A connection with channels: 1 confirms publishes, 2 consumes without acknowledging.

    Its queue has a name that nobody else had, unless it is given one.
    """

    def __init__(self, port: int, channels: int = 2, queue: str = "") -> None:
        self.queue = queue or f"limit-{uuid.uuid4().hex}"
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self.socket.sendall(b"AMQP\0\0\x09\x01")
        start: Any = self.read()
        #: RabbitMQ's major version.
        self.version = int(start.server_properties["version"].partition(".")[0])
        capabilities: dict[str, Any] = {"publisher_confirms": True, "basic.nack": True}
        self.call(
            pamqp.commands.Connection.StartOk(
                {"capabilities": capabilities}, "PLAIN", "\0guest\0guest", "en_US"
            ),
            0,
        )
        self.write(pamqp.commands.Connection.TuneOk(2047, FRAME_MAX, 0), 0)
        self.call(pamqp.commands.Connection.Open("/"), 0)
        for channel in range(1, channels + 1):
            self.call(pamqp.commands.Channel.Open(), channel)
        declared = self.call(
            pamqp.commands.Queue.Declare(
                queue=self.queue,
                exclusive=True,
                arguments={"x-max-length": 100_000, "x-overflow": "reject-publish"},
            ),
            1,
        )
        if not isinstance(declared, pamqp.commands.Queue.DeclareOk):
            self.socket.close()
            raise Locked
        self.call(pamqp.commands.Confirm.Select(), 1)

    def consume(self) -> None:
        """Consume our own queue."""
        self.call(pamqp.commands.Basic.Consume(queue=self.queue, consumer_tag="t", no_ack=True), 2)

    def read(self) -> pamqp.frame.FrameTypes:
        """Wait for the next frame."""
        while True:
            if len(self._buffer) >= 7:
                end = struct.unpack_from(">I", self._buffer, 3)[0] + 8
                if len(self._buffer) >= end:
                    _, _, frame = pamqp.frame.unmarshal(self._buffer[:end])
                    self._buffer = self._buffer[end:]
                    return frame
            self._buffer += self.socket.recv(1 << 16)

    def write(self, method: pamqp.frame.FrameTypes, channel: int) -> None:
        """Send a frame."""
        self.socket.sendall(pamqp.frame.marshal(method, channel))

    def call(self, method: pamqp.frame.FrameTypes, channel: int) -> pamqp.frame.FrameTypes:
        """Send a method, and wait for the answer."""
        self.write(method, channel)
        return self.read()


def publish_frames(queue: str, payload: int) -> bytes:
    """All frames of one publish to a queue."""
    body = b"x" * (payload + ENVELOPE - len(MARKER)) + MARKER
    frames: list[pamqp.frame.FrameTypes] = [
        pamqp.commands.Basic.Publish(exchange="", routing_key=queue),
        pamqp.header.ContentHeader(0, len(body), pamqp.commands.Basic.Properties()),
    ]
    step = FRAME_MAX - 8
    frames += [pamqp.body.ContentBody(body[at : at + step]) for at in range(0, len(body), step)]
    return b"".join(pamqp.frame.marshal(frame, 1) for frame in frames)


class Arrivals:
    """Counts messages in what the socket gives, wherever it is cut."""

    def __init__(self, raw: Raw) -> None:
        self._socket = raw.socket
        self._tail = b""

    def next(self) -> int:
        """Wait for more; return how many came."""
        data = self._tail + self._socket.recv(1 << 20)
        found = data.count(MARKER)
        # A marker may be cut, never counted twice: what stays is shorter than it.
        keep = len(MARKER) - 1
        self._tail = data[data.rfind(MARKER) + len(MARKER) :][-keep:] if found else data[-keep:]
        return found


def send(spec: Spec, *, senders: int, payload: int) -> Figures:
    """Publish, confirm, deliver: as many as go through."""
    raw = Raw(spec.port)
    raw.consume()
    frames = publish_frames(raw.queue, payload)
    # Large messages: no more under way than the layers have senders.
    window = WINDOW if payload < LARGE else senders
    burst = min(100, window)
    chunk = frames * burst
    allowed = threading.Semaphore(window // burst)
    stopped = threading.Event()

    def write() -> None:
        while True:
            allowed.acquire()
            if stopped.is_set():
                return
            raw.socket.sendall(chunk)

    arrivals = Arrivals(raw)
    started = time.perf_counter()
    writer = threading.Thread(target=write)
    writer.start()
    # What the writer may send in all; as many messages as that will come.
    due = window // burst * burst
    arrived = freed = 0
    while arrived < due:
        arrived += arrivals.next()
        while arrived - freed >= burst:
            freed += burst
            if time.perf_counter() - started < spec.seconds:
                due += burst
                allowed.release()
    stopped.set()
    allowed.release()
    writer.join()
    wall = time.perf_counter() - started
    return {"rate": arrived / wall, "bytes_rate": arrived * payload / wall, "messages": arrived}


def latency(spec: Spec) -> Figures:
    """One message at a time: over a blocking socket, and by asyncio with the least of protocols."""
    raw = Raw(spec.port)
    raw.consume()
    frames = publish_frames(raw.queue, 100)
    arrivals = Arrivals(raw)
    times: list[float] = []
    deadline = time.perf_counter() + spec.seconds / 2
    while time.perf_counter() < deadline or len(times) < 100:
        started = time.perf_counter()
        raw.socket.sendall(frames)
        while not arrivals.next():
            pass
        times.append(time.perf_counter() - started)
    times = sorted(times[50:])
    return {
        "median_us": statistics.median(times) * 1e6,
        "p99_us": times[len(times) * 99 // 100] * 1e6,
        "asyncio_median_us": asyncio.run(round_trips(raw, spec.seconds / 2)) * 1e6,
        "messages": len(times),
    }


class Wakes(asyncio.Protocol):
    """Wakes who waits when something comes that has ``marker`` in it; looks at nothing else."""

    def __init__(self, marker: bytes) -> None:
        self._marker = marker
        self.arrived: asyncio.Future[None] | None = None

    def data_received(self, data: bytes) -> None:
        """Look at what came."""
        if self._marker in data and self.arrived is not None and not self.arrived.done():
            self.arrived.set_result(None)


async def round_trips(raw: Raw, seconds: float) -> float:
    """The median seconds of one message at a time by asyncio."""
    loop = asyncio.get_running_loop()
    frames = publish_frames(raw.queue, 100)
    raw.socket.setblocking(False)
    transport, protocol = await loop.create_connection(lambda: Wakes(MARKER), sock=raw.socket)
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(times) < 100:
        started = time.perf_counter()
        protocol.arrived = loop.create_future()
        transport.write(frames)
        await protocol.arrived
        times.append(time.perf_counter() - started)
    transport.abort()
    return statistics.median(times[50:])


def plain(spec: Spec) -> Figures:
    """``async_to_sync()``, over to a loop in another thread, publish, confirm, and back."""
    raw = Raw(spec.port)
    raw.socket.setblocking(False)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    frames = publish_frames(raw.queue, 100)
    transport, protocol = asyncio.run_coroutine_threadsafe(
        loop.create_connection(lambda: Wakes(b""), sock=raw.socket), loop
    ).result()

    async def publish() -> None:
        protocol.arrived = loop.create_future()
        transport.write(frames)
        await protocol.arrived  # nothing comes but the confirmation

    async def cross() -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(publish(), loop))

    send = async_to_sync(cross)
    for _ in range(20):
        send()
    started = time.perf_counter()
    count = 0
    for _ in count_for(spec.seconds):
        send()
        count += 1
    return {"rate": count / (time.perf_counter() - started), "messages": count}


def own_groups(spec: Spec, *, groups: int, **_: float) -> Figures:
    """Bind that many keys over some AMQP channels, without an answer to each; the best of them."""
    raw = Raw(spec.port)
    binders = BINDERS[raw.version >= 4]
    for channel in range(3, max(binders) + 1):
        raw.call(pamqp.commands.Channel.Open(), channel)
    found: dict[str, float] = {}
    for channels in binders:
        walls: list[float] = []
        deadline = time.perf_counter() + spec.seconds / len(binders)
        while len(walls) < 2 or time.perf_counter() < deadline:
            keys = [f"g{channels}.{len(walls)}.{number}" for number in range(groups)]
            walls.append(bind_all(raw, channels, keys))
        found[f"join_rate_{channels}"] = groups / statistics.median(walls[1:])
    return {"join_rate": max(found.values()), **found}


def bind_all(raw: Raw, channels: int, keys: Sequence[str]) -> float:
    """Bind keys over the first channels; return the seconds until all are bound."""
    raw.call(pamqp.commands.Exchange.Declare(exchange="groups", exchange_type="direct"), 1)
    frames = [
        pamqp.frame.marshal(
            pamqp.commands.Queue.Bind(
                queue=raw.queue, exchange="groups", routing_key=key, nowait=True
            ),
            1 + number % channels,
        )
        for number, key in enumerate(keys)
    ]
    # One that is answered says that all before it on its channel are done.
    asked = pamqp.commands.Queue.Declare(queue=raw.queue, passive=True)
    frames += [pamqp.frame.marshal(asked, 1 + number) for number in range(channels)]
    answer = pamqp.frame.marshal(pamqp.commands.Queue.DeclareOk(raw.queue, 0, 0), 1)
    missing = channels * len(answer)
    started = time.perf_counter()
    raw.socket.sendall(b"".join(frames))
    while missing:
        missing -= len(raw.socket.recv(min(missing, 1 << 20)))
    return time.perf_counter() - started


def cut(spec: Spec, *, groups: int) -> Figures:
    """Declare the same queue again after a cut, as soon as RabbitMQ lets go of it, and bind."""
    raw = Raw(spec.port)
    channels = max(BINDERS[raw.version >= 4])
    bind_all(raw, 1, [f"cut{number}" for number in range(groups)])
    queue, started = raw.queue, time.perf_counter()
    raw.socket.close()
    while True:
        try:
            raw = Raw(spec.port, channels, queue)
            break
        except Locked:
            time.sleep(0.05)
    locked = time.perf_counter() - started
    bind_all(raw, channels, [f"cut{number}" for number in range(groups)])
    return {"seconds": time.perf_counter() - started, "locked": locked, "groups": groups}


async def fan_out(seconds: float, members: int) -> Figures:
    """Wake that many tasks, each of which decodes a copy of its own."""
    text = "x" * 100
    body = msgpack.packb({"type": "bench.message", "text": text})
    boxes: list[Box[bytes]] = [Box() for _ in range(members)]
    arrived = 0
    all_arrived = asyncio.Event()

    async def consume(box: Box[bytes]) -> None:
        # The same work as that of a worker's reader.
        nonlocal arrived
        while True:
            if msgpack.unpackb(await box.get())["text"] != text:
                raise RuntimeError("this cannot be")
            arrived += 1
            if arrived % members == 0:
                all_arrived.set()

    tasks = [asyncio.create_task(consume(box)) for box in boxes]
    await asyncio.sleep(0)
    started = time.perf_counter()
    cpu = time.process_time()
    while time.perf_counter() - started < seconds:
        all_arrived.clear()
        for box in boxes:
            box.put(body)
        await all_arrived.wait()
    wall = time.perf_counter() - started
    cpu = time.process_time() - cpu
    for task in tasks:
        task.cancel()
    return {"rate": arrived / wall, "cpu_us": cpu / arrived * 1e6}


def group(spec: Spec, *, members: int) -> Figures:
    """What asyncio allows: no network at all."""
    return asyncio.run(fan_out(spec.seconds, members))


LIMITS: Mapping[str, Callable[..., Figures]] = {
    function.__name__: function for function in (send, latency, plain, own_groups, cut, group)
}
