"""``devtools.broker`` with a real RabbitMQ: it starts, obeys, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from devtools.broker import Broker, BrokerError
from tests.helpers.support import until

pytestmark = pytest.mark.slow

#: Starts a broker, says where it is, and waits to be ended.
HOLDER = """
import signal, sys
from devtools.broker import Broker
broker = Broker.start()
print(broker.pid, broker._ground.directory, flush=True)
signal.pause()
"""


def is_running(pid: int) -> bool:
    """Whether *pid* is a process that is not merely waiting to be reaped."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()  # a system without /proc: the signal has told
    return state != "Z"


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


def test_wrong_setting_is_quoted() -> None:
    """A node that does not start raises with the part of its log that tells why."""
    with pytest.raises(BrokerError, match="unknown variable: no_such_setting"):
        Broker.start(config={"no_such_setting": "1"})


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_nothing_outlives_the_owner(how: signal.Signals) -> None:
    """However the Python process ends, its node, port mapper and files go with it."""
    with subprocess.Popen(  # noqa: ASYNC220  (nothing else runs in this loop)
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as holder:
        assert holder.stdout is not None
        pid, directory = holder.stdout.readline().split()
        epmd = int((Path(directory) / "epmd.pid").read_text())
        assert is_running(int(pid))
        assert is_running(epmd)
        holder.send_signal(how)

    await until(lambda: not is_running(int(pid)))
    await until(lambda: not is_running(epmd))
    await until(lambda: not Path(directory).exists())


def test_fork_does_not_end_the_broker(broker: Broker) -> None:
    """A fork of the owner that exits in the ordinary way, ``atexit`` included, leaves the node."""
    script = """
import os, sys
from devtools.broker import Broker, _speaks_amqp
with Broker.start() as broker:
    if os.fork() == 0:
        sys.exit()
    os.wait()
    sys.exit(0 if _speaks_amqp(broker.plain_port) else 1)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


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
