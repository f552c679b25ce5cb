"""Private Redis, PostgreSQL and NATS servers, for what compares channel layers.

Like the RabbitMQ node of ``devtools.broker``, each has a directory and a free loopback port of its
own, never touches the system's service, and leaves no process and no file behind, however this
process ends. Nothing is written to disk to last.

In Python::

    with RedisServer() as url:
        connect_to(url)
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
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from devtools.broker import GUARD, HOST, free_port

_READY_TIMEOUT = 60.0

#: Where a server's program may be besides the directories in ``PATH``.
_SYSTEM_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin")


class ServerError(Exception):
    """The server is not installed or does not start. The text says what to do, or why."""


class Server:
    """One server process in a directory of its own."""

    #: What it is called, and what Debian calls its package.
    name = ""
    package = ""
    #: Asks it to end soon, without waiting for its clients.
    stop_signal = signal.SIGTERM

    def __init__(self) -> None:
        #: Its loopback port; 0 while it does not run.
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        #: Where its files are while it runs.
        self.directory = Path()
        self._pid_file = Path()
        self._ended: Callable[[], None] = lambda: None

    def start(self) -> str:
        """Start it and return its address once it accepts connections.

        Raises ``ServerError`` with the end of what the server said.
        """
        if self._process is not None:
            raise ServerError(f"{self.name} runs already")
        self._program()  # before anything is made for it
        directory = Path(tempfile.mkdtemp(prefix=f"{self.package}-private-"))
        self.directory = directory
        # Ends the server and removes the directory when told to, or when this process is gone.
        guard = subprocess.Popen(
            ["sh", "-c", GUARD, "guard", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

        def ended() -> None:
            guard.communicate(b"\n")

        self._ended = ended
        try:
            self.port = free_port()
            command = self._prepare(directory)
            output = directory / "output"
            with output.open("wb") as stream:
                self._process = _spawn(command, directory, stream.fileno(), self._user())
            self._pid_file = directory / "server.pid"
            self._pid_file.write_text(str(self._process.pid))
            deadline = time.monotonic() + _READY_TIMEOUT
            while not self._is_ready():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise ServerError(f"{self.name} does not start: {_last_lines(output)}")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise
        return self.url

    def stop(self) -> None:
        """End it and remove its files. Safe to call again."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                # Its number may be another's from now on.
                self._pid_file.unlink(missing_ok=True)
        ended, self._ended = self._ended, lambda: None
        ended()
        if process is not None:
            process.wait()
        self.port = 0

    @property
    def url(self) -> str:
        """The address, as the server's clients write it."""
        raise NotImplementedError

    @property
    def version(self) -> str:
        """The version, as the server's program tells it."""
        printed = _run([self._program(), "--version"])
        words = (word.lstrip("v=") for word in printed.split())
        return next((word for word in words if word[:1].isdigit()), "unknown")

    def _program(self) -> str:
        """The path of the server's program."""
        raise NotImplementedError

    def _prepare(self, directory: Path) -> Sequence[str]:
        """Fill the directory; return the command that starts the server."""
        raise NotImplementedError

    def _user(self) -> str | None:
        """Whom to run it as, where that is not us."""
        return None

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
            return True
        return False

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class RedisServer(Server):
    """A Redis that keeps everything in memory. https://redis.io/docs/latest/operate/oss_and_stack/"""

    name = "Redis"
    package = "redis-server"

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT``."""
        return f"redis://{HOST}:{self.port}"

    def _program(self) -> str:
        return _find("redis-server", self.package, _SYSTEM_DIRECTORIES)

    def _prepare(self, directory: Path) -> Sequence[str]:
        return [
            *(self._program(), "--bind", HOST, "--port", str(self.port)),
            *("--dir", str(directory), "--save", "", "--appendonly", "no"),
        ]


class PostgresServer(Server):
    """A PostgreSQL that trusts its clients: database and superuser ``postgres``, no password.

    It refuses to run as root, so for root it runs as ``nobody``. It never waits for a disk.
    https://www.postgresql.org/docs/current/runtime-config.html
    """

    name = "PostgreSQL"
    package = "postgresql"
    # "Fast shutdown": clients are disconnected.
    stop_signal = signal.SIGINT

    @property
    def url(self) -> str:
        """``postgresql://postgres@127.0.0.1:PORT/postgres``."""
        return f"postgresql://postgres@{HOST}:{self.port}/postgres"

    def _program(self) -> str:
        return _find("postgres", self.package, _postgres_directories())

    def _prepare(self, directory: Path) -> Sequence[str]:
        user = self._user()
        if user is not None:
            shutil.chown(directory, user)
        data = str(directory / "data")
        # Beside the server itself, which PATH may have as a link.
        initdb = str(Path(self._program()).resolve().with_name("initdb"))
        _run(
            [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            directory,
            user,
        )
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": directory,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            # Advisory locks count: some layers hold one for each channel.
            "max_locks_per_transaction": 1024,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self._program(), "-D", data, *options]

    def _user(self) -> str | None:
        return "nobody" if os.geteuid() == 0 else None

    def _is_ready(self) -> bool:
        """Ask in the server's own protocol: it opens the port before it takes sessions."""
        request = b"user\0postgres\0database\0postgres\0\0"
        startup = (8 + len(request)).to_bytes(4, "big") + (3 << 16).to_bytes(4, "big") + request
        try:
            with socket.create_connection((HOST, self.port), timeout=5) as connection:
                connection.sendall(startup)
                return connection.recv(1) == b"R"  # an Authentication message, not an error
        except OSError:
            return False


class NatsServer(Server):
    """A NATS that takes messages of up to 8 MiB. https://docs.nats.io/running-a-nats-service"""

    name = "NATS"
    package = "nats-server"

    @property
    def url(self) -> str:
        """``nats://127.0.0.1:PORT``."""
        return f"nats://{HOST}:{self.port}"

    def _program(self) -> str:
        return _find("nats-server", self.package, _SYSTEM_DIRECTORIES)

    def _prepare(self, directory: Path) -> Sequence[str]:
        config = directory / "nats.conf"
        config.write_text(
            f"listen: {HOST}:{self.port}\nmax_payload: {8 << 20}\nmax_pending: {256 << 20}\n"
        )
        return [self._program(), "-c", str(config)]


def _postgres_directories() -> list[str]:
    """Where Debian puts each version's programs, the newest first."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    return sorted(map(str, versions), key=lambda path: float(path.split("/")[4]), reverse=True)


def _find(program: str, package: str, directories: Sequence[str]) -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *directories])
    found = shutil.which(program, path=path)
    if found is None:
        raise ServerError(f"{program} is not installed: install the package '{package}'")
    return found


def _spawn(
    command: Sequence[str], directory: Path, output: int, user: str | None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=directory,
        start_new_session=True,
        user=user,
        extra_groups=None if user is None else [],
    )


def _run(command: Sequence[str], directory: Path | None = None, user: str | None = None) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=directory,
        user=user,
        extra_groups=None if user is None else [],
        check=False,
    )
    if done.returncode != 0:
        raise ServerError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
    return done.stdout


def _last_lines(file: Path, count: int = 3) -> str:
    return " / ".join(file.read_text(errors="replace").strip().splitlines()[-count:])
