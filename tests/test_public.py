"""The public modules say what is public, and that is all that the documentation names."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import channels_rabbitmq
import channels_rabbitmq.broadcaster
import channels_rabbitmq.connection
import channels_rabbitmq.core
import channels_rabbitmq.errors
import channels_rabbitmq.events
import channels_rabbitmq.statistics
import channels_rabbitmq.testing

PUBLIC = (
    channels_rabbitmq.broadcaster,
    channels_rabbitmq.connection,
    channels_rabbitmq.core,
    channels_rabbitmq.errors,
    channels_rabbitmq.events,
    channels_rabbitmq.statistics,
    channels_rabbitmq.testing,
)

#: What users of version 5.0 may rely on. Adding a name is a feature; removing one breaks programs.
NAMES = {
    "channels_rabbitmq.broadcaster": {"OutboxEvent", "RabbitmqBackend", "register"},
    "channels_rabbitmq.connection": {"Connection", "Consumer", "MessageProperties"},
    "channels_rabbitmq.core": {"Config", "RabbitmqChannelLayer", "get_layer"},
    "channels_rabbitmq.errors": {
        "AccessRefused",
        "AmqpError",
        "BadBytesFromServer",
        "ChannelClosed",
        "ChannelClosedByServer",
        "ConnectionClosed",
        "ConnectionClosedByHeartbeatMonitor",
        "ConnectionClosedByServer",
        "IllegalTransition",
        "LoopEnded",
        "MessageReturned",
        "NotAnswered",
        "NotConnected",
        "NotFound",
        "PreconditionFailed",
        "RabbitmqError",
        "ResourceLocked",
        "ServerSentNack",
    },
    "channels_rabbitmq.events": {"Event", "EventKind"},
    "channels_rabbitmq.statistics": {"Statistics"},
    "channels_rabbitmq.testing": {"IsolatedLayer", "wait_for_group"},
}


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_all_names_are_there(module: ModuleType) -> None:
    """``__all__`` has the names that users rely on, in order, each with a docstring."""
    names = module.__all__
    assert NAMES[module.__name__] <= set(names)
    assert names == sorted(names)
    for name in names:
        assert inspect.getdoc(getattr(module, name)), name


def test_every_public_module_has_all() -> None:
    """Of the modules beside the folders, those with ``__all__`` are the public ones."""
    found = {
        info.name
        for info in pkgutil.iter_modules(channels_rabbitmq.__path__)
        if not info.ispkg
        and hasattr(importlib.import_module(f"channels_rabbitmq.{info.name}"), "__all__")
    }
    assert found == {name.rpartition(".")[2] for name in NAMES}


def test_few_modules_stand_beside_the_folders() -> None:
    """At most eight, without Django's own: what is not public belongs into a folder."""
    modules = {info.name for info in pkgutil.iter_modules(channels_rabbitmq.__path__)}
    modules -= {
        info.name for info in pkgutil.iter_modules(channels_rabbitmq.__path__) if info.ispkg
    }
    assert len(modules - {"apps", "checks"}) <= 8
