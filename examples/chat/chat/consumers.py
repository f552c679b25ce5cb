"""The server's side of a room: one consumer for each websocket, one group for each room.

The page sends::

    {"type": "here", "name": "Ada"}                 who I am: first, and after a change
    {"type": "catch_up", "since": 1700000000.5}     what was said since then? null: lately
    {"type": "say", "key": "7", "text": "Hello"}    a line; its key comes back with it
    {"type": "note", "key": "8", "to": ..., "text": "Psst"}     the same for one person only
    {"type": "job", "below": 1000000}               count the primes, please

and receives::

    {"type": "welcome", "id": ..., "port": ..., "pid": ...}     which process it is on
    {"type": "here", "id": ..., "socket": ..., "name": ..., "port": ..., "new": ...}
    {"type": "left", "socket": ...}                 people come and go
    {"type": "present", "sockets": [...]}           all who are here
    {"type": "missed", "events": [...], "complete": ...}        what was said, as it was sent then
    {"type": "line" or "note", "line": ..., "id": ..., "key": ..., "name": ..., "text": ..., ...}
    {"type": "job", "job": ..., "name": ..., "below": ..., "done": ..., ...}
    {"type": "refused", "key": ..., "why": ...}     this will not happen

Nobody keeps a list of who is in a room: the members of its group are it; whose name is not known
yet is asked. A person is the secret in the websocket's address, and has a group too, for what
nobody else shall read. So a page that connects again is the same person, with a new socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import uuid
from typing import Any

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from channels_rabbitmq.errors import AmqpError, NotAnswered

from . import history, jobs
from .people import clean_name, clean_text, is_id, public_id, secret_in

LATELY = 600  # seconds; what somebody who comes for the first time is shown
ROLL_CALL_EVERY = 5  # seconds

Event = dict[str, Any]


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """One person in one room."""

    async def connect(self) -> None:
        self.room: str = self.scope["url_route"]["kwargs"]["room"]
        self.id = public_id(secret_in(self.scope["query_string"], self.channel_name))
        self.name = ""
        # The server process's own address; none when it listens on a Unix socket.
        self.port: int | None = (self.scope.get("server") or (None, None))[1]
        self.introduced: set[str] = set()  # the channels whose people the page has been told
        await self.channel_layer.group_add(room_group(self.room), self.channel_name)
        await self.channel_layer.group_add(person_group(self.id), self.channel_name)
        await self.accept()
        await self.send_json(
            {"type": "welcome", "id": self.id, "port": self.port, "pid": os.getpid()}
        )
        self.roll_calls = asyncio.create_task(self.call_the_roll())

    async def disconnect(self, code: int) -> None:
        self.roll_calls.cancel()
        await self.channel_layer.group_discard(room_group(self.room), self.channel_name)
        await self.channel_layer.group_discard(person_group(self.id), self.channel_name)
        if self.name:
            await self.to_room({"type": "chat.left", "channel": self.channel_name})

    # -- What the page asks for ----------------------------------------------------------------

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        await super().receive(text_data or "null", **kwargs)  # bytes are not our page's doing

    @classmethod
    async def decode_json(cls, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None  # for which receive_json() has no use

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        match content:
            case {"type": "here", "name": str(name)} if name := clean_name(name):
                await self.here(name)
            case {"type": "catch_up", "since": None | int() | float() as since}:
                await self.catch_up(since)
            case {"type": "say", "key": str(key), "text": str(text)} if self.name and (
                text := clean_text(text)
            ):
                await self.say(key, text)
            case {"type": "note", "key": str(key), "to": str(to), "text": str(text)} if (
                self.name and is_id(to) and (text := clean_text(text))
            ):
                await self.note(key, to, text)
            case {"type": "job", "below": int(below)} if self.name and below in jobs.SIZES:
                await self.order(below)
            case _:
                await self.close(code=4400)  # not our page's doing

    async def here(self, name: str) -> None:
        """Tell the room who this is."""
        newcomer = not self.name
        self.name = name
        await self.to_room({**self.presence(), "new": newcomer})

    async def catch_up(self, since: float | None) -> None:
        """Give the page what it missed; the group has given it the rest, since it is a member."""
        since = time.time() - LATELY if since is None else since
        try:
            events, complete = await history.read(self.channel_layer, self.room, since), True
        except (AmqpError, TimeoutError):
            events, complete = [], False
        await self.send_json(
            {"type": "missed", "events": [for_page(e) for e in events], "complete": complete}
        )

    async def say(self, key: str, text: str) -> None:
        """Send a line to everybody in the room, on whichever server process, and back here."""
        line = self.written("chat.line", key, text)
        await history.keep(self.channel_layer, line)
        await self.to_room(line)

    async def note(self, key: str, to: str, text: str) -> None:
        """Send a line to one person, in whichever windows, and back here. It is not kept."""
        if not await self.members(person_group(to)):
            await self.refuse("Nobody is within reach to read it.", key)
            return
        note = {**self.written("chat.note", key, text), "to": to}
        for person in {to, self.id}:
            await self.channel_layer.group_send(person_group(person), note)

    async def order(self, below: int) -> None:
        """Put a job where the next free worker takes it."""
        job = {"job": uuid.uuid4().hex, "room": self.room, "name": self.name, "below": below}
        try:
            await self.channel_layer.send(jobs.CHANNEL, {**job, "type": "count.primes"})
        except ChannelFull:
            await self.refuse("So many jobs wait already that RabbitMQ takes no more.")
        else:
            await self.to_room({**job, "type": "chat.job", "done": 0, "at": time.time()})

    # -- What arrives from the channel layer ---------------------------------------------------

    async def chat_here(self, event: Event) -> None:
        self.introduced.add(event["channel"])
        presence = {key: event[key] for key in ("id", "name", "port", "new")}
        await self.send_json({**presence, "type": "here", "socket": public_id(event["channel"])})

    async def chat_left(self, event: Event) -> None:
        self.introduced.discard(event["channel"])
        await self.send_json({"type": "left", "socket": public_id(event["channel"])})

    async def chat_who(self, event: Event) -> None:
        """Somebody's page does not know us yet."""
        if self.name:
            # Who cannot keep up is told at the next roll call.
            with contextlib.suppress(ChannelFull):
                await self.channel_layer.send(event["reply_to"], self.presence())

    async def chat_line(self, event: Event) -> None:
        await self.send_json(for_page(event))

    chat_note = chat_job = chat_line

    # -- Who is here ---------------------------------------------------------------------------

    async def call_the_roll(self) -> None:
        """Tell the page who is here, now and regularly: a process that dies says no goodbye."""
        while True:
            known = set(self.introduced)
            if here := await self.members(room_group(self.room)):
                self.introduced -= known - here  # whoever came meanwhile stays
                sockets = [public_id(channel) for channel in here | self.introduced]
                await self.send_json({"type": "present", "sockets": sockets})
            for stranger in here - self.introduced:
                with contextlib.suppress(ChannelFull):
                    await self.channel_layer.send(
                        stranger, {"type": "chat.who", "reply_to": self.channel_name}
                    )
            await asyncio.sleep(ROLL_CALL_EVERY)

    async def members(self, group: str) -> set[str]:
        """The channels in a group; none when RabbitMQ does not let processes ask each other."""
        try:
            found = set(await self.channel_layer.group_members(group, timeout=3))
        except NotAnswered:
            return set()
        # Without RabbitMQ only this process answers: that says nothing about the others.
        return found if self.channel_layer.statistics().connected else set()

    # -- What is sent --------------------------------------------------------------------------

    def presence(self) -> Event:
        return {
            "type": "chat.here",
            "channel": self.channel_name,
            "new": False,
            "id": self.id,
            "name": self.name,
            "port": self.port,
        }

    def written(self, kind: str, key: str, text: str) -> Event:
        return {
            "type": kind,
            "line": uuid.uuid4().hex,
            "room": self.room,
            "at": time.time(),
            "id": self.id,
            "name": self.name,
            "port": self.port,
            "key": key,
            "text": text,
        }

    async def to_room(self, event: Event) -> None:
        await self.channel_layer.group_send(room_group(self.room), event)

    async def refuse(self, why: str, key: str | None = None) -> None:
        await self.send_json({"type": "refused", "key": key, "why": why})


def room_group(room: str) -> str:
    return f"chat.room.{room}"


def person_group(person: str) -> str:
    return f"chat.person.{person}"


def for_page(event: Event) -> Event:
    return {**event, "type": event["type"].removeprefix("chat.")}
