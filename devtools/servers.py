"""Private Redis, PostgreSQL and NATS servers, for what compares channel layers.

Nothing is written to disk to last::

    with RedisServer.start() as server:
        connect_to(server.url)
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from devtools.process import HOST, PrivateProcess, ServerError

#: Where a server's program may be besides the directories in ``PATH``.
_SYSTEM_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin")


class Server(PrivateProcess):
    """One server, made by :meth:`start`."""

    #: What Debian calls its package.
    package: ClassVar[str] = ""
    #: What it is started with.
    program: ClassVar[str] = ""

    @classmethod
    def start(cls) -> Self:
        """Start one and return it when it accepts connections.

        Raises ``ServerError`` with the end of what the server said.
        """
        cls._program()  # before anything is made for it
        server = cls()
        server.launch_on_free_ports()
        return server

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

    @classmethod
    def _program(cls) -> str:
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), *cls._program_directories()])
        found = shutil.which(cls.program, path=path)
        if found is None:
            raise ServerError(
                f"{cls.program} is not installed: install the package '{cls.package}'"
            )
        return found

    @classmethod
    def _program_directories(cls) -> Sequence[str]:
        return _SYSTEM_DIRECTORIES


class RedisServer(Server):
    """A Redis that keeps everything in memory.

    https://redis.io/docs/latest/operate/oss_and_stack/
    """

    name = "Redis"
    package = program = "redis-server"

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:PORT``."""
        return f"redis://{HOST}:{self.port}"

    def _command(self) -> Sequence[str]:
        return [
            *(self._program(), "--bind", HOST, "--port", str(self.port)),
            *("--dir", str(self.directory), "--save", "", "--appendonly", "no"),
        ]


class PostgresServer(Server):
    """A PostgreSQL that trusts its clients: database and superuser ``postgres``, no password.

    It refuses to run as root, so for root it runs as ``nobody``. It never waits for a disk.
    https://www.postgresql.org/docs/current/runtime-config.html
    """

    name = "PostgreSQL"
    package = "postgresql"
    program = "postgres"
    # "Fast shutdown": clients are disconnected.
    stop_signal = signal.SIGINT

    @property
    def url(self) -> str:
        """``postgresql://postgres@127.0.0.1:PORT/postgres``."""
        return f"postgresql://postgres@{HOST}:{self.port}/postgres"

    @classmethod
    def _program_directories(cls) -> Sequence[str]:
        return _postgres_directories()

    def _command(self) -> Sequence[str]:
        user, directory = self._user(), self.directory
        if user is not None:
            shutil.chown(directory, user)
        data = directory / "data"
        if not data.exists():
            # Beside the server itself, which PATH may have as a link.
            initdb = str(Path(self._program()).resolve().with_name("initdb"))
            options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
            _run([initdb, "-D", str(data), *options], directory, user)
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
        changed = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self._program(), "-D", str(data), *changed]

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
    """A NATS that takes messages of up to 8 MiB.

    https://docs.nats.io/running-a-nats-service
    """

    name = "NATS"
    package = program = "nats-server"

    @property
    def url(self) -> str:
        """``nats://127.0.0.1:PORT``."""
        return f"nats://{HOST}:{self.port}"

    def _command(self) -> Sequence[str]:
        config = self.directory / "nats.conf"
        config.write_text(
            f"listen: {HOST}:{self.port}\nmax_payload: {8 << 20}\nmax_pending: {256 << 20}\n"
        )
        return [self._program(), "-c", str(config)]


def _postgres_directories() -> list[str]:
    """Where Debian puts each version's programs, the newest first."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    return sorted(map(str, versions), key=lambda path: float(path.split("/")[4]), reverse=True)


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
