"""What to write instead of an option that ``channels_rabbitmq`` does not have.

Read when a configuration has an unknown option. Whoever moves here from another channel layer, or
writes what other AMQP libraries call an option, learns the way rather than just the refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_IN_THE_URL = (
    "it is a part of the URL in 'host': amqp://user:password@host:port/vhost?parameter=value"
)
_DATABASE = (
    "no database is used; RabbitMQ's address goes into 'host', as an AMQP URL "
    "(amqp://user:password@host:port/vhost)"
)

#: Name of an option that others have -> what serves its purpose here.
HINTS: Mapping[str, str] = MappingProxyType(
    {
        # channels_redis
        "hosts": "RabbitMQ's address goes into 'host', as an AMQP URL or a list of URLs",
        "connection_kwargs": "connections are set up by the query parameters of the URL in 'host'",
        "random_prefix_length": "leave it out: names of channels are random already",
        # channels_postgres: Django's database settings and psycopg's pool
        **dict.fromkeys(
            (
                "ENGINE",
                "NAME",
                "USER",
                "PASSWORD",
                "HOST",
                "PORT",
                "OPTIONS",
                "PSYCOPG_OPTIONS",
                "CONN_MAX_AGE",
                "CONN_HEALTH_CHECKS",
                "ATOMIC_REQUESTS",
                "AUTOCOMMIT",
                "DISABLE_SERVER_SIDE_CURSORS",
                "TIME_ZONE",
                "TEST",
                "config",
            ),
            _DATABASE,
        ),
        # what AMQP libraries call the parts of a URL
        "url": "the URL goes into 'host'",
        "urls": "the URLs go into 'host', as a list",
        "ssl": "use 'ssl_context', or an amqps:// URL in 'host'",
        "timeout": "use 'send_timeout', or the parameter connection_timeout of the URL in 'host'",
        **dict.fromkeys(
            (
                "auth_mechanism",
                "connection_timeout",
                "heartbeat",
                "login",
                "password",
                "port",
                "user",
                "username",
                "vhost",
                "virtual_host",
                "virtualhost",
            ),
            _IN_THE_URL,
        ),
    }
)
