"""Private servers: they end with the Python process that started them, and leave no file behind.

Below all that tests, the demo and benchmarks start: RabbitMQ, Redis, PostgreSQL, NATS, Daphne. Each
has a directory and loopback ports of its own, and never touches the system's service.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

HOST = "127.0.0.1"

#: Ends what is named in DIRECTORY/*.pid (each leads a process group) and removes DIRECTORY, when
#: told to by a line on its standard input or when that is closed because the Python process died,
#: however it did.
_GUARD = """
read -r _
for file in "$1"/*.pid; do
    [ -s "$file" ] && kill -KILL "-$(cat "$file")"
done
rm -rf "$1"
""".strip()

_PORT_TAKEN = re.compile(r"eaddrinuse|\bin use\b", re.IGNORECASE)


class ServerError(Exception):
    """A server is not installed, does not start, or ended by itself. The text says what to do."""


class PrivateDirectory:
    """A directory that goes with this Python process, and all that was spawned in it."""

    def __init__(self, label: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{label}-private-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._owner = os.getpid()
        # In a session of its own, so that no Ctrl-C ends it before it has done its work.
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        atexit.register(self.close)

    @property
    def is_ours(self) -> bool:
        """Whether this process made it, not a parent that it was forked from."""
        return self._owner == os.getpid()

    def spawn(
        self,
        key: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start *command* as the leader of a process group that the guard knows and ends.

        What it prints goes to the file ``KEY.out``.
        """
        with (self.path / f"{key}.out").open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd or self.path,
                start_new_session=True,
                user=user,
                extra_groups=None if user is None else [],
            )
        (self.path / f"{key}.pid").write_text(str(process.pid))
        self._processes.append(process)
        return process

    def kill(self, key: str, process: subprocess.Popen[bytes]) -> None:
        """End what was spawned under *key*, with its children, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._processes.remove(process)
        # The number may be another's from now on.
        (self.path / f"{key}.pid").unlink(missing_ok=True)

    def close(self) -> None:
        """End every process and remove the directory. Safe to call again."""
        if not self.is_ours:
            return
        atexit.unregister(self.close)
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.communicate(b"\n")
        for process in self._processes:
            process.wait()


class PrivateProcess:
    """One server, in a private directory of its own or one that it shares with others.

    A subclass says what to run, and when that is ready. A context manager that stops it.
    """

    #: What error messages call it.
    name: ClassVar[str] = ""
    #: What it raises.
    error: ClassVar[type[ServerError]] = ServerError
    #: Seconds until it must be ready.
    ready_timeout: float = 60
    #: Seconds after which it is killed when it was asked to end.
    stop_timeout: float = 10
    #: Asks it to end soon, without waiting for its clients.
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, shared: PrivateDirectory | None = None, key: str = "server") -> None:
        #: Its loopback port; 0 before it was started.
        self.port = 0
        #: Its directory, which others may share.
        self.ground = shared or PrivateDirectory(self.name.lower())
        self._owns_ground = shared is None
        self._key = key
        self._process: subprocess.Popen[bytes] | None = None

    # What a subclass says.

    def _command(self) -> Sequence[str]:
        """The command that starts it; what it needs in ``self.directory`` is made here."""
        raise NotImplementedError

    def _environment(self) -> Mapping[str, str] | None:
        """What it is started with; None is our own environment."""
        return None

    def _cwd(self) -> Path:
        """The directory in which it runs."""
        return self.directory

    def _user(self) -> str | None:
        """Whom to run it as, where that is not us."""
        return None

    def _choose_ports(self) -> None:
        """Choose free ports to listen on."""
        self.port = free_port()

    def _is_ready(self) -> bool:
        """Whether clients can connect."""
        return accepts(self.port)

    def _ask_to_end(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(self.stop_signal)

    # What all of them do.

    @property
    def directory(self) -> Path:
        """Where its files are until :meth:`stop`."""
        return self.ground.path

    @property
    def pid(self) -> int:
        """Its process id. Raises ``error`` when it is not running."""
        if self._process is None:
            raise self.error(f"{self.name} is not running")
        return self._process.pid

    def launch(self) -> None:
        """Start the process and return at once."""
        if self._process is not None:
            raise self.error(f"{self.name} runs already")
        command = self._command()
        self._process = self.ground.spawn(
            self._key, command, environment=self._environment(), cwd=self._cwd(), user=self._user()
        )

    def wait_until_ready(self) -> None:
        """Return once clients can connect. Raises ``error`` when it ends, or takes too long."""
        deadline = time.monotonic() + self.ready_timeout
        while True:
            self.check()
            if self._is_ready():
                return
            if time.monotonic() > deadline:
                late = f"{self.name} was not ready after {self.ready_timeout:g} s."
                raise self.error(f"{late}{self._told()}")
            time.sleep(0.05)

    def launch_on_free_ports(self) -> None:
        """Start and wait until it is ready; on other ports, where somebody else took one first.

        It is stopped if that fails.
        """
        try:
            for tries_left in (2, 1, 0):
                self._choose_ports()
                try:
                    self.launch()
                    self.wait_until_ready()
                    return
                except ServerError:
                    self.kill()
                    if not tries_left or not _PORT_TAKEN.search(self.tail(100_000)):
                        raise
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Raise ``error`` if it ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            status = self._process.returncode
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise self.error(f"{self.name} (process {self.pid}) ended: {how}.{self._told()}")

    def end(self) -> None:
        """Ask it to end, and return when it has; its files stay. Safe to call again."""
        if self._process is not None:
            self._ask_to_end(self._process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.stop_timeout)
            self.kill()

    def kill(self) -> None:
        """End it, with its children, without warning, as a crash does. Safe to call again."""
        process, self._process = self._process, None
        if process is not None:
            self.ground.kill(self._key, process)

    def stop(self) -> None:
        """End it and, where nobody shares them, remove its files. Safe to call again."""
        if self.ground.is_ours:
            self.end()
            if self._owns_ground:
                self.ground.close()

    def tail(self, lines: int = 20) -> str:
        """The last lines that it printed."""
        return last_lines(self.directory / f"{self._key}.out", lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _told(self) -> str:
        tail = self.tail()
        return f" Its last output:\n\n{tail}\n" if tail else " It printed nothing."


def free_port() -> int:
    """Return a loopback port that was free just now.

    It lies below the range from which systems pick the local port of an outgoing connection. In
    that range a client that tries to reach a stopped server could be given the server's port and
    connect to itself.
    """
    families = [(socket.AF_INET, HOST)] + ([(socket.AF_INET6, "::1")] if has_ipv6() else [])
    for _ in range(200):
        port = random.randint(20000, 32000)
        with contextlib.suppress(OSError):
            for family, host in families:
                with socket.socket(family) as candidate:
                    candidate.bind((host, port))
            return port
    raise ServerError("no free port between 20000 and 32000")


@functools.cache
def has_ipv6() -> bool:
    """Whether this machine has the loopback address ``::1``."""
    try:
        with socket.socket(socket.AF_INET6) as candidate:
            candidate.bind(("::1", 0))
    except OSError:
        return False
    return True


def accepts(port: int) -> bool:
    """Whether somebody listens on a loopback port."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def last_lines(file: Path, lines: int) -> str:
    """The end of a file; nothing where there is none."""
    try:
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
