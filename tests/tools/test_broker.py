"""``devtools.broker`` with a real RabbitMQ: it starts, obeys, and leaves nothing behind."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from devtools import broker as broker_module
from devtools.broker import Broker, BrokerError, find_scripts
from tests.helpers.waiting import until
from tests.tools.test_process import is_running

#: Starts a broker, says where it is, and waits to be ended.
HOLDER = """
import signal, sys
from devtools.broker import Broker
broker = Broker.start()
print(broker.pid, broker.erlang.pid, broker.directory, flush=True)
signal.pause()
"""


def answers(port: int) -> bool:
    """Whether RabbitMQ answers an AMQP greeting on *port* within a second."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


def test_ctl_talks_to_this_node(broker: Broker, vhost: str) -> None:
    """``ctl()`` reaches the private node: it sees the virtual host that the test made there."""
    assert vhost in broker.ctl("list_vhosts", "name").splitlines()


def test_ctl_reports_failure(broker: Broker) -> None:
    """A refused command raises with what rabbitmqctl said."""
    with pytest.raises(BrokerError, match="does not exist"):
        broker.ctl("delete_vhost", "not-there")


def test_api_reports_failure(broker: Broker) -> None:
    """A refused HTTP call raises with the status and the reason."""
    with pytest.raises(BrokerError, match="404"):
        broker.api("GET", "vhosts/not-there")


def test_tls_port_verifies(broker: Broker, certs: Path) -> None:
    """The TLS port shows the made certificate, and takes a client with and without one."""
    port = broker.tls_port
    assert port is not None
    for chain in (None, certs / "client.certchain"):
        context = ssl.create_default_context(cafile=certs / "ca.cert")
        if chain is not None:
            context.load_cert_chain(chain)
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            assert connection.recv(1) == b"\x01"


@pytest.mark.slow
async def test_pause_kill_and_restart() -> None:
    """A paused node is silent, a killed one gone, and it comes back on its port with its data."""
    with Broker.start() as node:
        node.ctl("add_vhost", "kept")
        port = node.plain_port

        node.pause()
        assert not answers(port)
        node.resume()
        await until(lambda: answers(port))

        node.kill()
        assert not answers(port)
        with pytest.raises(BrokerError, match="not running"):
            node.pid  # noqa: B018

        node.restart()
        assert answers(port)
        assert "kept" in node.ctl("list_vhosts", "name").splitlines()
        pid, directory = node.pid, node.directory

    await until(lambda: not is_running(pid))
    assert not directory.exists()


@pytest.mark.slow
def test_wrong_setting_is_quoted() -> None:
    """A node that does not start raises with the part of its log that tells why."""
    with pytest.raises(BrokerError, match="unknown variable: no_such_setting"):
        Broker.start(config={"no_such_setting": "1"})


@pytest.mark.slow
async def test_nothing_outlives_a_killed_owner() -> None:
    """When the Python process is killed, its node, port mapper and files go with it."""
    with subprocess.Popen(  # noqa: ASYNC220  (nothing else runs in this loop)
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as holder:
        assert holder.stdout is not None
        *pids, directory = holder.stdout.readline().split()
        assert all(is_running(int(pid)) for pid in pids)
        holder.kill()
    for pid in pids:
        await until(lambda pid=pid: not is_running(int(pid)))  # type: ignore[misc]
    await until(lambda: not Path(directory).exists())


@pytest.mark.slow
def test_two_nodes_of_one_host_reach_each_other() -> None:
    """Nodes that share an Erlang host find each other, as those of a cluster do."""
    with Broker.start() as one, Broker.start(erlang=one.erlang) as two:
        assert one.plain_port != two.plain_port
        assert "pong" in two.ctl("eval", f"net_adm:ping('{one.node}').")
        two.stop()
        assert one.ctl("list_vhosts", "name").splitlines() == ["/"]


@pytest.mark.slow
def test_command_line_runs_a_command(tmp_path: Path) -> None:
    """``python -m devtools.broker -- COMMAND`` gives it addresses and passes on its status."""
    script = (
        "import os, pathlib, sys\n"
        "print(os.environ['AMQP_URL'], os.environ['AMQPS_URL'])\n"
        "sys.exit(7 if (pathlib.Path(os.environ['AMQP_CERTS']) / 'ca.cert').exists() else 1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "devtools.broker", "--tls", "--", sys.executable, "-c", script],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 7, done.stderr
    plain, tls = done.stdout.split()
    assert plain.startswith("amqp://")
    assert tls.startswith("amqps://")
    assert not list(tmp_path.iterdir())


def test_a_log_is_told_by_its_errors() -> None:
    """The first errors are quoted, not the pages of stopping after them; else the log's end."""
    log = "\n".join(["[info] starting", "[error] a wrong setting", *["[info] stopping"] * 50])
    assert broker_module._gist(log) == "[error] a wrong setting"
    assert broker_module._gist("one\ntwo\nthree", 2) == "two\nthree"


def test_missing_rabbitmq_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A RABBITMQ_SERVER that is no program is named; without any, what to install is said."""
    monkeypatch.setenv("RABBITMQ_SERVER", "/nowhere/rabbitmq-server")
    with pytest.raises(BrokerError, match="RABBITMQ_SERVER is '/nowhere"):
        find_scripts()
    monkeypatch.delenv("RABBITMQ_SERVER")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(broker_module, "SCRIPT_DIRECTORIES", ())
    with pytest.raises(BrokerError, match="install the package 'rabbitmq-server'"):
        find_scripts()
