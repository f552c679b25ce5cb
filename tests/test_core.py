"""The layer's methods where RabbitMQ is away: what they refuse before they need it, and how."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from types import MappingProxyType
from typing import Any

import pytest
from channels.exceptions import MessageTooLarge, StopConsumer
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from channels_rabbitmq.core import RabbitmqChannelLayer, get_layer
from channels_rabbitmq.errors import (
    ChannelClosed,
    ConnectionClosed,
    LoopEnded,
    NotConnected,
    ServerSentNack,
)
from tests.helpers.waiting import until

AWAY = "amqp://127.0.0.1:1"
BACKEND = "channels_rabbitmq.core.RabbitmqChannelLayer"

#: A call of a method, ready to be awaited.
Call = Callable[[RabbitmqChannelLayer], Coroutine[Any, Any, object]]


@pytest.fixture(autouse=True)
def _no_warnings_of_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "channels_rabbitmq.broker")


@pytest.fixture
async def layer() -> AsyncIterator[RabbitmqChannelLayer]:
    """A layer whose RabbitMQ is away, closed afterwards."""
    layer = RabbitmqChannelLayer(AWAY, send_timeout=0.1, max_message_size=200)
    yield layer
    await layer.close()


def unused(layer: RabbitmqChannelLayer) -> bool:
    """Whether nothing was begun: no connection, no thread."""
    return repr(layer) == (f"<RabbitmqChannelLayer {layer.connection_name} <Owner unowned, None>>")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        pytest.param(lambda layer: layer.send("no name", {}), TypeError, id="send: name"),
        pytest.param(lambda layer: layer.send(1, {}), TypeError, id="send: not a str"),
        pytest.param(lambda layer: layer.send("jobs", ["n"]), TypeError, id="send: a list"),
        pytest.param(lambda layer: layer.send("jobs", {1: 2}), TypeError, id="send: a key"),
        pytest.param(lambda layer: layer.send("jobs", {"n": 2**70}), ValueError, id="send: int"),
        pytest.param(
            lambda layer: layer.send("jobs", {"text": "x" * 200}), MessageTooLarge, id="send: size"
        ),
        pytest.param(lambda layer: layer.receive("no name"), TypeError, id="receive: name"),
        pytest.param(lambda layer: layer.receive("other!x"), ValueError, id="receive: another's"),
        pytest.param(lambda layer: layer.receive_many(["no name"]), TypeError, id="many: name"),
        pytest.param(lambda layer: layer.receive_many(["other!x"]), ValueError, id="many: other's"),
        pytest.param(lambda layer: layer.receive_many([], block=True), ValueError, id="many: none"),
        pytest.param(lambda layer: layer.receive_many_blocking([]), ValueError, id="blocking"),
        pytest.param(lambda layer: layer.group_add("no name", "a!b"), TypeError, id="add: group"),
        pytest.param(
            lambda layer: layer.group_add("room", "no name"), TypeError, id="add: channel"
        ),
        pytest.param(lambda layer: layer.group_discard("a!b", "a!b"), TypeError, id="discard"),
        pytest.param(lambda layer: layer.group_discard("room", "!"), TypeError, id="discard: name"),
        pytest.param(lambda layer: layer.group_send("no name", {}), TypeError, id="group_send"),
        pytest.param(
            lambda layer: layer.group_send("room", None), TypeError, id="group_send: None"
        ),
        pytest.param(lambda layer: layer.group_members("no name"), TypeError, id="members"),
        pytest.param(lambda layer: layer.group_members("r", timeout=-1), ValueError, id="timeout"),
        pytest.param(lambda layer: layer.group_members("r", timeout="1"), ValueError, id="text"),
    ],
)
async def test_arguments_are_checked_first(
    layer: RabbitmqChannelLayer, call: Call, error: type[Exception]
) -> None:
    """A wrong argument raises at once, and nothing is begun for it."""
    with pytest.raises(error):
        await call(layer)
    assert unused(layer)


async def test_nothing_to_receive_from(layer: RabbitmqChannelLayer) -> None:
    """Of no channels, none has a message."""
    assert await layer.receive_many([]) == (None, None)
    assert unused(layer)


async def test_new_channels(layer: RabbitmqChannelLayer) -> None:
    """A new channel is a name of the process's queue, made without I/O."""
    first, second = await layer.new_channel(), await layer.new_channel("ignored")
    assert first != second
    assert first.startswith(f"{layer.queue_name}!")
    assert unused(layer)


async def test_rabbitmq_is_away(layer: RabbitmqChannelLayer) -> None:
    """send() says so after send_timeout, naming that; any kind of mapping may be sent."""
    with pytest.raises(NotConnected, match=r"no connection within send_timeout \(0.1 s\)"):
        await layer.send(await layer.new_channel(), MappingProxyType({"n": 1}))
    with pytest.raises(NotConnected):
        await layer.send("jobs", {"n": 1})


@pytest.mark.parametrize(
    ("error", "raised", "warning"),
    [
        pytest.param(
            ServerSentNack(),
            "Queue channels_a is full (remote_capacity 100), or not reached",
            "Message to group room not taken for at least one process: its queue is full "
            "(remote_capacity 100), or not reached",
            id="full",
        ),
        pytest.param(
            NotConnected("RabbitMQ takes no messages: an alarm"),
            "RabbitMQ takes no messages: an alarm",
            "Message to group room dropped: RabbitMQ takes no messages: an alarm",
            id="alarm",
        ),
        pytest.param(
            NotConnected("RabbitMQ did not confirm the message", sent=True),
            "RabbitMQ did not confirm the message",
            "Message to group room not confirmed: RabbitMQ did not confirm the message",
            id="late",
        ),
        pytest.param(
            TimeoutError(),
            "RabbitMQ is away: no connection within send_timeout (0.1 s)",
            "Message to group room dropped: RabbitMQ is away: no connection within send_timeout "
            "(0.1 s)",
            id="away",
        ),
        pytest.param(
            ConnectionClosed("reset"),
            "the connection to RabbitMQ ended meanwhile",
            "Message to group room not confirmed: the connection to RabbitMQ ended meanwhile",
            id="lost",
        ),
        pytest.param(
            ChannelClosed("none is free"),
            "the connection to RabbitMQ ended meanwhile",
            "Message to group room dropped: the connection to RabbitMQ ended meanwhile",
            id="channel",
        ),
        pytest.param(
            LoopEnded(started=True),
            "the event loop of the connection ended meanwhile",
            "Message to group room not confirmed: the event loop of the connection ended meanwhile",
            id="loop",
        ),
    ],
)
async def test_why_a_message_was_not_taken(
    layer: RabbitmqChannelLayer,
    error: Exception,
    raised: str,
    warning: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """send() raises a ChannelFull that says it; group_send() warns and raises nothing."""

    async def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(layer._owner, "run", refuse)
    with pytest.raises(layer.ChannelFull) as caught:
        await layer.send("channels_a!b", {"n": 1})
    assert str(caught.value) == raised
    assert isinstance(caught.value, NotConnected) != isinstance(error, ServerSentNack)
    with caplog.at_level(logging.WARNING, "channels_rabbitmq.core"):
        await layer.group_send("room", {"n": 1})
    assert caplog.messages == [f"[{layer.connection_name}] {warning}"]


@pytest.mark.parametrize(
    ("error", "sent"),
    [(TimeoutError(), False), (ConnectionClosed(), True), (LoopEnded(started=False), False)],
)
async def test_group_send_raises(
    error: Exception, sent: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the option, only a queue that took no message is left to a warning."""
    layer = RabbitmqChannelLayer(AWAY, group_send_raises=True)
    errors = iter([ServerSentNack(), error])

    async def refuse(*args: object, **kwargs: object) -> None:
        raise next(errors)

    monkeypatch.setattr(layer._owner, "run", refuse)
    with caplog.at_level(logging.WARNING, "channels_rabbitmq.core"):
        await layer.group_send("room", {"n": 1})
    assert "not taken for at least one process" in caplog.text
    with pytest.raises(NotConnected) as caught:
        await layer.group_send("room", {"n": 1})
    assert caught.value.sent is sent


@pytest.mark.slow
async def test_many_calls_in_an_outage() -> None:
    """20,000 calls that wait together end together, and leave nothing behind."""
    layer = RabbitmqChannelLayer(AWAY, send_timeout=1)
    channel = await layer.new_channel()

    async def send(count: int) -> None:
        results = await asyncio.gather(
            *(layer.send(channel, {"n": n}) for n in range(count)), return_exceptions=True
        )
        assert {type(result) for result in results} == {NotConnected}

    running = asyncio.create_task(send(20_000))
    await until(lambda: len(asyncio.all_tasks()) > 20_000)
    during = len(gc.get_objects())
    await running
    await asyncio.sleep(0)
    gc.collect()
    assert len(asyncio.all_tasks()) < 10
    assert len(gc.get_objects()) < during - 100_000
    left = len(gc.get_objects())
    await send(1000)
    await asyncio.sleep(0)
    gc.collect()
    assert len(gc.get_objects()) < left + 1000
    await layer.close()


async def test_the_connection_is_lazy(layer: RabbitmqChannelLayer) -> None:
    """Asking for current_connection without awaiting it begins nothing and leaves nothing."""
    layer.current_connection  # noqa: B018
    await asyncio.sleep(0)
    assert unused(layer)
    assert len(asyncio.all_tasks()) == 1


async def test_carehare_connection_is_a_future(layer: RabbitmqChannelLayer) -> None:
    """It serves where a future is expected; an error that nobody asks for causes no warning."""
    future = layer.carehare_connection
    assert isinstance(future, asyncio.Future)
    done, pending = await asyncio.wait({future}, timeout=0.01)
    assert (done, pending) == (set(), {future})
    await layer.close()
    await asyncio.wait({future}, timeout=5)
    assert isinstance(future.exception(), StopConsumer)
    unasked = layer.carehare_connection
    await until(unasked.done)
    del future, unasked  # asyncio would log now, and pytest fail


def test_carehare_connection_needs_a_loop() -> None:
    """Where no loop runs, there can be no future."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        RabbitmqChannelLayer(AWAY).carehare_connection  # noqa: B018


def test_get_layer() -> None:
    """It gives Channels' own object for the alias."""
    layers = {
        "default": {"BACKEND": BACKEND, "CONFIG": {"host": AWAY}},
        "other": {"BACKEND": BACKEND, "CONFIG": {"host": AWAY, "prefix": "other"}},
    }
    with override_settings(CHANNEL_LAYERS=layers):
        assert get_layer() is get_layer("default")
        assert get_layer("other").options.prefix == "other"


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ({}, r"CHANNEL_LAYERS\['chat'\] is missing; its BACKEND must be 'channels_rabbitmq\.core"),
        (
            {"chat": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
            r"CHANNEL_LAYERS\['chat'\] is of class InMemoryChannelLayer; its BACKEND must be '",
        ),
    ],
    ids=["missing", "another backend"],
)
def test_get_layer_finds_none(layers: dict[str, object], text: str) -> None:
    """It says which alias has no layer of ours, and what is to be written there."""
    with (
        override_settings(CHANNEL_LAYERS=layers),
        pytest.raises(ImproperlyConfigured, match=text),
    ):
        get_layer("chat")
