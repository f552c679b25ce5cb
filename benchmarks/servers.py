"""The servers that the layers need: private ones, on free loopback ports, ended by process id.

Each is started from the system's packages, with defaults but for what is written here, which
favours the server: nothing is synchronised to a disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devtools.broker import GUARD, HOST, Broker, BrokerError, free_port

_READY_TIMEOUT = 60.0


class NotAvailable(Exception):
    """The server is not installed or does not start; the text says why."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    version: str


@contextlib.contextmanager
def _private(
    name: str,
    command: Sequence[str],
    directory: Path,
    port: int,
    *,
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[None]:
    """Run *command* until the block ends; its files and processes go, however we end."""
    guard = subprocess.Popen(
        ["sh", "-c", GUARD, "guard", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    output = directory / "output"
    process = None
    try:
        with output.open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=directory,
                start_new_session=True,
                **_as_user(user),
            )
        (directory / f"{name}.pid").write_text(str(process.pid))
        deadline = time.monotonic() + _READY_TIMEOUT
        while not _accepts(port):
            if process.poll() is not None or time.monotonic() > deadline:
                text = output.read_text(errors="replace").strip().splitlines()[-3:]
                raise NotAvailable(f"{name} does not start: {' / '.join(text)}")
            time.sleep(0.05)
        yield
    finally:
        if process is not None and process.poll() is None:
            process.send_signal(stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        guard.communicate(b"\n")
        if process is not None:
            process.wait()


def _as_user(user: str | None) -> dict[str, Any]:
    return {} if user is None else {"user": user, "extra_groups": []}


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def _find(program: str, package: str, directories: Sequence[str] = ()) -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", *directories])
    found = shutil.which(program, path=path)
    if found is None:
        raise NotAvailable(f"{program} is not installed (package '{package}')")
    return found


def _version(command: Sequence[str]) -> str:
    """The first word of what *command* prints that looks like a version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for word in (done.stdout + done.stderr).replace("=", " ").split():
        word = word.lstrip("v")
        if word[:1].isdigit() and "." in word:
            return word
    return "unknown"


@contextlib.contextmanager
def rabbitmq() -> Iterator[Server]:
    """RabbitMQ with its defaults."""
    try:
        broker = Broker.start()
    except BrokerError as err:
        raise NotAvailable(str(err)) from None
    with broker:
        yield Server(broker.plain_port, broker.ctl("version").strip())


@contextlib.contextmanager
def redis() -> Iterator[Server]:
    """Redis that keeps everything in memory."""
    program = _find("redis-server", "redis-server")
    directory = Path(tempfile.mkdtemp(prefix="benchmarks-redis-"))
    port = free_port()
    command = [program, "--bind", HOST, "--port", str(port), "--dir", str(directory)]
    command += ["--save", "", "--appendonly", "no"]
    with _private("redis", command, directory, port):
        yield Server(port, _version([program, "--version"]))


@contextlib.contextmanager
def postgresql() -> Iterator[Server]:
    """PostgreSQL that trusts its clients and does not wait for a disk; database ``postgres``."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name)
    )
    newest = [str(path) for path in reversed(versions)]
    initdb = _find("initdb", "postgresql", newest)
    program = _find("postgres", "postgresql", newest)
    # It refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    directory = Path(tempfile.mkdtemp(prefix="benchmarks-postgresql-"))
    if user is not None:
        shutil.chown(directory, user)
    data = directory / "data"
    done = subprocess.run(
        [initdb, "-D", str(data), "-U", "benchmarks", "-A", "trust", "-E", "UTF8", "--no-sync"],
        capture_output=True,
        text=True,
        cwd=directory,
        check=False,
        **_as_user(user),
    )
    if done.returncode != 0:
        shutil.rmtree(directory)
        raise NotAvailable(f"initdb failed: {done.stderr.strip()}")
    port = free_port()
    settings = {
        "listen_addresses": HOST,
        "port": port,
        "unix_socket_directories": directory,
        "fsync": "off",
        "synchronous_commit": "off",
        "max_connections": 100,
        # channels_postgres holds a lock for each channel.
        "max_locks_per_transaction": 1024,
    }
    command = [program, "-D", str(data)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with _private("postgresql", command, directory, port, user=user, stop=signal.SIGINT):
        yield Server(port, _version([program, "--version"]))


@contextlib.contextmanager
def nats() -> Iterator[Server]:
    """NATS, with messages of more than its usual megabyte allowed."""
    program = _find("nats-server", "nats-server")
    directory = Path(tempfile.mkdtemp(prefix="benchmarks-nats-"))
    port = free_port()
    (directory / "nats.conf").write_text(
        f"listen: {HOST}:{port}\nmax_payload: 8388608\nmax_pending: 268435456\n"
    )
    with _private("nats", [program, "-c", str(directory / "nats.conf")], directory, port):
        yield Server(port, _version([program, "--version"]))


#: By name, how to start each.
SERVERS: Mapping[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
    "RabbitMQ": rabbitmq,
    "Redis": redis,
    "PostgreSQL": postgresql,
    "NATS": nats,
}
