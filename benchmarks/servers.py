"""The servers of all layers, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from devtools.broker import Broker
from devtools.process import PrivateProcess
from devtools.servers import NatsServer, PostgresServer, RedisServer

#: How to start each; it raises ``ServerError`` if it is not there or does not start.
SERVERS: Mapping[str, Callable[[], PrivateProcess]] = {
    "RabbitMQ": Broker.start,
    "Redis": RedisServer.start,
    "PostgreSQL": PostgresServer.start,
    "NATS": NatsServer.start,
}
