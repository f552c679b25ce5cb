"""Which layers are compared, and how each is configured.

All have the same capacities where they have any: 100,000 messages stored, as many held in memory
as the layer allows, so that no workload measures a full queue. Expiry is each layer's default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from devtools.environments import ROOT
from devtools.process import HOST

CAPACITY = 100_000
#: The most that AMQP's prefetch window allows.
PREFETCH = 65535

Config = dict[str, object]

#: What is installed into each virtual environment.
REQUIREMENTS: Mapping[str, Sequence[str]] = {
    "ours": ["--editable", str(ROOT), "uvloop"],
    # Revisions before carehare became an extra need it.
    "against": ["--editable", str(ROOT), "carehare"],
    "4.0.1": ["channels_rabbitmq==4.0.1"],
    "channels_redis": ["channels_redis", "redis <8"],
    "channels_postgres": ["channels_postgres"],
    "channels-nats": ["channels-nats"],
    "charts": ["matplotlib"],
}
#: Of these packages the results name the version.
TOLD = re.compile("asgiref|carehare|channels.*|Django|msgpack|nats-py|pamqp|psycopg|redis|uvloop")


@dataclass(frozen=True)
class Peer:
    """One layer in one configuration."""

    key: str
    title: str
    #: A name in ``REQUIREMENTS``.
    environment: str
    #: The dotted path of the layer's class.
    layer: str
    #: A name in ``servers.SERVERS``; None if it needs no server.
    server: str | None
    #: CONFIG, given the server's port.
    config: Callable[[int], Config]
    loop: str = "asyncio"
    django: Callable[[int], Config] = field(default=lambda port: {})
    #: Whether messages of earlier runs must be cleared away first.
    flush: bool = False
    #: The database whose tables must be made once.
    migrate: str | None = None
    #: Whether it reaches other processes.
    networked: bool = True


def _rabbitmq(port: int) -> Config:
    return {
        "host": f"amqp://guest:guest@{HOST}:{port}/",
        "remote_capacity": CAPACITY,
        "local_capacity": PREFETCH,
    }


def _redis(port: int) -> Config:
    # The client's own limit of connections is 100, which its many waiting calls exceed.
    host = {"address": f"redis://{HOST}:{port}", "max_connections": 5000}
    return {"hosts": [host], "capacity": CAPACITY}


def _postgres_database(port: int) -> Config:
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": HOST,
        "PORT": str(port),
        "NAME": "postgres",
        "USER": "postgres",
        "PASSWORD": "",
        "TIME_ZONE": None,
    }


def _postgres_django(port: int) -> Config:
    return {
        "INSTALLED_APPS": ["channels_postgres"],
        "DATABASES": {"default": {}, "channels_postgres": _postgres_database(port)},
        "USE_TZ": True,
    }


PEERS: Sequence[Peer] = (
    Peer(
        "ours",
        "channels_rabbitmq",
        "ours",
        "channels_rabbitmq.core.RabbitmqChannelLayer",
        "RabbitMQ",
        _rabbitmq,
    ),
    Peer(
        "ours-uvloop",
        "channels_rabbitmq, uvloop",
        "ours",
        "channels_rabbitmq.core.RabbitmqChannelLayer",
        "RabbitMQ",
        _rabbitmq,
        loop="uvloop",
    ),
    Peer(
        "4.0.1",
        "channels_rabbitmq 4.0.1",
        "4.0.1",
        "channels_rabbitmq.core.RabbitmqChannelLayer",
        "RabbitMQ",
        _rabbitmq,
    ),
    Peer(
        "redis-pubsub",
        "channels_redis pub/sub",
        "channels_redis",
        "channels_redis.pubsub.RedisPubSubChannelLayer",
        "Redis",
        _redis,
    ),
    Peer(
        "redis-core",
        "channels_redis core",
        "channels_redis",
        "channels_redis.core.RedisChannelLayer",
        "Redis",
        _redis,
    ),
    Peer(
        "postgres",
        "channels_postgres",
        "channels_postgres",
        "channels_postgres.core.PostgresChannelLayer",
        "PostgreSQL",
        _postgres_database,
        django=_postgres_django,
        flush=True,
        migrate="channels_postgres",
    ),
    Peer(
        "nats",
        "channels-nats",
        "channels-nats",
        "channels_nats.NatsChannelLayer",
        "NATS",
        lambda port: {"servers": [f"nats://{HOST}:{port}"], "capacity": CAPACITY},
    ),
    Peer(
        "memory",
        "Channels' in-memory layer",
        "ours",
        "channels.layers.InMemoryChannelLayer",
        None,
        lambda port: {"capacity": CAPACITY},
        networked=False,
    ),
)
