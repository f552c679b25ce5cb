"""The one tree of errors, and the one function that tells retryable from fatal."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import socket
import ssl

import pytest
from channels.exceptions import ChannelFull

import channels_rabbitmq
from channels_rabbitmq import errors
from channels_rabbitmq.errors import (
    BadBytesFromServer,
    ChannelClosed,
    ConnectionClosed,
    ConnectionClosedByHeartbeatMonitor,
    ConnectionClosedByServer,
    IllegalTransition,
    LoopEnded,
    MessageReturned,
    NotAnswered,
    NotConnected,
    NotFound,
    RabbitmqError,
    ServerSentNack,
    is_retryable,
)


def _tree_in_docstring() -> dict[str, str]:
    """Each class that the docstring's tree has, and its parent's name."""
    tree: dict[str, str] = {}
    parents = [""]
    _, _, drawing = (errors.__doc__ or "").partition("    RabbitmqError")
    for line in ("    RabbitmqError" + drawing.partition("\n\n")[0]).splitlines():
        depth = (len(line) - len(line.lstrip())) // 4
        if depth > 8:
            continue  # the second line of a meaning
        name = line.split()[0]
        del parents[depth:]
        tree[name] = parents[-1]
        parents.append(name)
    return tree


def _subclasses(kind: type) -> set[type]:
    return {kind}.union(*(_subclasses(sub) for sub in kind.__subclasses__()))


def test_docstring_has_whole_tree() -> None:
    """The tree in the docstring is the tree of classes: none is missing, none has moved."""
    for module in pkgutil.walk_packages(channels_rabbitmq.__path__, "channels_rabbitmq."):
        importlib.import_module(module.name)

    real = {
        kind.__name__: "" if kind is RabbitmqError else kind.__bases__[0].__name__
        for kind in _subclasses(RabbitmqError)
        if kind.__module__.startswith("channels_rabbitmq.")
    }
    assert _tree_in_docstring() == real


def test_module_exports_its_tree() -> None:
    """Whatever can be caught can be imported from here."""
    assert set(errors.__all__) <= set(vars(errors))
    assert set(errors.__all__) >= {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, RabbitmqError)
    }


def test_not_connected_is_channel_full() -> None:
    """Handlers of ChannelFull serve when RabbitMQ is away."""
    assert issubclass(NotConnected, ChannelFull)


def test_not_connected_tells_whether_it_was_sent() -> None:
    """It does so across processes too, as where a task's result is an exception."""
    assert not NotConnected("away").sent
    late = pickle.loads(pickle.dumps(NotConnected("not confirmed", sent=True)))
    assert late.sent
    assert str(late) == "not confirmed"


def test_not_answered_is_timeout_error() -> None:
    """Handlers of TimeoutError serve when another process is silent."""
    assert issubclass(NotAnswered, TimeoutError)


def test_message_returned_is_a_nack() -> None:
    """Handlers of ServerSentNack serve for a message that came back."""
    assert issubclass(MessageReturned, ServerSentNack)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        ssl.SSLError(),
        socket.gaierror(),
        BadBytesFromServer(),
        ChannelClosed(),
        ConnectionClosed(),
        ConnectionClosedByHeartbeatMonitor(),
        ConnectionClosedByServer(320, "CONNECTION_FORCED"),
        NotFound(404, "NOT_FOUND"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_connection_errors_are_retryable(error: Exception) -> None:
    """Connecting again answers the end of a connection, and a failed attempt."""
    assert is_retryable(error)


@pytest.mark.parametrize(
    "error",
    [
        ServerSentNack(),
        MessageReturned(),
        NotConnected(),
        NotAnswered(),
        LoopEnded(started=True),
        IllegalTransition(),
        TypeError(),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_fatal(error: BaseException) -> None:
    """A refused message, a time that is over, or a bug is no reason to connect again."""
    assert not is_retryable(error)
