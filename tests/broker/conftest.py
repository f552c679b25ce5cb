"""Fixtures of the tests of ``broker/``: a RabbitMQ in miniature, and delays that suit it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from channels_rabbitmq.broker import bindings, recovery
from channels_rabbitmq.local import contention

from .fake_rabbit import FakeRabbit, running


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect again at once."""
    monkeypatch.setattr(recovery, "FIRST_DELAY", 0.01)


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unbind at once after the last member; ``test_bindings.py`` has what lingers."""
    monkeypatch.setattr(bindings, "LINGER", 0.0)


@pytest.fixture
def rabbit() -> FakeRabbit:
    """What the server has, and how it misbehaves."""
    return FakeRabbit()


@pytest.fixture
async def port(rabbit: FakeRabbit) -> AsyncIterator[int]:
    """The port of the running server."""
    async with running(rabbit) as number:
        yield number


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is overdue, however long a test keeps it, but where the test says otherwise."""
    monkeypatch.setattr(contention, "LEAST_PATIENCE", 600.0)
