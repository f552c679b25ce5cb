"""The layers that are compared: what each is called, what it needs, how it is made and ended.

"Two processes" are two layers over one backing store, and share nothing else. The in-memory layer
reaches no other process, so there both are the same one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import sys
from collections.abc import Mapping
from urllib.parse import urlsplit

from tests.conformance.clauses import Layer

OURS = "channels_rabbitmq"

#: With version 8 of the client, receive() of channels_redis 4.3.0 raises TimeoutError when nothing
#: came for 5 seconds: https://github.com/redis/redis-py/issues/4091
_REDIS_CLIENT = "redis <8"


class Subject:
    """A layer under test."""

    title = ""
    #: What pip installs for it, and of that, what the results name with its version.
    requirements: tuple[str, ...] = ()
    told: tuple[str, ...] = ("channels",)
    #: Which server it needs: "redis" or "postgres".
    server: str | None = None
    #: Which options its constructor has of expiry, group_expiry, capacity and channel_capacity.
    options: frozenset[str] = frozenset({"expiry", "group_expiry", "capacity", "channel_capacity"})

    def configure_django(self) -> dict[str, object]:
        """The settings it needs."""
        return {"INSTALLED_APPS": ["channels"], "DATABASES": {}}

    def prepare(self) -> None:
        """Ready the server, once."""

    def make(self, count: int, options: Mapping[str, object]) -> list[Layer]:
        """So many layers that share one backing store, each as in a process of its own."""
        raise NotImplementedError

    async def start(self, layer: Layer) -> None:
        """Do what a process does before others can reach it."""

    async def close(self, layer: Layer) -> None:
        """End a layer, with all that it holds."""


class InMemory(Subject):
    """Channels' own layer for one process."""

    title = "In-memory (Channels)"
    requirements = ("channels >=4, <5",)

    def make(self, count: int, options: Mapping[str, object]) -> list[Layer]:
        from channels.layers import InMemoryChannelLayer

        return [InMemoryChannelLayer(**options)] * count


class RedisCore(Subject):
    """channels_redis, which stores messages in Redis."""

    title = "channels_redis core"
    requirements = ("channels_redis", _REDIS_CLIENT)
    told = ("channels_redis", "channels", "redis")
    server = "redis"

    def make(self, count: int, options: Mapping[str, object]) -> list[Layer]:
        from channels_redis.core import RedisChannelLayer

        config = {"hosts": [os.environ["REDIS_URL"]], "prefix": secrets.token_hex(6)}
        return [RedisChannelLayer(**config, **options) for _ in range(count)]

    async def close(self, layer: Layer) -> None:
        await layer.close_pools()


class RedisPubSub(Subject):
    """channels_redis over Redis's publish and subscribe."""

    title = "channels_redis pub/sub"
    requirements = ("channels_redis", _REDIS_CLIENT)
    told = ("channels_redis", "channels", "redis")
    server = "redis"
    # It takes any option, and makes nothing of these.
    options = frozenset()

    def make(self, count: int, options: Mapping[str, object]) -> list[Layer]:
        from channels_redis.pubsub import RedisPubSubChannelLayer

        config = {"hosts": [os.environ["REDIS_URL"]], "prefix": secrets.token_hex(6)}
        return [RedisPubSubChannelLayer(**config, **options) for _ in range(count)]

    async def close(self, layer: Layer) -> None:
        await layer.flush()  # its documented way to close connections


class Postgres(Subject):
    """channels_postgres."""

    title = "channels_postgres"
    requirements = ("channels_postgres", "psycopg[binary]")
    told = ("channels_postgres", "channels", "psycopg")
    server = "postgres"
    options = frozenset({"expiry", "group_expiry"})

    def _database(self) -> dict[str, object]:
        url = urlsplit(os.environ["POSTGRES_URL"])
        return {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": url.hostname,
            "PORT": url.port,
            "USER": url.username,
            "PASSWORD": url.password or "",
            "NAME": url.path.strip("/"),
            "TIME_ZONE": None,
        }

    def configure_django(self) -> dict[str, object]:
        database = self._database()
        return {
            "INSTALLED_APPS": ["channels", "channels_postgres"],
            "DATABASES": {"default": database, "channels_postgres": database},
        }

    def prepare(self) -> None:
        from django.core.management import call_command

        call_command("migrate", "channels_postgres", database="channels_postgres", verbosity=0)

    def make(self, count: int, options: Mapping[str, object]) -> list[Layer]:
        import psycopg

        with psycopg.connect(os.environ["POSTGRES_URL"]) as connection:
            connection.execute("TRUNCATE channels_postgres_message, channels_postgres_groupchannel")
        return [self._make_one(options) for _ in range(count)]

    def _make_one(self, options: Mapping[str, object]) -> Layer:
        # Its connections and queues are kept in modules, one set for a process: to be as in a
        # process of its own, each layer gets its own copy of the modules.
        for name in ("channels_postgres.core", "channels_postgres.db"):
            sys.modules.pop(name, None)
        core = importlib.import_module("channels_postgres.core")
        return core.PostgresChannelLayer(**(self._database() | dict(options)))

    async def close(self, layer: Layer) -> None:
        pool = type(layer.django_db).get_db_pool.__globals__["connection_pool"]
        if pool is not None:
            # A pool that another loop opened, and left, cannot be closed here.
            with contextlib.suppress(RuntimeError):
                await pool.close()


class Ours(Subject):
    """channels_rabbitmq. The layers themselves come from the suite's fixture."""

    title = "channels_rabbitmq"
    told = ("channels_rabbitmq", "channels")

    async def start(self, layer: Layer) -> None:
        # new_channel() does no I/O; a process has its queue from when it connects.
        await layer.current_connection


SUBJECTS: Mapping[str, Subject] = {
    OURS: Ours(),
    "inmemory": InMemory(),
    "redis": RedisCore(),
    "redis_pubsub": RedisPubSub(),
    "postgres": Postgres(),
}
