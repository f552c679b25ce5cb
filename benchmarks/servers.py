"""The servers of all layers, by name, and the wait until one has nothing left to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from devtools.broker import Broker
from devtools.process import PrivateProcess
from devtools.servers import NatsServer, PostgresServer, RedisServer

from .checks import processor_time

#: How to start each; it raises ``ServerError`` if it is not there or does not start.
SERVERS: Mapping[str, Callable[[], PrivateProcess]] = {
    "RabbitMQ": Broker.start,
    "Redis": RedisServer.start,
    "PostgreSQL": PostgresServer.start,
    "NATS": NatsServer.start,
}

#: A server is quiet if it used less than a part of a processor in some intervals in a row.
INTERVAL, IN_A_ROW, PART = 0.1, 3, 0.1


def settle(server: PrivateProcess, patience: float = 60.0) -> bool:
    """Wait until a server is quiet; return False if it was not within ``patience`` seconds.

    RabbitMQ deletes a queue with thousands of bindings for seconds after its process has ended.
    Whoever binds on 3.10 meanwhile is slowed down, and makes that take longer; on 4.3 all binds
    wait for it. So nothing is asked of the server here: that would disturb it.
    """
    deadline = time.monotonic() + patience
    quiet = 0
    while quiet < IN_A_ROW:
        if time.monotonic() > deadline:
            return False
        before, began = processor_time(server.pid), time.monotonic()
        time.sleep(INTERVAL)
        used = processor_time(server.pid) - before
        quiet = quiet + 1 if used < PART * (time.monotonic() - began) else 0
    return True
