"""``devtools.broker``, as far as it needs no RabbitMQ."""

from __future__ import annotations

import socket

import pytest

from devtools import broker


def test_free_port_is_no_outgoing_port() -> None:
    """A port can be bound, and is not one that systems give to outgoing connections."""
    port = broker.free_port()

    assert port < 32768
    with socket.socket() as server:
        server.bind((broker.HOST, port))


def test_gist_of_a_log_is_its_errors() -> None:
    """The first errors are quoted, not the pages of shutting down after them."""
    log = "\n".join(["[info] starting", "[error] a wrong setting", *["[info] stopping"] * 50])

    assert broker._gist(log) == "[error] a wrong setting"


def test_gist_without_errors_is_the_end() -> None:
    """A log without errors is quoted from its end."""
    log = "\n".join(f"[info] line {number}" for number in range(100))

    assert broker._gist(log, 2) == "[info] line 98\n[info] line 99"


def test_wrong_server_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A RABBITMQ_SERVER that is no program is refused by name."""
    monkeypatch.setenv("RABBITMQ_SERVER", "/nowhere/rabbitmq-server")

    with pytest.raises(broker.BrokerError, match="RABBITMQ_SERVER is '/nowhere"):
        broker.find_scripts()


def test_missing_rabbitmq_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no RabbitMQ, the error names the packages."""
    monkeypatch.delenv("RABBITMQ_SERVER", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(broker, "SCRIPT_DIRECTORIES", ())

    with pytest.raises(broker.BrokerError, match="install the package 'rabbitmq-server'"):
        broker.find_scripts()
