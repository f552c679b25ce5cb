"""The private Redis, PostgreSQL and NATS servers of devtools.servers."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from devtools.servers import NatsServer, PostgresServer, RedisServer, Server, ServerError


def connects(port: int | None) -> bool:
    """Whether somebody listens on a loopback port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port or 0)) == 0


@pytest.mark.parametrize("make", [RedisServer, PostgresServer, NatsServer])
def test_server_runs_until_it_is_stopped(make: type[Server]) -> None:
    """A server accepts connections at its address, and leaves no port and no file behind."""
    server = make()
    try:
        url = server.start()
    except ServerError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise
    port = urlsplit(url).port
    assert connects(port)
    assert server.version[0].isdigit()
    with pytest.raises(ServerError, match="already"):
        server.start()
    assert connects(port)
    assert server.directory.exists()
    server.stop()
    server.stop()
    assert not connects(port)
    assert not server.directory.exists()


@pytest.mark.parametrize("make", [RedisServer, PostgresServer, NatsServer])
def test_missing_server_is_named(
    make: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not installed raises an error that names the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("devtools.servers._postgres_directories", list)
    monkeypatch.setattr("devtools.servers._SYSTEM_DIRECTORIES", ())
    with pytest.raises(ServerError, match=make.package):
        make().start()
