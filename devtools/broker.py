"""A private RabbitMQ node, for tests, the demo and benchmarks.

The node is one that nobody else uses: its own directory, Erlang cookie, port mapper (epmd) and
ports, all on the loopback interface. It runs as whoever starts it, never touches the system's
RabbitMQ service, and leaves no process and no file behind, however this process ends.

In Python::

    with Broker.start() as broker:
        connect_to(broker.url)

From a shell, around any command, or alone until Ctrl-C::

    python -m devtools.broker [--tls] [-- COMMAND ...]

COMMAND finds the addresses in ``AMQP_URL`` and, with ``--tls``, ``AMQPS_URL`` and the directory of
the certificates in ``AMQP_CERTS``.

The settings used here: https://www.rabbitmq.com/docs/configure
"""

from __future__ import annotations

import argparse
import base64
import functools
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from devtools.certs import make_certs
from devtools.process import (
    HOST,
    PrivateProcess,
    ServerError,
    accepts,
    free_port,
    has_ipv6,
    last_lines,
)

#: Where packages put RabbitMQ's own scripts. Debian's ``/usr/sbin`` has a wrapper that insists on
#: the system's account, so these are tried before ``PATH``.
SCRIPT_DIRECTORIES = (
    "/usr/lib/rabbitmq/bin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)


class BrokerError(ServerError):
    """RabbitMQ is not installed, does not start, or refuses a command. The text says what to do."""


def find_scripts() -> Path:
    """Return the directory of RabbitMQ's scripts; ``$RABBITMQ_SERVER``, a path, goes first.

    Raises ``BrokerError`` if there is none.
    """
    chosen = os.environ.get("RABBITMQ_SERVER")
    if chosen:
        if not os.access(chosen, os.X_OK):
            raise BrokerError(f"RABBITMQ_SERVER is {chosen!r}, which is not an executable file")
        return Path(chosen).resolve().parent
    for directory in SCRIPT_DIRECTORIES:
        if os.access(f"{directory}/rabbitmq-server", os.X_OK):
            return Path(directory)
    found = shutil.which("rabbitmq-server")
    if found:
        return Path(found).resolve().parent
    raise BrokerError(
        "rabbitmq-server is not installed: install the package 'rabbitmq-server' (Debian, Ubuntu, "
        "Fedora) or 'rabbitmq' (Homebrew), or set RABBITMQ_SERVER to the path of its "
        "rabbitmq-server script"
    )


class ErlangHost(PrivateProcess):
    """What Erlang nodes stand on: a port mapper (epmd), a home directory and a cookie.

    The port mapper that Erlang starts by itself would outlive the node.
    """

    name = "epmd"
    error = BrokerError
    ready_timeout = 10

    def __init__(self) -> None:
        self.scripts = find_scripts()
        super().__init__()
        self.home = self.directory / "home"
        self.home.mkdir()
        cookie = self.home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(20))
        cookie.chmod(0o400)

    @classmethod
    def start(cls) -> ErlangHost:
        """Start a port mapper on a port of its own, and return when it answers."""
        host = cls()
        host.launch_on_free_ports()
        return host

    def environment(self) -> dict[str, str]:
        """Return what Erlang programs here are started with: nothing of the user's RabbitMQ."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_", "NOTIFY_SOCKET"))
        }
        return inherited | {
            "HOME": str(self.home),
            "ERL_EPMD_PORT": str(self.port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_CRASH_DUMP_SECONDS": "0",  # none: the log says what happened
            "ELIXIR_ERL_OPTIONS": "+fnu",  # file names are UTF-8: no warning about the locale
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "no-environment-file"),
        }

    def _command(self) -> Sequence[str]:
        program = shutil.which("epmd")
        if program is None:
            raise BrokerError("epmd, a program of Erlang, on which RabbitMQ runs, is not in PATH")
        return [program, "-port", str(self.port), "-address", HOST]

    def _environment(self) -> Mapping[str, str]:
        return {"PATH": os.defpath, "HOME": str(self.directory)}


class Broker(PrivateProcess):
    """One private RabbitMQ node, with user and password ``guest``. Made by ``start()``."""

    name = "RabbitMQ"
    error = BrokerError
    ready_timeout = 90
    stop_timeout = 30

    def __init__(
        self, erlang: ErlangHost, certs: Path | None, config: Mapping[str, str], management: bool
    ) -> None:
        self._name = f"node-{secrets.token_hex(4)}"
        super().__init__(erlang.ground, self._name)
        #: What it stands on, and other nodes of a cluster with it.
        self.erlang = erlang
        self._owns_erlang = False
        self._certs = certs
        self._config = dict(config)
        self._management = management
        self._erlang_pid = 0
        #: Where its own files are.
        self.files = erlang.directory / self._name
        self.files.mkdir()
        #: Port for AMQP over TLS; None without certificates.
        self.tls_port: int | None = None
        #: Port of the management plugin's HTTP interface; None without it.
        self.management_port: int | None = None

    @classmethod
    def start(
        cls,
        *,
        certs: Path | None = None,
        config: Mapping[str, str] | None = None,
        management: bool = False,
        erlang: ErlangHost | None = None,
    ) -> Broker:
        """Start a node and return it when it accepts connections.

        *certs* is a directory that ``make_certs()`` filled: it opens a TLS port, where a client's
        certificate is checked if there is one. *config* has lines of ``rabbitmq.conf``, which win
        over ours. *management* adds the management plugin, for ``api()``: it costs the node some
        time on every event. *erlang*, that of another node, makes this one its neighbour, which
        ``rabbitmqctl join_cluster`` can reach, and which ends with it at the latest.

        Raises ``BrokerError`` with the end of the node's log.
        """
        host = erlang or ErlangHost.start()
        broker = cls(host, certs, config or {}, management)
        broker._owns_erlang = erlang is None
        broker.launch_on_free_ports()
        return broker

    @property
    def plain_port(self) -> int:
        """Port for AMQP without TLS, on 127.0.0.1 and, where the machine has it, ::1."""
        return self.port

    @property
    def node(self) -> str:
        """The Erlang node's name."""
        return f"{self._name}@localhost"

    @property
    def url(self) -> str:
        """The address for AMQP without TLS; it names no virtual host, which means ``/``."""
        return f"amqp://guest:guest@{HOST}:{self.port}"

    @property
    def tls_url(self) -> str:
        """The TLS address. Raises ``BrokerError`` for a node started without certificates."""
        if self.tls_port is None:
            raise BrokerError("this broker has no TLS port: start it with certs=")
        return f"amqps://guest:guest@{HOST}:{self.tls_port}"

    @functools.cached_property
    def version(self) -> tuple[int, ...]:
        """The version of RabbitMQ, as numbers. Asked for once; it costs as much as :meth:`ctl`."""
        return tuple(int(part) for part in re.findall(r"\d+", self.ctl("version"))[:3])

    @property
    def pid(self) -> int:
        """Process id of the Erlang machine. Raises ``BrokerError`` when the node is not running."""
        return self._erlang_pid or super().pid

    def ctl(self, *args: str, timeout: float = 60) -> str:
        """Run ``rabbitmqctl --silent ARGS`` against this node and return what it printed.

        It costs about half a second of processor time.
        Raises ``BrokerError`` when it fails, or takes more than *timeout* seconds.
        """
        command = [
            *(str(self.erlang.scripts / "rabbitmqctl"), "--silent", "--node", self.node),
            *args,
        ]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                env=self.erlang.environment(),
                cwd=self.files,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BrokerError(f"rabbitmqctl {' '.join(args)}: no answer in {timeout} s") from error
        if done.returncode != 0:
            raise BrokerError(
                f"rabbitmqctl {' '.join(args)}: {(done.stderr or done.stdout).strip()}"
            )
        return done.stdout

    def api(self, method: str, path: str, body: object = None, timeout: float = 30) -> object:
        """Call the management plugin's HTTP interface (milliseconds); return what it answered.

        *path* starts after ``/api/``. https://www.rabbitmq.com/docs/http-api-reference
        Raises ``BrokerError`` for an answer that is not a success, and without ``management=True``.
        """
        if self.management_port is None:
            raise BrokerError("this broker has no management plugin: start it with management=True")
        connection = http.client.HTTPConnection(HOST, self.management_port, timeout=timeout)
        headers = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}
        try:
            connection.request(
                method, f"/api/{path}", None if body is None else json.dumps(body), headers
            )
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise BrokerError(
                f"{method} /api/{path}: {response.status} {answer.decode(errors='replace')}"
            )
        decoded: object = json.loads(answer) if answer else None
        return decoded

    def tail(self, lines: int = 20) -> str:
        """The last *lines* of what the node wrote to its log."""
        return last_lines(self.files / "node.log", lines) or super().tail(lines)

    def pause(self) -> None:
        """Freeze the node (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo ``pause()``."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Start again on the same ports with what was stored; a running node first ends cleanly."""
        self.end()
        self.launch()
        self.wait_until_ready()

    def kill(self) -> None:
        """End the node without warning, as a crash does. ``restart()`` starts it again."""
        super().kill()
        self._erlang_pid = 0

    def stop(self) -> None:
        """End the node and all that belongs to it, and remove its files. Safe to call again."""
        if self.erlang.ground.is_ours:
            self.kill()
            if self._owns_erlang:
                self.erlang.stop()

    def wait_until_ready(self) -> None:
        """Return once it accepts connections. Raises ``BrokerError`` with the log's errors."""
        super().wait_until_ready()
        self._erlang_pid = int((self.files / "erlang.pid").read_text())

    def _choose_ports(self) -> None:
        self.port = free_port()
        self.tls_port = None if self._certs is None else free_port()
        self.management_port = free_port() if self._management else None
        self._distribution_port = free_port()

    def _command(self) -> Sequence[str]:
        (self.files / "rabbitmq.conf").write_text(
            "".join(f"{key} = {value}\n" for key, value in self._settings())
        )
        plugins = "[rabbitmq_management]." if self._management else "[]."
        (self.files / "enabled_plugins").write_text(plugins)
        (self.files / "erlang.pid").unlink(missing_ok=True)
        (self.files / "node.log").unlink(missing_ok=True)
        return [str(self.erlang.scripts / "rabbitmq-server")]

    def _environment(self) -> Mapping[str, str]:
        files = self.files
        return self.erlang.environment() | {
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONFIG_FILE": str(files / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(files / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(files / "enabled_plugins"),
            "RABBITMQ_SCHEMA_DIR": str(files / "schema"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(files / "generated"),
            "RABBITMQ_MNESIA_BASE": str(files / "data"),
            "RABBITMQ_LOG_BASE": str(files),
            "RABBITMQ_LOGS": str(files / "node.log"),
            "RABBITMQ_PID_FILE": str(files / "erlang.pid"),
            # Not bound to cores: several nodes, and their clients, share the machine.
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _cwd(self) -> Path:
        return self.files

    def _ask_to_end(self, process: subprocess.Popen[bytes]) -> None:
        self.resume()
        os.kill(self.pid, signal.SIGTERM)

    def _told(self) -> str:
        return f" Of its log:\n{_gist(self.tail(100_000))}"

    def _settings(self) -> Iterator[tuple[str, str]]:
        settings = {
            "listeners.tcp.1": f"{HOST}:{self.port}",
            "log.file.level": "info",
            # The default suits a machine of RabbitMQ's own: a nearly full disk must not block us.
            "disk_free_limit.absolute": "50MB",
        }
        if has_ipv6():
            settings["listeners.tcp.2"] = f"::1:{self.port}"
        if self.tls_port is not None and self._certs is not None:
            settings |= {
                "listeners.ssl.1": f"{HOST}:{self.tls_port}",
                "ssl_options.cacertfile": str(self._certs / "ca.cert"),
                "ssl_options.certfile": str(self._certs / "server.cert"),
                "ssl_options.keyfile": str(self._certs / "server.key"),
                "ssl_options.verify": "verify_peer",
                "ssl_options.fail_if_no_peer_cert": "false",
            }
            if has_ipv6():
                settings["listeners.ssl.2"] = f"::1:{self.tls_port}"
        if self.management_port is not None:
            settings |= {
                "management.tcp.ip": HOST,
                "management.tcp.port": str(self.management_port),
            }
        yield from (settings | self._config).items()

    def _is_ready(self) -> bool:
        """RabbitMQ opens its ports last, one after the other: all of them must answer."""
        others = [port for port in (self.tls_port, self.management_port) if port is not None]
        return _speaks_amqp(self.port) and all(accepts(port) for port in others)


def _speaks_amqp(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"  # a method frame: Connection.Start
    except OSError:
        return False


def _gist(log: str, lines: int = 25) -> str:
    """Return the first errors in *log*, else its end: pages of stopping follow a failed start."""
    everything = log.splitlines()
    errors = [line for line in everything if "[error]" in line or "[critical]" in line]
    return "\n".join(errors[:lines] or everything[-lines:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command with a private broker around it. Returns the command's exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m devtools.broker", description="A private RabbitMQ node."
    )
    parser.add_argument("--tls", action="store_true", help="open a TLS port too")
    parser.add_argument(
        "command", nargs="*", metavar="COMMAND", help="run this; the default: serve until Ctrl-C"
    )
    options = parser.parse_args(arguments)
    # A polite request to end becomes the exception that `with` cleans up after.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="rabbitmq-certs-") as directory:
            certs = make_certs(Path(directory)) if options.tls else None
            with Broker.start(certs=certs) as broker:
                variables = {"AMQP_URL": broker.url}
                if certs is not None:
                    variables |= {"AMQPS_URL": broker.tls_url, "AMQP_CERTS": str(certs)}
                if not options.command:
                    print(*(f"{name}={value}" for name, value in variables.items()), sep="\n")
                    print("Ctrl-C ends it.", flush=True)
                while not options.command:
                    signal.pause()
                return subprocess.call(options.command, env=os.environ | variables)
    except KeyboardInterrupt:
        return 130
    except (ServerError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
