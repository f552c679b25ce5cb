"""What the demonstration shows, played by scripted clients as the page in a browser would.

Each act takes the people in the room and tells in a line what has been seen. It raises ``ActError``
or ``TimeoutError`` if it was something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from devtools.process import HOST
from examples.chat.servers import Server

ARRIVES_WITHIN = 10.0  # seconds
OPENS_WITHIN = 30.0  # seconds; with RabbitMQ away, joining a room alone takes send_timeout
PRIMES = {5_000_000: 348_513}  # how many there are below it
LINES = (
    ("Ada", "Good morning! Which server process are you on?"),
    ("Grace", "The other one. We have nothing in common but RabbitMQ."),
    ("Ada", "So this goes out through the one connection of my process …"),
    ("Grace", "… and into the one queue of mine, however many of us are here."),
    ("Ada", "And if nobody in this room were on your process?"),
    ("Grace", "Then its queue would not be bound, and RabbitMQ would send it nothing."),
    ("Ada", "Does it take every language? Ça va ? 你好! 🐇"),
    ("Grace", "Word for word. Let the people in."),
)

Message = dict[str, Any]


class ActError(Exception):
    """What was seen is not what was to be seen."""


class Person:
    """One person with a websocket to one server, as the page has it."""

    _websocket: ClientConnection  # from here() on

    def __init__(self, name: str, server: Server, room: str) -> None:
        self.name = name
        self.server = server
        self.id = ""
        self.heard: list[Message] = []
        self._room = room
        self._secret = secrets.token_hex(16)

    @contextlib.asynccontextmanager
    async def here(self, since: float | None = None) -> AsyncIterator[Message]:
        """Be in the room; gives what was said since then."""
        opening = websocket(self.server, f"room/{self._room}/?page={self._secret}")
        async with opening as self._websocket:
            self.id = (await self.expect(type="welcome"))["id"]
            await self.send(type="here", name=self.name)
            await self.send(type="catch_up", since=since)
            yield await self.expect(type="missed")

    async def send(self, **message: Any) -> None:
        await self._websocket.send(json.dumps(message))

    async def say(self, text: str) -> str:
        """Say a line; gives the key that it has for everybody."""
        key = secrets.token_hex(8)
        await self.send(type="say", key=key, text=text)
        return key

    async def expect(self, **fields: object) -> Message:
        """Return the next message that has these fields, passing over others.

        Raises ``TimeoutError`` when none comes in time.
        """
        async with asyncio.timeout(ARRIVES_WITHIN):
            while True:
                message: Message = json.loads(await self._websocket.recv())
                self.heard.append(message)
                if fields.items() <= message.items():
                    return message

    async def see(self, people: Sequence[Person]) -> None:
        """Return once all of them have said that they are here, now or before."""
        wanted = {person.name for person in people}
        while not wanted <= {each["name"] for each in self.heard if each["type"] == "here"}:
            await self.expect(type="here")

    def cut(self) -> None:
        """End the websocket without a goodbye, as a network does."""
        self._websocket.transport.abort()


def websocket(server: Server, path: str) -> connect:
    return connect(
        f"ws://{HOST}:{server.port}/ws/{path}",
        additional_headers={"Origin": f"http://{HOST}:{server.port}"},
        open_timeout=OPENS_WITHIN,
        proxy=None,
    )


async def say(text: str, speaker: Person, listener: Person) -> bool:
    """Let the speaker say a line, and show it as it arrives at the listener."""
    sent = time.perf_counter()
    key = await speaker.say(text)
    try:
        line = await listener.expect(type="line", key=key)
    except TimeoutError:
        print(f"  {speaker.name:>5}'s line did not arrive within {ARRIVES_WITHIN:g} s: {text}")
        return False
    took = (time.perf_counter() - sent) * 1000
    way = f":{speaker.server.port} to :{listener.server.port}"
    print(f"  {way}  {took:6.1f} ms   {line['name']:>5}: {line['text']}", flush=True)
    return (line["name"], line["text"]) == (speaker.name, text)


async def who_is_here(stack: contextlib.AsyncExitStack, people: Sequence[Person]) -> str:
    """A newcomer, the last one, is told who is here, and hears their names from them."""
    newcomer = people[-1]
    await stack.enter_async_context(newcomer.here())
    await newcomer.see(people)
    calls = [each for each in newcomer.heard if each["type"] == "present"]
    sockets = (calls or [await newcomer.expect(type="present")])[0]["sockets"]
    if len(sockets) != len(people):
        raise ActError(f"{len(people)} are in the room, and {newcomer.name} is told of {sockets}.")
    return f"{newcomer.name} comes in and sees {', '.join(person.name for person in people)}"


async def private_note(writer: Person, reader: Person, third: Person) -> str:
    """A note reaches one person; the third, who gets every line, does not get it."""
    await writer.send(type="note", key="note", to=reader.id, text="Just between us.")
    note = await reader.expect(type="note", id=writer.id)
    # From one sender things arrive in order: what comes after the note is behind it everywhere.
    await third.expect(type="line", key=await writer.say("And this is for everybody."))
    if any(message["type"] == "note" for message in third.heard):
        raise ActError(f"{third.name} got what was for {reader.name} only.")
    return f'{note["name"]} to {reader.name}: "{note["text"]}" And not to {third.name}'


async def job(orderer: Person, watcher: Person) -> str:
    """A worker does a job, and the room sees how far it is."""
    ((below, primes),) = PRIMES.items()
    await orderer.send(type="job", below=below)
    done = await watcher.expect(type="job", done=below)
    reports = [m for m in watcher.heard if m["type"] == "job" and m.get("pid")]
    if done["found"] != primes:
        raise ActError(f"The worker counted {done['found']} primes, there are {primes}.")
    counted = f"{primes:,} primes below {below:,}"
    return f"{counted}, with {len(reports)} reports from worker process {done['pid']}"


async def missed_lines(speaker: Person, away: Person) -> str:
    """What is said while a websocket is cut comes from the stream when it is back."""
    last = await away.expect(type="line", key=await speaker.say("Stay with us!"))
    away.cut()
    texts = ["Hello?", "Where have you gone?", "We go on without you."]
    for text in texts:
        await speaker.expect(type="line", key=await speaker.say(text))
    async with away.here(since=last["at"]) as missed:
        came = [event["text"] for event in missed["events"] if event["at"] > last["at"]]
    if came != texts:
        raise ActError(f"{away.name} missed {len(texts)} lines and was given {came}.")
    return f"{away.name}'s websocket is cut, comes back, and has {len(came)} of {len(texts)} lines"


async def status(server: Server) -> str:
    """The status page's numbers come from the layer itself."""
    async with websocket(server, "status/") as numbers:
        async with asyncio.timeout(ARRIVES_WITHIN):
            now = json.loads(await numbers.recv())["numbers"]
    shown = ("published", "confirmed", "received", "reconnections", "bindings")
    if not now["connected"]:
        raise ActError("The layer says that it is not connected.")
    return f"server :{server.port} has " + ", ".join(f"{name} {now[name]}" for name in shown)
