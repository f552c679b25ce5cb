"""Private servers start, obey, and leave neither process nor file behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from devtools.process import HOST, PrivateProcess, ServerError, accepts, free_port
from tests.helpers.waiting import until


class Echo(PrivateProcess):
    """A server that accepts connections, with a child of its own that sleeps."""

    name = "Echo"
    ready_timeout = 20

    script = """
import socket, subprocess, sys, time
print("starting", flush=True)
subprocess.Popen(["sleep", "1000"])
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(1000)
"""

    def _command(self) -> Sequence[str]:
        return [sys.executable, "-c", self.script, str(self.port)]


class Broken(Echo):
    """A server that says why it does not start."""

    script = "import sys; sys.exit('a wrong setting')"


class PortTaken(Echo):
    """A server whose first port is somebody else's."""

    taken = 0

    def _choose_ports(self) -> None:
        self.port = free_port() if self.port else self.taken

    def _is_ready(self) -> bool:
        return self.port != self.taken and super()._is_ready()


class Late(Echo):
    """A server that is not ready in time."""

    ready_timeout = 0

    def _is_ready(self) -> bool:
        return False


#: Starts two servers in one directory, says where they are, and waits to be ended.
HOLDER = """
import signal, sys
from tests.tools.test_process import Echo
from devtools.process import PrivateDirectory
directory = PrivateDirectory("two")
servers = [Echo(directory, key) for key in ("one", "two")]
for server in servers:
    server.launch_on_free_ports()
print(directory.path, *(server.pid for server in servers), flush=True)
signal.signal(signal.SIGTERM, signal.default_int_handler)
if sys.argv[1] == "wait":
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


def test_it_runs_until_it_is_stopped() -> None:
    """It listens on its port until it is stopped, and no file is left."""
    with Echo() as server:
        server.launch_on_free_ports()
        pid, directory = server.pid, server.directory
        assert accepts(server.port)
        assert server.tail() == "starting"
        with pytest.raises(ServerError, match="runs already"):
            server.launch()
    server.stop()  # again
    assert not is_running(pid)
    assert not directory.exists()
    with pytest.raises(ServerError, match="not running"):
        server.pid  # noqa: B018


def test_end_leaves_its_files() -> None:
    """A server that ended can be started again on its port, with its files."""
    with Echo() as server:
        server.launch_on_free_ports()
        kept, port = server.directory / "kept", server.port
        kept.touch()
        server.end()
        assert not accepts(port)
        server.launch()
        server.wait_until_ready()
        assert (server.port, kept.exists()) == (port, True)


def test_one_that_ends_by_itself_is_told() -> None:
    """A server that dies is told with the signal and with what it printed last."""
    with Echo() as server:
        server.launch_on_free_ports()
        server.check()
        os.kill(pid := server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ServerError, match=rf"\(process {pid}\) ended: signal 9") as caught:
            server.check()
        assert "starting" in str(caught.value)


def test_one_that_does_not_start_is_told() -> None:
    """What a server said instead of starting is in the error, and its files are gone."""
    server = Broken()
    with pytest.raises(ServerError, match="exit status 1") as caught:
        server.launch_on_free_ports()
    assert "a wrong setting" in str(caught.value)
    assert not server.directory.exists()


def test_one_that_is_late_is_told() -> None:
    """A server that does not become ready in time is given up."""
    with pytest.raises(ServerError, match="not ready after 0 s"):
        Late().launch_on_free_ports()


def test_another_port_is_tried() -> None:
    """Where somebody took the port between finding it free and using it, it takes another."""
    with socket.create_server((HOST, 0)) as somebody, PortTaken() as server:
        server.taken = somebody.getsockname()[1]
        server.launch_on_free_ports()
        assert accepts(server.port)


def test_free_port_is_no_outgoing_port() -> None:
    """A port can be bound, and is not one that systems give to outgoing connections."""
    port = free_port()
    assert port < 32768
    with socket.socket() as server:
        server.bind((HOST, port))


def held(what: str) -> subprocess.Popen[str]:
    """A process that starts servers and waits, or ends in the ordinary way."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, None])
async def test_nothing_outlives_the_owner(how: signal.Signals | None) -> None:
    """However the Python process ends, its servers, their children and files go with it."""
    with held("wait" if how else "end") as holder:
        assert holder.stdout is not None
        path, *pids = holder.stdout.readline().split()
        if how:
            assert all(is_running(int(pid)) for pid in pids)
            holder.send_signal(how)
    for pid in pids:
        await until(lambda pid=pid: not is_running(int(pid)))  # type: ignore[misc]
    await until(lambda: not Path(path).exists())


def test_a_fork_ends_nothing() -> None:
    """A fork of the owner that exits in the ordinary way, ``atexit`` included, leaves all."""
    script = """
import os, sys
from tests.tools.test_process import Echo, accepts
with Echo() as server:
    server.launch_on_free_ports()
    if os.fork() == 0:
        sys.exit()
    os.wait()
    sys.exit(0 if accepts(server.port) else 1)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
