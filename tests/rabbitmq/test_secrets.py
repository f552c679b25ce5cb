"""No password, key or passphrase gets out: not in logs, errors, tracebacks, reprs or pickles."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import sys
import traceback
import types
import urllib.parse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from channels.exceptions import MessageTooLarge
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.views.debug import ExceptionReporter, get_default_exception_reporter_filter

from channels_rabbitmq.config.options import Options
from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotConnected
from channels_rabbitmq.testing import IsolatedLayer
from devtools.broker import Broker
from tests.helpers.pages import snippet
from tests.helpers.rabbit import MakeLayer, close_connections
from tests.helpers.scripted import ScriptedServer, serve
from tests.helpers.waiting import until

USER, PASSWORD, KEY, PHRASE = "Zw9user", "Zw9pass", "Zw9key", "Zw9phrase"
MARK = "Zw9"
BACKEND = "channels_rabbitmq.core.RabbitmqChannelLayer"
KEYS: dict[str, Any] = {"symmetric_encryption_keys": [KEY, f"{KEY}2"]}


def shown(error: BaseException) -> str:
    """All that an error tracker shows of an error: the local variables of our frames too."""
    seen: list[str] = []
    done: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in done:
            continue
        done.add(id(one))
        todo += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
        seen += [repr(one), str(one), repr(vars(one))]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if f"{Path('channels_rabbitmq')}/" in frame.f_code.co_filename:
                seen.append(repr(frame.f_locals))
    return "\n".join(seen)


@pytest.fixture
async def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that is logged, by asyncio as well."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    return caplog


def assert_nothing_shows(log: pytest.LogCaptureFixture) -> None:
    """No mark is in the log, its records' arguments and errors included."""
    assert MARK not in log.text
    for record in log.records:
        assert MARK not in repr(vars(record))
        if record.exc_info and record.exc_info[1]:
            assert MARK not in shown(record.exc_info[1])


async def refuse(peer: ScriptedServer) -> None:
    """Hang up, as RabbitMQ does over a wrong password."""
    await peer.start()
    await peer.read()
    peer.writer.close()


@pytest.mark.parametrize(
    "change",
    [
        {"host": f"amqp://{USER}:{PASSWORD}@host:port"},
        {"host": f"amqp://{USER}:{PASSWORD}%zz@host"},
        {"host": f"amqp://{USER}:{PASSWORD}/x@host"},
        {"host": f"amqp://{USER}:[{PASSWORD}]@host"},
        {"host": [f"amqp://{USER}:{PASSWORD}@host?no={MARK}=1"]},
        {"host": f"http://{USER}:{PASSWORD}@host"},
        {"host": f"amqps://{USER}:{PASSWORD}@host?certfile=/no/file&password={PHRASE}"},
        {"symmetric_encryption_keys": KEY},
        {"symmetric_encryption_keys": [KEY, 1]},
        {"expiry": -1},
        {"serializer_format": "no.such.module"},
    ],
)
def test_refused_options(change: dict[str, object]) -> None:
    """Only the name of the option is told."""
    config = {"host": f"amqp://{USER}:{PASSWORD}@host", **KEYS, **change}
    with pytest.raises(ImproperlyConfigured) as raised:
        RabbitmqChannelLayer(**config)
    if "no=" not in str(change):
        assert MARK not in shown(raised.value)


@pytest.mark.parametrize(
    ("alias", "change"),
    [("default", {}), ("default", {"expiri": 5}), ("wrong", {}), ("missing", {}), ("none", {})],
)
def test_isolated_layers(alias: str, change: dict[str, object]) -> None:
    """A layer for a test that cannot be made tells as little, and so does its context."""
    config: dict[str, Any] = {"host": f"amqp://{USER}:{PASSWORD}@host", **KEYS}
    layers = {
        "default": {"BACKEND": BACKEND, "CONFIG": config},
        "wrong": {"BACKEND": BACKEND, "CONFIG": {**config, "expiry": -1}},
        "missing": {"BACKEND": "no.such.Layer", "CONFIG": config},
    }
    isolated = IsolatedLayer(alias, **{**config, **change})
    assert MARK not in repr(vars(isolated))
    with override_settings(CHANNEL_LAYERS=layers):
        if (alias, change) == ("default", {}):
            with isolated as layer:
                assert layer.options.endpoints[0].password == PASSWORD
        else:
            with pytest.raises(ImproperlyConfigured) as raised:
                isolated.__enter__()
            assert MARK not in shown(raised.value)
    assert MARK not in repr(vars(isolated))


def pages_of_an_error() -> str:
    """What Django shows of a layer that cannot be made, on its debug page and in its mail."""
    url = f"amqp://{USER}:{PASSWORD}@rabbit.example.com"
    layers = {"default": {"BACKEND": BACKEND, "CONFIG": {"host": [url], "expiri": 5}}}
    outbox = {"default": {"BACKEND": "any", "OPTIONS": {"url": url}}}
    with override_settings(CHANNEL_LAYERS=layers, OUTBOX_PUBLISHERS=outbox):
        try:
            get_channel_layer()
        except ImproperlyConfigured:
            reporter = ExceptionReporter(None, *sys.exc_info())
            return reporter.get_traceback_html() + reporter.get_traceback_text()
    raise AssertionError("the layer was made")


def test_pages_of_django(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the documented filter Django shows no URL of the settings; without it, it does."""
    module = types.ModuleType("mysite_debug")
    exec(snippet("docs/deploying.rst", "deploying-debug-pages"), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert PASSWORD in pages_of_an_error()
    get_default_exception_reporter_filter.cache_clear()
    with override_settings(DEFAULT_EXCEPTION_REPORTER_FILTER="mysite_debug.UrlFilter"):
        shown = pages_of_an_error()
    get_default_exception_reporter_filter.cache_clear()
    assert MARK not in shown
    assert "expiri" in shown


def test_nothing_keeps_the_url() -> None:
    """The URL is in none of the caches of ``urllib.parse``, which live as long as the process."""
    caches = [made for made in vars(urllib.parse).values() if hasattr(made, "cache_info")]
    before = [cache.cache_info()[:2] for cache in caches]
    Options.from_config({"host": f"amqp://{USER}:{PASSWORD}%41@host/vhost?heartbeat=5"})
    assert caches
    assert [cache.cache_info()[:2] for cache in caches] == before


@pytest.mark.slow
async def test_outages(log: pytest.LogCaptureFixture) -> None:
    """A server that hangs up, and none at all: each error, log line and repr is clean."""
    async with serve(refuse) as port:
        layer = RabbitmqChannelLayer(
            f"amqp://{USER}:{PASSWORD}@127.0.0.1:{port}", send_timeout=0.2, **KEYS
        )
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: layer.send("channels_a!b", {"n": 1}),
            lambda: layer.send("jobs", {"n": 1}),
            layer.flush,
        ]
        for call in calls:
            with pytest.raises(NotConnected) as raised:
                await call()
            assert MARK not in shown(raised.value)
        await layer.group_send("g", {"n": 1})
        await until(lambda: "Cannot connect to RabbitMQ" in log.text)
        assert MARK not in repr(layer)
        assert MARK not in repr(vars(layer))
        assert MARK not in repr(layer.options)
        for task in asyncio.all_tasks():
            assert MARK not in repr(task)
        await layer.close()
    assert_nothing_shows(log)


async def test_a_session(
    make_layer: MakeLayer, broker: Broker, vhost: str, log: pytest.LogCaptureFixture
) -> None:
    """Working, being cut off, and closing log nothing of what the layer was made with."""
    await asyncio.to_thread(broker.ctl, "add_user", USER, PASSWORD)
    try:
        await asyncio.to_thread(
            broker.ctl, "set_permissions", "--vhost", vhost, USER, ".*", ".*", ".*"
        )
        host = f"amqp://{USER}:{PASSWORD}@127.0.0.1:{broker.port}/{vhost}"
        layer, wrong = (
            make_layer(host=host, **KEYS),
            make_layer(host=host.replace(PASSWORD, f"{MARK}wrong"), send_timeout=0.5, **KEYS),
        )
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await layer.group_send("g", {"n": 1})
        assert await layer.receive(channel) == {"n": 1}
        with pytest.raises(NotConnected) as raised:
            await wrong.send(channel, {"n": 1})
        assert MARK not in shown(raised.value)
        await close_connections(broker, vhost)
        await until(lambda: "Lost RabbitMQ" in log.text)
        await layer.send(channel, {"n": 2})
        await layer.close()
    finally:
        await asyncio.to_thread(broker.ctl, "delete_user", USER)
    # RabbitMQ's own reason may name the user; nobody names a password or a key.
    text = log.text.replace(USER, "")
    assert MARK not in text


@pytest.mark.parametrize(
    "message",
    [
        {MARK: 2**70},
        {"a": f"{MARK}\udc00"},
        {"a": [MARK, {1: MARK}]},
        {"a": [MARK, object()]},
        {"a": MARK, 1: MARK},
        {"a": MARK * 10_000},
        {"a": MARK},
    ],
)
@pytest.mark.parametrize("form", ["msgpack", "json"])
async def test_payloads(message: dict[Any, Any], form: str) -> None:
    """No message shows in an error, nor in a variable of our frames, from whichever call."""
    layer = RabbitmqChannelLayer(
        "amqp://127.0.0.1:1",
        send_timeout=0.05,
        max_message_size=10_000,
        group_send_raises=True,
        serializer_format=form,
    )
    for call in (
        layer.send("channels_a!b", message),
        layer.send("jobs", message),
        layer.group_send("g", message),
    ):
        with pytest.raises((TypeError, ValueError, MessageTooLarge, NotConnected)) as raised:
            await call
        assert MARK not in shown(raised.value)
    await layer.close()


@pytest.mark.parametrize("what", ["options", "endpoint", "layer"])
def test_pickles(what: str) -> None:
    """What holds a secret cannot be pickled, nor copied."""
    layer = RabbitmqChannelLayer(f"amqp://{USER}:{PASSWORD}@host", **KEYS)
    thing: object = layer
    if what != "layer":
        thing = layer.options if what == "options" else layer.options.endpoints[0]
    with pytest.raises(TypeError):
        pickle.dumps(thing)
    if what != "layer":
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copy.copy(thing)
