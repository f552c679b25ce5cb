"""``manage.py rabbitmq_layer SUBCOMMAND``: look at a channel layer, and use it, from a shell.

docs/django.rst describes it. Exit status: 0 if it did what it was asked for, 1 if not, 2 for a
command line that is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import logging
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime

from channels.exceptions import ChannelFull, MessageTooLarge
from channels.layers import InvalidChannelLayerError, channel_layers
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...config.options import Options
from ...contrib.ping import Attempt, ping
from ...core import RabbitmqChannelLayer
from ...errors import NotAnswered
from ...layer.loop_layer import LoopLayer
from ...wire.names import require_group
from ...wire.serializers import BYTES_KEY

__all__ = ["Command"]

#: Whose log lines the command is about.
_PACKAGE = "channels_rabbitmq"

#: Channels' own default alias.
_DEFAULT = "default"

#: What the layer's methods raise where a command cannot be carried out, but for TimeoutError.
_FAILURES = (ChannelFull, MessageTooLarge, NotAnswered, TypeError, ValueError)

#: Seconds after which a connection that is not there is looked into: at most, and as a part of
#: ``send_timeout``.
_PATIENCE = 1.0
_PATIENCE_PART = 0.5
#: The part of what is left then that looking into all URLs may take.
_PING_PART = 0.8

#: Options that Django has before the subcommand, and that may stand after it too.
_DJANGO_OPTIONS = ("--settings", "--pythonpath")
_DJANGO_FLAGS = ("--traceback", "--no-color", "--force-color")


class Command(BaseCommand):
    """Looks at a channel layer on RabbitMQ, and uses it."""

    help = "Look at a channel layer on RabbitMQ, and use it."
    #: What is wrong with the layer, this says itself; anything else is no reason not to run.
    requires_system_checks: list[str] = []  # noqa: RUF012

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands; each has its own options."""
        subcommands = parser.add_subparsers(
            dest="subcommand", metavar="SUBCOMMAND", required=True, title="subcommands"
        )
        self._add(subcommands, "ping", "go the whole way to RabbitMQ and back, step by step")
        self._add(subcommands, "stats", "connect, and show the layer's statistics")
        members = self._add(subcommands, "members", "list the channels in a group")
        members.add_argument("group", metavar="GROUP")
        members.add_argument(
            "--timeout",
            type=_seconds,
            default=1.0,
            help="most seconds to wait for the answers of other processes (1)",
        )
        send = self._add(subcommands, "send", "send a message to a group")
        send.add_argument("group", metavar="GROUP")
        send.add_argument("message", metavar="JSON", type=_message, help="the message: an object")
        listen = self._add(subcommands, "listen", "show a group's messages until Ctrl-C")
        listen.add_argument("group", metavar="GROUP")

    def _add(
        self, subcommands: argparse._SubParsersAction[CommandParser], name: str, text: str
    ) -> CommandParser:
        parser = subcommands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        parser.add_argument(
            "--layer",
            metavar="ALIAS",
            default=_DEFAULT,
            help=f"which layer of CHANNEL_LAYERS ({_DEFAULT})",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            help="one message in JSON a line"
            if name == "listen"
            else "write one JSON document, and nothing else, to standard output",
        )
        for option in _DJANGO_OPTIONS:
            parser.add_argument(option, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        for flag in _DJANGO_FLAGS:
            parser.add_argument(
                flag, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )
        parser.add_argument(
            "-v", "--verbosity", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        return parser

    def handle(self, *args: object, **options: object) -> None:
        """Run a subcommand. Raises :class:`CommandError` where it fails."""
        subcommand = str(options["subcommand"])
        try:
            self._run(subcommand, options)
        except CommandError as err:
            # ping has written its document by then, and a listener's lines are messages.
            if options["json"] and subcommand not in ("ping", "listen"):
                self._write_json({"error": str(err)})
            raise
        except BrokenPipeError:
            # Whoever read the output has seen enough, as `head` does. Python would try to write
            # the rest as it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _run(self, subcommand: str, options: Mapping[str, object]) -> None:
        alias = str(options["layer"])
        as_json = bool(options["json"])
        try:
            layer = _find_layer(alias)
        except CommandError as err:
            if subcommand == "ping" and as_json:
                self._write_json({"layer": alias, "ok": False, "error": str(err), "attempts": []})
            raise
        if subcommand == "listen":
            _run_until_stopped(self._listen(layer, str(options["group"]), as_json))
            return
        with _quiet():
            if subcommand == "ping":
                asyncio.run(self._ping(alias, layer, as_json))
            elif subcommand == "stats":
                asyncio.run(self._stats(layer, as_json))
            elif subcommand == "members":
                group = str(options["group"])
                asyncio.run(self._members(layer, group, options["timeout"], as_json))
            else:
                asyncio.run(self._send(layer, str(options["group"]), options["message"], as_json))

    # The subcommands

    async def _ping(self, alias: str, layer: RabbitmqChannelLayer, as_json: bool) -> None:
        attempts = []
        async for attempt in ping(layer.options):
            attempts.append(attempt)
            if not as_json:
                self._write_attempt(attempt)
        failed = _all_failed(attempts)
        error = f"{failed[0].failed}: {failed[0].error}" if failed else None
        if as_json:
            steps = [_attempt_to_json(attempt) for attempt in attempts]
            ok = error is None
            self._write_json({"layer": alias, "ok": ok, "error": error, "attempts": steps})
        if error is not None:
            raise CommandError(error)

    def _write_attempt(self, attempt: Attempt) -> None:
        address = "" if attempt.address is None else f" ({attempt.address})"
        self.stdout.write(self.style.MIGRATE_HEADING(f"{attempt.url}{address}"))
        for step, seconds in attempt.timings:
            self.stdout.write(f"  {step:<14}{seconds * 1000:9.1f} ms")
        if attempt.failed is None:
            self.stdout.write(self.style.SUCCESS("  ok"))
        else:
            self.stdout.write(self.style.ERROR(f"  {attempt.failed:<14}   failed: {attempt.error}"))

    async def _stats(self, layer: RabbitmqChannelLayer, as_json: bool) -> None:
        async with _connected(layer):
            numbers: dict[str, object] = asdict(layer.statistics())
        if as_json:
            self._write_json(numbers)
            return
        for name, value in numbers.items():
            shown = json.dumps(value, default=dict) if isinstance(value, Mapping) else value
            self.stdout.write(f"{name:<20}{shown}")

    async def _members(
        self, layer: RabbitmqChannelLayer, group: str, timeout: object, as_json: bool
    ) -> None:
        seconds = timeout if isinstance(timeout, float) else 1.0
        async with _connected(layer):
            require_group(group)
            # What may be missing is an error here, where nobody reads the log.
            members = await layer._owner.run(LoopLayer.all_group_members, group, seconds)
        if as_json:
            self._write_json({"group": group, "members": members})
        for name in () if as_json else members:
            self.stdout.write(name)

    async def _send(
        self, layer: RabbitmqChannelLayer, group: str, message: object, as_json: bool
    ) -> None:
        if not isinstance(message, dict):
            raise CommandError("the message must be a JSON object")
        # Nobody reads the log of a command: what RabbitMQ did not take is to be an error.
        layer.options = replace(layer.options, group_send_raises=True)
        async with _connected(layer):
            await layer.group_send(group, message)
        if as_json:
            self._write_json({"group": group, "sent": True})

    async def _listen(self, layer: RabbitmqChannelLayer, group: str, as_json: bool) -> None:
        async with _connected(layer):
            channel = await layer.new_channel()
            await layer.group_add(group, channel)
            # Not to standard output: that has the messages.
            self.stderr.write(f"Listening to group {group}; Ctrl-C ends it", self.style.NOTICE)
            while True:
                text = json.dumps(to_json(await layer.receive(channel)), ensure_ascii=False)
                time = "" if as_json else f"{datetime.now():%H:%M:%S} "  # noqa: DTZ005
                self.stdout.write(f"{time}{text}")
                self.stdout.flush()

    def _write_json(self, document: object) -> None:
        self.stdout.write(json.dumps(to_json(document), indent=2))


# The layer


def _find_layer(alias: str) -> RabbitmqChannelLayer:
    if alias not in channel_layers:
        there = ", ".join(map(repr, channel_layers.configs)) or "none"
        raise CommandError(f"CHANNEL_LAYERS has no {alias!r}; there are: {there}")
    try:
        # One of the command's own, as it closes it: it may be called in a server's process.
        layer: object = channel_layers.make_backend(alias)
    except (ImproperlyConfigured, InvalidChannelLayerError) as err:
        raise CommandError(f"CHANNEL_LAYERS[{alias!r}]: {err}") from None
    if not isinstance(layer, RabbitmqChannelLayer):
        raise CommandError(
            f"CHANNEL_LAYERS[{alias!r}] is of class {type(layer).__name__}, no layer on RabbitMQ"
        )
    return layer


@contextlib.asynccontextmanager
async def _connected(layer: RabbitmqChannelLayer) -> AsyncIterator[None]:
    """Connect, within ``send_timeout``, and close the layer in the end.

    Raises :class:`CommandError` for what goes wrong within.
    """
    try:
        with _quiet():
            await _connect(layer)
        try:
            yield
        except _FAILURES as err:
            raise CommandError(str(err)) from None
    finally:
        await layer.close()


async def _connect(layer: RabbitmqChannelLayer) -> None:
    """Wait for the connection; where it does not come soon, find out why and give up."""

    async def wait() -> None:
        await layer.current_connection

    timeout = layer.options.send_timeout
    patience = min(_PATIENCE, _PATIENCE_PART * timeout)
    failed: list[Attempt] = []
    connecting = asyncio.create_task(wait())
    try:
        async with asyncio.timeout(timeout):
            await asyncio.wait({connecting}, timeout=patience)
            if not connecting.done():
                failed = await _find_out(layer.options, timeout - patience)
                if failed and not connecting.done():
                    raise CommandError(_why(failed))
            await connecting
    except TimeoutError:
        late = f"no connection to RabbitMQ within send_timeout ({timeout:g} s)"
        addresses = ", ".join(map(str, layer.options.endpoints))
        raise CommandError(f"{late}: {addresses}") from None
    finally:
        connecting.cancel()


async def _find_out(options: Options, seconds: float) -> list[Attempt]:
    """Try every address; give the attempts if all of them failed."""
    most = _PING_PART * seconds / len(options.endpoints)
    hasty = [
        replace(endpoint, connect_timeout=min(endpoint.connect_timeout, most))
        for endpoint in options.endpoints
    ]
    pinged = replace(options, endpoints=tuple(hasty), send_timeout=min(options.send_timeout, most))
    return _all_failed([attempt async for attempt in ping(pinged)])


def _all_failed(attempts: list[Attempt]) -> list[Attempt]:
    """The attempts, if every one failed: the layer itself needs one address that works."""
    return [] if any(attempt.failed is None for attempt in attempts) else attempts


def _why(failed: Sequence[Attempt]) -> str:
    """Each address, the step that failed there, and the error."""
    return "; ".join(f"{attempt.url}: {attempt.failed}: {attempt.error}" for attempt in failed)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave warnings out of the log: what they tell is in the error of the command."""
    logger = logging.getLogger(_PACKAGE)
    level = logger.level
    logger.setLevel(max(logger.getEffectiveLevel(), logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)


def _run_until_stopped(work: Awaitable[None]) -> None:
    """Run until Ctrl-C or SIGTERM, which are how it is to end."""

    async def run() -> None:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        # Not on Windows, nor where the command was called in another thread.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGTERM, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


# Values


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError("must be a number of seconds, more than 0")
    return seconds


def _message(text: str) -> dict[str, object]:
    try:
        value = json.loads(text, object_hook=_object, parse_constant=_refuse_constant)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"is no JSON: {err}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError('must be an object, such as {"type": "chat.line"}')
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is none of its numbers")


def _object(found: dict[str, object]) -> object:
    """An object of JSON; bytes, if it is what :func:`to_json` makes of bytes."""
    if BYTES_KEY not in found:
        return found
    value = found[BYTES_KEY]
    if len(found) == 1 and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return base64.b64decode(value, validate=True)
    raise ValueError(f"{BYTES_KEY!r} is a key alone, with base64")


def _attempt_to_json(attempt: Attempt) -> dict[str, object]:
    steps = [{"step": str(step), "seconds": seconds} for step, seconds in attempt.timings]
    return {**asdict(attempt), "timings": steps}


def to_json(value: object) -> object:
    """The nearest that JSON has to a value: bytes as with ``serializer_format="json"``."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, bytes):
        return {BYTES_KEY: base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)
