"""The chat over RabbitMQ, to watch: ``make demo``.

Starts a private RabbitMQ (or uses the one that the environment variable AMQP_URL names), two server
processes of the chat and a worker, and lets scripted websocket clients use it as people would. At a
terminal it then serves until Ctrl-C, for your own browser windows. The exit status is 0 if all that
was to be seen was seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for devtools

try:
    import daphne  # noqa: F401  (run as a process of its own; here, to say early that it is missing)
    from websockets.exceptions import WebSocketException

    import channels_rabbitmq  # noqa: F401
except ImportError as error:
    sys.exit(f"{error}\nFirst: pip install -e . -r examples/chat/requirements.txt")

from devtools.broker import Broker
from devtools.process import ServerError
from examples.chat import acts
from examples.chat.acts import ActError, Person
from examples.chat.servers import ChatProcess, Server, chat_servers, chat_worker

Result = TypeVar("Result")


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


# -- What happens --------------------------------------------------------------------------------


async def perform(servers: Sequence[Server], room: str) -> bool:
    """Hold the conversation, then show the rest; tell whether everything arrived."""
    ada, grace, hedy = (
        Person(name, server, room)
        for name, server in zip(("Ada", "Grace", "Hedy"), (*servers, servers[0]), strict=True)
    )
    async with contextlib.AsyncExitStack() as stack:
        with step(f"Entering room {room}: {ada.name} on one process, {grace.name} on the other"):
            for person in (ada, grace):
                await stack.enter_async_context(person.here())
            for person, other in ((ada, grace), (grace, ada)):
                try:
                    await person.see([other])
                except TimeoutError:
                    raise ActError(f"{person.name} does not see {other.name}.") from None
        print()
        arrived = [
            await acts.say(text, *((ada, grace) if name == ada.name else (grace, ada)))
            for name, text in acts.LINES
        ]
        print(f"\n{sum(arrived)} of {len(arrived)} lines arrived at the other side.\n", flush=True)
        await show("Who is here", acts.who_is_here(stack, (ada, grace, hedy)))
        await show("A private note", acts.private_note(ada, grace, hedy))
        await show("A worker's job", acts.job(ada, grace))
        await show("Missed lines", acts.missed_lines(ada, hedy))
        await show("Live numbers", acts.status(servers[0]))
        print()
        return all(arrived)


async def show(name: str, act: Coroutine[None, None, str]) -> None:
    """Let an act happen, and print what was seen, and how long it took."""
    print(f"  {name + ':':<15} ", end="", flush=True)
    started = time.perf_counter()
    try:
        seen = await act
    except TimeoutError:
        raise ActError(f"It did not happen within {acts.ARRIVES_WITHIN:g} s.") from None
    print(f"{(time.perf_counter() - started) * 1000:7.1f} ms   {seen}.", flush=True)


async def while_alive(processes: Sequence[ChatProcess], work: Awaitable[Result]) -> Result:
    """Do the work. Raises ServerError as soon as one of the processes has ended."""

    async def watch() -> None:
        while True:
            for process in processes:
                process.check()
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
    with step("Starting two server processes of the chat, and a worker"):
        worker = stack.enter_context(chat_worker(amqp_url))
        servers = stack.enter_context(chat_servers(amqp_url))
        worker.wait_until_ready()
    for number, server in enumerate(servers, start=1):
        print(f"  server {number}: {server.address}, process {server.pid}")
    print(f"  worker: process {worker.pid}")
    processes = (*servers, worker)
    try:
        complete = asyncio.run(while_alive(processes, perform(servers, room)))
    except (ActError, TimeoutError, WebSocketException, OSError) as error:
        raise DemoError(f"{error or type(error).__name__}\n{printed_by(processes)}") from error
    if not complete:
        raise DemoError(f"Not every line arrived.\n{printed_by(processes)}")
    if sys.stdin.isatty() and sys.stdout.isatty():
        print("Now you: open the room on both, in two browser windows. Ctrl-C ends it.")
        for server in servers:
            print(f"  {server.address}room/{room}/")
        print(f"What the channel layer is doing meanwhile: {servers[0].address}status/")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                for process in processes:
                    process.check()
                time.sleep(0.5)
        print()
    return complete


def printed_by(processes: Sequence[ChatProcess]) -> str:
    return "\n".join(
        f"\n{each.name} (process {each.pid}) printed last:\n{each.tail()}" for each in processes
    )


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
