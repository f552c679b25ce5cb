"""The private Redis, PostgreSQL and NATS servers of ``devtools.servers``."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from devtools.process import ServerError, accepts
from devtools.servers import NatsServer, PostgresServer, RedisServer, Server

SERVERS = [RedisServer, PostgresServer, NatsServer]


@pytest.mark.parametrize("kind", SERVERS)
def test_server_runs_until_it_is_stopped(kind: type[Server]) -> None:
    """A server accepts connections at its address, and leaves no port and no file behind."""
    try:
        server = kind.start()
    except ServerError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise
    with server:
        port, directory = urlsplit(server.url).port or 0, server.directory
        assert accepts(port)
        assert server.version[0].isdigit()
    assert not accepts(port)
    assert not directory.exists()


@pytest.mark.parametrize("kind", SERVERS)
def test_missing_server_is_named(
    kind: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not installed raises an error that names the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("devtools.servers._postgres_directories", list)
    monkeypatch.setattr("devtools.servers._SYSTEM_DIRECTORIES", ())
    with pytest.raises(ServerError, match=kind.package):
        kind.start()
