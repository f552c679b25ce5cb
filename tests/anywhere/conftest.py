"""Fixtures for tests that run processes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.helpers.proxy import Proxy


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    """A hop before this test's RabbitMQ that counts connections."""
    async with Proxy(amqp_url) as proxy:
        yield proxy
