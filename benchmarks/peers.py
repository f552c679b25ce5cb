"""Which layers are compared, and how each is configured.

All have the same capacities where they have any: 100,000 messages stored, as many held in memory
as the layer allows, so that no workload measures a full queue. Expiry is each layer's default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .cases import Case
from .spec import Spec

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
CAPACITY = 100_000
#: The most that AMQP's prefetch window allows.
PREFETCH = 65535

Config = dict[str, object]

#: What real servers and their clients take.
_SERVERS = ("uvicorn", "daphne", "websockets")
#: What is installed into each virtual environment.
REQUIREMENTS: Mapping[str, Sequence[str]] = {
    "ours": ["--editable", str(ROOT), "uvloop", "pyperf", "wsproto", *_SERVERS],
    # Revisions before carehare became an extra need it.
    "against": ["--editable", str(ROOT), "carehare >=1.0.2, <2"],
    "4.0.1": ["channels_rabbitmq==4.0.1", *_SERVERS],
    "channels_redis": ["channels_redis", "redis <8", *_SERVERS],
    "channels_postgres": ["channels_postgres"],
    "channels-nats": ["channels-nats"],
    "charts": ["matplotlib"],
}
#: Of these packages the results name the version.
TOLD = re.compile(
    "asgiref|carehare|channels.*|daphne|Django|msgpack|nats-py|pamqp|psycopg|redis|uv.*|w.*"
)


@dataclass(frozen=True)
class Peer:
    """One layer in one configuration."""

    key: str
    title: str
    #: A name in ``REQUIREMENTS``.
    environment: str
    #: The dotted path of the layer's class.
    layer: str
    #: A name in ``bench.SERVERS``; None if it needs no server, and reaches no other process.
    server: str | None
    #: CONFIG, given the server's port.
    config: Callable[[int], Config]
    loop: str = "asyncio"
    django: Callable[[int], Config] = field(default=lambda port: {})
    #: The database that its tables are in, which keeps messages of earlier runs.
    database: str | None = None
    #: Where the package is imported from, if that is not the environment.
    source: str = ""

    def spec(self, case: Case, port: int, *, quick: bool = False) -> Spec:
        """Return what a worker is told to run the case, with the server at ``port``."""
        return replace(
            case.spec(quick=quick),
            peer=self.key,
            port=port,
            layer=self.layer,
            config=self.config(port),
            loop=self.loop,
            django=self.django(port),
            database=self.database,
            source=self.source,
        )


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


def _nats(port: int) -> Config:
    return {"servers": [f"nats://{HOST}:{port}"], "capacity": CAPACITY}


def _memory(port: int) -> Config:
    return {"capacity": CAPACITY}


_OURS = "channels_rabbitmq.core.RabbitmqChannelLayer"
_PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
_CORE = "channels_redis.core.RedisChannelLayer"
_POSTGRES = "channels_postgres.core.PostgresChannelLayer"
_NATS = "channels_nats.NatsChannelLayer"
_MEMORY = "channels.layers.InMemoryChannelLayer"

PEERS: Sequence[Peer] = (
    Peer("ours", "channels_rabbitmq", "ours", _OURS, "RabbitMQ", _rabbitmq),
    Peer(
        "ours-uvloop", "channels_rabbitmq, uvloop", "ours", _OURS, "RabbitMQ", _rabbitmq, "uvloop"
    ),
    Peer("4.0.1", "channels_rabbitmq 4.0.1", "4.0.1", _OURS, "RabbitMQ", _rabbitmq),
    Peer("redis-pubsub", "channels_redis pub/sub", "channels_redis", _PUBSUB, "Redis", _redis),
    Peer("redis-core", "channels_redis core", "channels_redis", _CORE, "Redis", _redis),
    Peer(
        "postgres",
        "channels_postgres",
        "channels_postgres",
        _POSTGRES,
        "PostgreSQL",
        _postgres_database,
        django=_postgres_django,
        database="channels_postgres",
    ),
    Peer("nats", "channels-nats", "channels-nats", _NATS, "NATS", _nats),
    Peer("memory", "Channels' in-memory layer", "ours", _MEMORY, None, _memory),
)
