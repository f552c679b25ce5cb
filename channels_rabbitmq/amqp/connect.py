"""From a host name to the addresses behind it, and to a connected socket."""

from __future__ import annotations

import asyncio
import ipaddress
import socket


async def resolve(host: str, port: int) -> list[str]:
    """Every IP address of a host, each once. Raises :class:`OSError` if there is none."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    return [host]


async def connect(address: str, port: int) -> socket.socket:
    """A socket connected to an IP address. Raises :class:`OSError`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        # asyncio does this for sockets that it makes itself: no waiting for the other side's
        # TCP acknowledgement, which may take 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock
