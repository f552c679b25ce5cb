"""The servers that the layers need: private ones, from the system's packages."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from devtools import servers
from devtools.broker import Broker
from devtools.servers import NatsServer, PostgresServer, RedisServer


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    version: str


@contextlib.contextmanager
def _rabbitmq() -> Iterator[Server]:
    with Broker.start() as broker:
        yield Server(broker.plain_port, broker.ctl("version").strip())


@contextlib.contextmanager
def _other(make: Callable[[], servers.Server]) -> Iterator[Server]:
    with make() as server:
        yield Server(server.port, server.version)


#: By name, how to start each; it raises ``ServerError`` if it is not there or does not start.
SERVERS: Mapping[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
    "RabbitMQ": _rabbitmq,
    "Redis": partial(_other, RedisServer.start),
    "PostgreSQL": partial(_other, PostgresServer.start),
    "NATS": partial(_other, NatsServer.start),
}
