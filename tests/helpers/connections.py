"""Connections of the engine to a real broker."""

from __future__ import annotations

import asyncio
import dataclasses

from channels_rabbitmq.amqp.endpoint import Endpoint
from channels_rabbitmq.amqp.protocol import Protocol
from channels_rabbitmq.config.options import Options
from channels_rabbitmq.connection import Connection


def connection_to(
    url: str, config: dict[str, object] | None = None, **changes: object
) -> Connection:
    """A connection, not connected yet, to where a layer with this URL and CONFIG would connect.

    ``changes`` are to the endpoint.
    """
    (endpoint,) = Options.from_config({"host": url} | (config or {})).endpoints
    return to_endpoint(dataclasses.replace(endpoint, **changes))  # type: ignore[arg-type]


def to_endpoint(endpoint: Endpoint) -> Connection:
    """A connection, not connected yet, to an endpoint."""
    return Connection(Protocol(endpoint, asyncio.get_running_loop()), None)
