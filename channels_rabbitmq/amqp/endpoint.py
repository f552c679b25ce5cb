"""One way to reach a RabbitMQ node: where, as whom, and how."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import quote

__all__ = ["DEFAULT_AUTH_MECHANISMS", "DEFAULT_CONNECT_TIMEOUT", "DEFAULT_HEARTBEAT", "Endpoint"]

DEFAULT_HEARTBEAT = 60
DEFAULT_CONNECT_TIMEOUT = 10.0
DEFAULT_AUTH_MECHANISMS = ("PLAIN",)


@dataclass(frozen=True)
class Endpoint:
    """One way to reach RabbitMQ; made from one AMQP URL."""

    #: Name or address; IPv6 without brackets. A name is resolved when a connection is made.
    host: str
    port: int
    username: str = field(repr=False)
    password: str = field(repr=False)
    virtual_host: str
    #: ``None`` means that everything travels in clear text.
    tls: ssl.SSLContext | None
    #: Name that TLS sends and checks; ``None`` without TLS, and where neither is wanted.
    server_hostname: str | None
    #: Seconds to offer the server; 0 is none. The smaller of the two sides' values counts.
    heartbeat: int = DEFAULT_HEARTBEAT
    #: Seconds for the whole way from the first packet to an open connection.
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    #: SASL mechanisms in order of preference, of ``PLAIN``, ``AMQPLAIN`` and ``EXTERNAL``.
    auth_mechanisms: tuple[str, ...] = DEFAULT_AUTH_MECHANISMS
    #: Most AMQP channels to agree on; 0 takes the server's value.
    channel_max: int = 0
    #: Most bytes of a frame, all included, to agree on; 0 takes the server's value.
    frame_max: int = 0

    def __reduce__(self) -> str:
        raise TypeError("an Endpoint holds a password and cannot be pickled or copied")

    def __str__(self) -> str:
        """``host:port/vhost`` as a URL has it, for logs: no credentials, no control characters."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{quote(self.virtual_host, safe='')}"
