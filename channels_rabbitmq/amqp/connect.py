"""From an endpoint to an open connection: name, TCP, TLS and log-in within one time-out."""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import socket
from collections.abc import Callable

from .errors import ConnectionClosed
from .protocol import Protocol

__all__ = ["Step", "connect", "resolve"]


class Step(enum.StrEnum):
    """The steps to an open connection, in order. Without TLS there is no such step."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TLS = "TLS"
    LOG_IN = "log in"


def _ignore(step: Step) -> None:
    """Observe nothing."""


async def connect(
    protocol: Protocol,
    address: str | None = None,
    *,
    on_step: Callable[[Step], None] = _ignore,
) -> None:
    """Connect and log in, within the endpoint's ``connect_timeout`` in all.

    ``address`` is one of the addresses of the endpoint's host, where that was resolved before. The
    caller makes the protocol, so that it can :meth:`.Protocol.cut` it meanwhile. ``on_step`` is
    called as each step begins; what is raised is raised in the one that began last.

    Raises :class:`OSError` (TLS and :class:`TimeoutError` included),
    :class:`.ConnectionClosedByServer` (wrong password, no such virtual host), or
    :class:`.BadBytesFromServer`; no socket is left open then.
    """
    endpoint = protocol.endpoint
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(endpoint.connect_timeout):
            if address is None:
                on_step(Step.RESOLVE)
                address = (await resolve(endpoint.host, endpoint.port))[0]
            on_step(Step.CONNECT)
            sock = _make_socket(address)
            protocol.attach(sock)
            await protocol.loop.sock_connect(sock, (address, endpoint.port))
            if endpoint.tls is not None:
                on_step(Step.TLS)
            await protocol.loop.create_connection(
                lambda: protocol,
                sock=sock,
                ssl=endpoint.tls,
                # To asyncio, None would mean the address.
                server_hostname=(endpoint.server_hostname or "") if endpoint.tls else None,
            )
            on_step(Step.LOG_IN)
            await asyncio.shield(protocol.opened)
    except BaseException as err:
        given_up = ConnectionClosed("connecting was given up")
        protocol.abort(err if isinstance(err, Exception) else given_up)
        # A transport closes its socket itself, when the loop gets to it.
        if sock is not None and not protocol.connected:
            sock.close()
        raise


async def resolve(host: str, port: int) -> list[str]:
    """Look up every IP address of a host, each once. Raises :class:`OSError` if there is none."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    return [host]


def _make_socket(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setblocking(False)
    # asyncio sets this on sockets that it makes itself: do not wait for the other side's TCP
    # acknowledgement, which may take 40 ms, before sending the next small segment.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
