"""TLS to a real broker: from the URL's parameters, from a context, and when it cannot be."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from channels_rabbitmq.amqp.connect import connect
from channels_rabbitmq.amqp.endpoint import Endpoint
from channels_rabbitmq.connection import Connection
from channels_rabbitmq.errors import AmqpError, describe
from devtools.broker import Broker
from tests.helpers.connections import connection_to, to_endpoint
from tests.helpers.scripted import ScriptedServer, serve


async def echo(connection: Connection) -> None:
    """Send a message of a megabyte through a queue and get it back."""
    async with connection:
        await connection.queue_declare("q")
        body = bytes(range(256)) * 4096
        await connection.publish(body, routing_key="q")
        async with connection.acking_consumer("q") as consumer:
            assert await asyncio.wait_for(consumer.next_delivery(), 10) == (body, 1)


def cipher(connection: Connection) -> str | None:
    """The cipher in use; None in clear text."""
    transport = connection.protocol._transport
    assert transport is not None
    found = transport.get_extra_info("cipher")
    return None if found is None else str(found[0])


async def refused(connection: Connection) -> str:
    """The line that would be logged about an attempt to connect that fails."""
    with pytest.raises((OSError, AmqpError)) as caught:
        await connection.connect()
    line = describe(caught.value)
    assert "\n" not in line
    assert "guest" not in line
    return line


async def test_url(tls_url: str, certs: Path) -> None:
    """An amqps URL with ``cacertfile`` connects to a server whose certificate that file signed."""
    connection = connection_to(f"{tls_url}?cacertfile={certs / 'ca.cert'}")
    async with connection:
        assert cipher(connection)
    await echo(to_endpoint(connection.protocol.endpoint))


async def test_client_certificate(tls_url: str, certs: Path) -> None:
    """``certfile`` and ``keyfile`` show the server a client's certificate."""
    await echo(
        connection_to(
            f"{tls_url}?cacertfile={certs / 'ca.cert'}"
            f"&certfile={certs / 'client.cert'}&keyfile={certs / 'client.key'}"
        )
    )
    await echo(
        connection_to(
            f"{tls_url}?cacertfile={certs / 'ca.cert'}&certfile={certs / 'client.certchain'}"
        )
    )


async def test_client_certificate_that_is_required(certs: Path) -> None:
    """A server that requires a client's certificate takes it, and refuses us without one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "server.cert", certs / "server.key")
    context.load_verify_locations(certs / "ca.cert")
    context.verify_mode = ssl.CERT_REQUIRED

    async def script(peer: ScriptedServer) -> None:
        await peer.handshake()
        await peer.accept_close()

    async with serve(script, tls=context) as port:
        url = f"amqps://127.0.0.1:{port}?cacertfile={certs / 'ca.cert'}"
        async with connection_to(f"{url}&certfile={certs / 'client.certchain'}"):
            pass
        line = await refused(connection_to(url))
        assert "certificate required" in line.lower().replace("_", " ") or "closed" in line, line


async def test_context(broker: Broker, vhost: str, certs: Path) -> None:
    """An ``ssl_context`` turns TLS on, also where the URL says amqp."""
    context = ssl.create_default_context(cafile=str(certs / "ca.cert"))
    connection = connection_to(
        f"amqp://guest:guest@127.0.0.1:{broker.tls_port}/{vhost}", {"ssl_context": context}
    )
    async with connection:
        assert cipher(connection)
    await echo(to_endpoint(connection.protocol.endpoint))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_hosts_of_the_certificate(broker: Broker, vhost: str, certs: Path, host: str) -> None:
    """Each name and address that the certificate is for can be used to connect."""
    if host == "[::1]" and not await listens("::1", broker.tls_port):
        pytest.skip("the broker does not listen on IPv6")
    url = f"amqps://guest:guest@{host}:{broker.tls_port}/{vhost}?cacertfile={certs / 'ca.cert'}"
    connection = connection_to(url)
    await connect(connection.protocol, "127.0.0.1" if host == "localhost" else None)
    async with connection:
        assert cipher(connection)


async def listens(host: str, port: int | None) -> bool:
    """Whether a socket can be connected."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def test_unknown_authority(tls_url: str) -> None:
    """A certificate that nobody we trust has signed is refused, in one clear line."""
    assert await refused(connection_to(tls_url)) in (
        "TLS: self-signed certificate in certificate chain",
        "TLS: self signed certificate in certificate chain",
        "TLS: unable to get local issuer certificate",
    )


async def test_verify_none(tls_url: str) -> None:
    """``verify=verify_none`` takes any certificate."""
    await echo(connection_to(f"{tls_url}?verify=verify_none"))


async def test_host_that_is_not_in_the_certificate(tls_url: str, certs: Path) -> None:
    """A certificate for another name is refused, and the line says for which it is not."""
    url = f"{tls_url}?cacertfile={certs / 'ca.cert'}&server_name_indication=rabbit.example"
    line = await refused(connection_to(url))
    assert line.startswith("TLS: Hostname mismatch")
    assert "rabbit.example" in line


async def test_name_to_check_instead_of_the_host(broker: Broker, vhost: str, certs: Path) -> None:
    """``server_name_indication`` is the name that is checked; ``disable`` checks none."""
    for name in ("localhost", "disable"):
        await echo(
            connection_to(
                f"amqps://guest:guest@127.0.0.1:{broker.tls_port}/{vhost}"
                f"?cacertfile={certs / 'ca.cert'}&server_name_indication={name}"
            )
        )


async def test_clear_text_to_a_tls_port(broker: Broker, vhost: str) -> None:
    """Without TLS, a TLS port is an error in one line, at once."""
    url = f"amqp://guest:guest@127.0.0.1:{broker.tls_port}/{vhost}"
    line = await asyncio.wait_for(refused(connection_to(url)), 10)
    assert "AMQP port" in line or "closed the socket" in line or "reset" in line, line


async def test_tls_to_a_clear_text_port(broker: Broker, vhost: str, certs: Path) -> None:
    """With TLS, a port without is an error in one line, at once."""
    url = (
        f"amqps://guest:guest@127.0.0.1:{broker.plain_port}/{vhost}?cacertfile={certs / 'ca.cert'}"
    )
    line = await asyncio.wait_for(refused(connection_to(url)), 10)
    assert line


async def test_silence_instead_of_tls(certs: Path) -> None:
    """A server that accepts the socket and then says nothing of TLS is left in time."""

    async def script(peer: ScriptedServer) -> None:
        await peer.wait_eof()

    async with serve(script) as port:
        url = f"amqps://127.0.0.1:{port}?cacertfile={certs / 'ca.cert'}&connection_timeout=300"
        assert await refused(connection_to(url)) == "no answer in time"


async def test_external(tls_url: str, certs: Path) -> None:
    """RabbitMQ without its plugin for it offers no EXTERNAL, and the error says what it offers."""
    connection = connection_to(
        f"{tls_url}?cacertfile={certs / 'ca.cert'}&certfile={certs / 'client.certchain'}"
        "&auth_mechanism=external"
    )
    assert isinstance(connection.protocol.endpoint, Endpoint)
    line = await refused(connection)
    assert "PLAIN" in line
    assert line.endswith("auth_mechanism allows EXTERNAL")


async def test_close_is_prompt(tls_url: str, certs: Path) -> None:
    """Closing a TLS connection waits for nothing but RabbitMQ's answer."""
    connection = connection_to(f"{tls_url}?cacertfile={certs / 'ca.cert'}")
    await connection.connect()
    await asyncio.wait_for(connection.close(), 3)
