"""A conversation through RabbitMQ, to watch: ``make demo``.

Starts a private RabbitMQ (or uses the one that the environment variable AMQP_URL names) and two
server processes of the chat, and lets a pair of websocket clients talk, one on each process. At a
terminal it then serves until Ctrl-C, for your own browser windows. The exit status is 0 if every
line arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for devtools

try:
    import daphne  # noqa: F401  (run as a process of its own; here, to say early that it is missing)
    from websockets.asyncio.client import ClientConnection, connect
    from websockets.exceptions import WebSocketException

    import channels_rabbitmq  # noqa: F401
except ImportError as error:
    sys.exit(f"{error}\nFirst: pip install -e . -r examples/chat/requirements.txt")

from devtools.broker import Broker
from devtools.process import HOST, ServerError
from examples.chat.servers import Server, chat_servers

Result = TypeVar("Result")

ARRIVES_WITHIN = 10.0  # seconds
OPENS_WITHIN = 30.0  # seconds; with RabbitMQ away, joining a room alone takes send_timeout
NAMES = ("Ada", "Grace")  # each on a server process of her own
SCRIPT = (
    ("Ada", "Good morning! Which server process are you on?"),
    ("Grace", "The other one. We have nothing in common but RabbitMQ."),
    ("Ada", "So this goes out through the one connection of my process …"),
    ("Grace", "… and into the one queue of mine, however many of us are here."),
    ("Ada", "And if nobody in this room were on your process?"),
    ("Grace", "Then its queue would not be bound, and RabbitMQ would send it nothing."),
    ("Ada", "Does it take every language? Ça va ? 你好! 🐇"),
    ("Grace", "Word for word. Let the people in."),
)


class DemoError(Exception):
    """What ends the demonstration, in words for whoever watches."""


# -- What one sees -----------------------------------------------------------------------------


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Name a step as it starts; after two seconds, a dot each second; then how long it took."""
    print(name, end=" ", flush=True)
    started = time.monotonic()
    ended = threading.Event()

    def move() -> None:
        pause = 2.0
        while not ended.wait(pause):
            print(".", end="", flush=True)
            pause = 1.0

    mover = threading.Thread(target=move, daemon=True)
    mover.start()
    outcome = "stopped"
    try:
        yield
        outcome = "done"
    except Exception:
        outcome = "failed"
        raise
    finally:
        ended.set()
        mover.join()
        print(f" {outcome}, {time.monotonic() - started:.1f} s", flush=True)


# -- The conversation --------------------------------------------------------------------------


class Client:
    """One person with a websocket to one server, as the page has it."""

    def __init__(self, name: str, server: Server, websocket: ClientConnection) -> None:
        self.name = name
        self.server = server
        self._websocket = websocket

    async def send(self, **message: str) -> None:
        await self._websocket.send(json.dumps(message))

    async def expect(self, **fields: str) -> dict[str, object]:
        """Return the next message that has these fields, passing over others.

        Raises asyncio.TimeoutError when none comes in time.
        """

        async def search() -> dict[str, object]:
            while True:
                message: dict[str, object] = json.loads(await self._websocket.recv())
                if fields.items() <= message.items():
                    return message

        return await asyncio.wait_for(search(), ARRIVES_WITHIN)


async def talk(servers: Sequence[Server], room: str) -> bool:
    """Hold the conversation; tell whether every line arrived at the other side."""
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        with step(f"Entering room {room}: {NAMES[0]} on one process, {NAMES[1]} on the other"):
            for name, server in zip(NAMES, servers, strict=True):
                opening = connect(
                    f"ws://{HOST}:{server.port}/ws/room/{room}/",
                    additional_headers={"Origin": f"http://{HOST}:{server.port}"},
                    open_timeout=OPENS_WITHIN,
                    proxy=None,
                )
                clients.append(Client(name, server, await stack.enter_async_context(opening)))
            for client in clients:
                await client.send(type="here", name=client.name)
            for client, other in zip(clients, reversed(clients), strict=True):
                try:
                    await client.expect(type="here", name=other.name)
                except TimeoutError:
                    raise DemoError(f"{client.name} does not see {other.name}.") from None
        print()
        ada, grace = clients
        arrived = [
            await say(text, *((ada, grace) if name == ada.name else (grace, ada)))
            for name, text in SCRIPT
        ]
        print(f"\n{sum(arrived)} of {len(SCRIPT)} lines arrived at the other side.\n", flush=True)
        return all(arrived)


async def say(text: str, speaker: Client, listener: Client) -> bool:
    """Let the speaker say a line, and show it as it arrives at the listener."""
    name = speaker.name
    key = secrets.token_hex(8)
    sent = time.perf_counter()
    await speaker.send(type="say", key=key, text=text)
    try:
        line = await listener.expect(type="line", key=key)
    except TimeoutError:
        print(f"  {name:>5}'s line did not arrive within {ARRIVES_WITHIN:g} s: {text}", flush=True)
        return False
    took = (time.perf_counter() - sent) * 1000
    way = f":{speaker.server.port} to :{listener.server.port}"
    print(f"  {way}  {took:6.1f} ms   {line['name']:>5}: {line['text']}", flush=True)
    return (line["name"], line["text"]) == (name, text)


async def while_alive(servers: Sequence[Server], work: Awaitable[Result]) -> Result:
    """Do the work. Raises ServerError as soon as one of the servers has ended."""

    async def watch() -> None:
        while True:
            for server in servers:
                server.check()
            await asyncio.sleep(0.1)

    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(watch())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done() and working.exception():
            # A broken websocket can be the first that one notices of a server's end.
            await asyncio.wait({watching}, timeout=1)
        if watching.done():
            watching.result()
        return await working
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


# -- The demonstration -------------------------------------------------------------------------


def demonstrate(stack: contextlib.ExitStack) -> bool:
    """Start everything, which ends with the stack; tell whether every line arrived."""
    amqp_url = os.environ.get("AMQP_URL")
    if amqp_url:
        print("Using the RabbitMQ that AMQP_URL names.")
        room = f"tea-break-{secrets.token_hex(3)}"  # others may use that RabbitMQ too
    else:
        with step("Starting a private RabbitMQ"):
            amqp_url = stack.enter_context(Broker.start()).url
        room = "tea-break"
    with step("Starting two server processes of the chat"):
        servers = stack.enter_context(chat_servers(amqp_url))
    for number, server in enumerate(servers, start=1):
        print(f"  server {number}: {server.address}, process {server.pid}")
    try:
        complete = asyncio.run(while_alive(servers, talk(servers, room)))
    except (TimeoutError, DemoError, WebSocketException, OSError) as error:
        raise DemoError(f"{error or type(error).__name__}\n{printed_by(servers)}") from error
    if not complete:
        raise DemoError(f"Not every line arrived.\n{printed_by(servers)}")
    if sys.stdin.isatty() and sys.stdout.isatty():
        print("Now you: open the room on both, in two browser windows. Ctrl-C ends it.")
        for server in servers:
            print(f"  {server.address}room/{room}/")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                for server in servers:
                    server.check()
                time.sleep(0.5)
        print()
    return complete


def printed_by(servers: Sequence[Server]) -> str:
    return "\n".join(f"\nServer :{each.port} printed last:\n{each.tail()}" for each in servers)


def end_politely(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the demonstration. Returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    # To be ended by others must clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, end_politely)
    signal.signal(signal.SIGHUP, end_politely)
    stack = contextlib.ExitStack()
    try:
        return 0 if demonstrate(stack) else 1
    except (DemoError, ServerError) as error:
        print(f"\n{error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        # Whoever presses Ctrl-C again shall not stop this half way. It takes seconds at most.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with step("Ending what was started"):
            stack.close()


if __name__ == "__main__":
    sys.exit(main())
