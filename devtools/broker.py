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
import atexit
import base64
import contextlib
import functools
import http.client
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from devtools.certs import make_certs

HOST = "127.0.0.1"

#: Where packages put RabbitMQ's own scripts. Debian's ``/usr/sbin`` has a wrapper that insists on
#: the system's account, so these are tried before ``PATH``.
SCRIPT_DIRECTORIES = (
    "/usr/lib/rabbitmq/bin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)

#: Ends what is named in DIRECTORY/*.pid (each leads a process group) and removes DIRECTORY, when
#: told to by a line on its standard input or when that is closed because the Python process died,
#: however it did.
GUARD = """
read -r _
for file in "$1"/*.pid; do
    [ -s "$file" ] && kill -KILL "-$(cat "$file")"
done
rm -rf "$1"
""".strip()


class BrokerError(Exception):
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


class _PortTaken(BrokerError):
    """Somebody else took a port between our finding it free and the node's using it."""


class _Ground:
    """What one node, or all nodes of a cluster, stand on: directory, Erlang cookie, port mapper."""

    def __init__(self) -> None:
        self.scripts = find_scripts()
        self.directory = Path(tempfile.mkdtemp(prefix="rabbitmq-private-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        # Whoever made this object ends it, not a fork of that process that happens to exit first.
        self._owner = os.getpid()
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, "guard", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        atexit.register(self.close)
        try:
            home = self.directory / "home"
            home.mkdir()
            cookie = home / ".erlang.cookie"
            cookie.write_text(secrets.token_hex(20))
            cookie.chmod(0o400)
            self.epmd_port = self._start_epmd()
        except BaseException:
            self.close()
            raise

    def environment(self) -> dict[str, str]:
        """Return what Erlang programs here are started with: nothing of the user's RabbitMQ."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_", "NOTIFY_SOCKET"))
        }
        return inherited | {
            "HOME": str(self.directory / "home"),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_CRASH_DUMP_SECONDS": "0",  # none: the log says what happened
            "ELIXIR_ERL_OPTIONS": "+fnu",  # file names are UTF-8: no warning about the locale
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "no-environment-file"),
        }

    def spawn(
        self, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start *command* as the leader of a process group that the guard knows and ends."""
        with (self.directory / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=self.directory,
                start_new_session=True,
            )
        (self.directory / f"{name}.pid").write_text(str(process.pid))
        self._processes[name] = process
        return process

    def end(self, name: str) -> None:
        """End what ``spawn()`` started under *name*, with its children, at once."""
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        (self.directory / f"{name}.pid").unlink(missing_ok=True)

    def close(self) -> None:
        """End every process and remove the directory. Safe to call again."""
        if self._owner != os.getpid():
            return
        atexit.unregister(self.close)
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.write(b"\n")
                self._guard.stdin.flush()
            self._guard.stdin.close()
        self._guard.wait()
        for process in self._processes.values():
            process.wait()

    def _start_epmd(self) -> int:
        """Start a port mapper of our own: one that Erlang starts by itself outlives the node."""
        program = _find_epmd()
        for _ in range(5):
            port = free_port()
            environment = {"PATH": os.defpath, "HOME": str(self.directory)}
            process = self.spawn(
                "epmd", [program, "-port", str(port), "-address", HOST], environment
            )
            with contextlib.suppress(TimeoutError):
                _wait_until(functools.partial(_accepts, port), 10, process)
                return port
            self.end("epmd")
        raise BrokerError(
            f"Erlang's port mapper does not start: {_tail(self.directory / 'epmd.out')}"
        )


class Broker:
    """One private RabbitMQ node, with user and password ``guest``. Made by ``start()``."""

    def __init__(
        self, ground: _Ground, certs: Path | None, config: Mapping[str, str], management: bool
    ) -> None:
        self._ground = ground
        self._certs = certs
        self._config = dict(config)
        self._name = f"node-{secrets.token_hex(4)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self.directory = ground.directory / self._name
        self.directory.mkdir()
        self._choose_ports(management)

    def _choose_ports(self, management: bool) -> None:
        #: Port for AMQP without TLS, on 127.0.0.1 and, where the machine has it, ::1.
        self.plain_port = free_port()
        #: Port for AMQP over TLS; None without certificates.
        self.tls_port = None if self._certs is None else free_port()
        #: Port of the management plugin's HTTP interface; None without it.
        self.management_port = free_port() if management else None
        self._distribution_port = free_port()

    @classmethod
    def start(
        cls,
        *,
        certs: Path | None = None,
        config: Mapping[str, str] | None = None,
        management: bool = False,
        ready_timeout: float = 90,
    ) -> Broker:
        """Start a node and return it when it accepts connections, within *ready_timeout* seconds.

        *certs* is a directory that ``make_certs()`` filled: it opens a TLS port, where a client's
        certificate is checked if there is one. *config* has lines of ``rabbitmq.conf``, which win
        over ours. *management* adds the management plugin, for ``api()``: it costs the node some
        time on every event.

        Raises ``BrokerError`` with the end of the node's log.
        """
        ground = _Ground()
        try:
            broker = cls(ground, certs, config or {}, management)
            broker._launch_on_free_ports(ready_timeout)
        except BaseException:
            ground.close()
            raise
        return broker

    @property
    def url(self) -> str:
        """The address for AMQP without TLS; it names no virtual host, which means ``/``."""
        return f"amqp://guest:guest@{HOST}:{self.plain_port}"

    @property
    def tls_url(self) -> str:
        """The TLS address. Raises ``BrokerError`` for a node started without certificates."""
        if self.tls_port is None:
            raise BrokerError("this broker has no TLS port: start it with certs=")
        return f"amqps://guest:guest@{HOST}:{self.tls_port}"

    @property
    def pid(self) -> int:
        """Process id of the Erlang machine. Raises ``BrokerError`` when the node is not running."""
        if self._process is None:
            raise BrokerError("the broker is not running")
        return self._pid

    def ctl(self, *args: str, timeout: float = 60) -> str:
        """Run ``rabbitmqctl --silent ARGS`` against this node and return what it printed.

        It costs about half a second of processor time.
        Raises ``BrokerError`` when it fails, or takes more than *timeout* seconds.
        """
        command = [
            str(self._ground.scripts / "rabbitmqctl"),
            "--silent",
            "--node",
            self._node,
            *args,
        ]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                env=self._ground.environment(),
                cwd=self.directory,
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

    def log(self, lines: int = 25) -> str:
        """Return the last *lines* of what the node wrote to its log."""
        before_logging = self._ground.directory / f"{self._name}.out"
        return _tail(self.directory / "node.log", lines) or _tail(before_logging, lines)

    def pause(self) -> None:
        """Freeze the node (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo ``pause()``."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the node without warning, as a crash does. ``restart()`` starts it again."""
        if self._process is not None:
            self._ground.end(self._name)
            self._process = None

    def restart(self, ready_timeout: float = 90) -> None:
        """Start again on the same ports with what was stored; a running node first ends cleanly."""
        if self._process is not None:
            self.resume()
            os.kill(self.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
            self.kill()
        self._launch(ready_timeout)

    def stop(self) -> None:
        """End the node and all that belongs to it, and remove its files. Safe to call again."""
        self._ground.close()
        self._process = None

    def __enter__(self) -> Broker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else f"pid {self._pid}"
        return f"<Broker {HOST}:{self.plain_port} {state}>"

    @property
    def _node(self) -> str:
        return f"{self._name}@localhost"

    def _launch_on_free_ports(self, ready_timeout: float) -> None:
        """Start; where somebody took a free port before the node did, try others."""
        for _ in range(3):
            try:
                self._launch(ready_timeout)
                return
            except _PortTaken as error:
                refused = error
            self._choose_ports(self.management_port is not None)
        raise refused

    def _launch(self, ready_timeout: float) -> None:
        directory = self.directory
        (directory / "rabbitmq.conf").write_text(
            "".join(f"{key} = {value}\n" for key, value in self._settings())
        )
        plugins = "[rabbitmq_management]." if self.management_port is not None else "[]."
        (directory / "enabled_plugins").write_text(plugins)
        environment = self._ground.environment() | {
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_SCHEMA_DIR": str(directory / "schema"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory),
            "RABBITMQ_LOGS": str(directory / "node.log"),
            "RABBITMQ_PID_FILE": str(directory / "erlang.pid"),
            # Not bound to cores: several nodes, and their clients, share the machine.
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        (directory / "erlang.pid").unlink(missing_ok=True)
        (directory / "node.log").unlink(missing_ok=True)
        process = self._ground.spawn(
            self._name, [str(self._ground.scripts / "rabbitmq-server")], environment
        )
        self._process = process
        try:
            _wait_until(self._is_ready, ready_timeout, process)
            self._pid = int((directory / "erlang.pid").read_text())
        except TimeoutError as error:
            self.kill()
            log = self.log(100_000)
            kind = _PortTaken if "eaddrinuse" in log or " in use" in log else BrokerError
            raise kind(f"RabbitMQ {error}. Of its log:\n{_gist(log)}") from error
        except BaseException:
            self.kill()
            raise

    def _settings(self) -> Iterator[tuple[str, str]]:
        settings = {
            "listeners.tcp.1": f"{HOST}:{self.plain_port}",
            "log.file.level": "info",
            # The default suits a machine of RabbitMQ's own: a nearly full disk must not block us.
            "disk_free_limit.absolute": "50MB",
        }
        if _has_ipv6():
            settings["listeners.tcp.2"] = f"::1:{self.plain_port}"
        if self.tls_port is not None and self._certs is not None:
            settings |= {
                "listeners.ssl.1": f"{HOST}:{self.tls_port}",
                "ssl_options.cacertfile": str(self._certs / "ca.cert"),
                "ssl_options.certfile": str(self._certs / "server.cert"),
                "ssl_options.keyfile": str(self._certs / "server.key"),
                "ssl_options.verify": "verify_peer",
                "ssl_options.fail_if_no_peer_cert": "false",
            }
            if _has_ipv6():
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
        return _speaks_amqp(self.plain_port) and all(_accepts(port) for port in others)


def free_port() -> int:
    """Return a loopback port that was free just now.

    It lies below the range from which systems pick the local port of an outgoing connection. In
    that range a client that tries to reach a stopped broker could be given the broker's port and
    connect to itself.
    """
    families = [(socket.AF_INET, HOST)] + ([(socket.AF_INET6, "::1")] if _has_ipv6() else [])
    for _ in range(200):
        port = random.randint(20000, 32000)
        with contextlib.suppress(OSError):
            for family, host in families:
                with socket.socket(family) as candidate:
                    candidate.bind((host, port))
            return port
    raise BrokerError("no free port between 20000 and 32000")


@functools.cache
def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as candidate:
            candidate.bind(("::1", 0))
    except OSError:
        return False
    return True


def _find_epmd() -> str:
    found = shutil.which("epmd")
    if found:
        return found
    try:
        asked = subprocess.run(
            ["erl", "-noshell", "-eval", 'io:format("~s",[code:root_dir()]),halt().'],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BrokerError(
            "Erlang, which RabbitMQ runs on, is not installed, or 'erl' is not in PATH"
        ) from error
    for program in sorted(Path(asked.stdout).glob("**/bin/epmd")):
        return str(program)
    raise BrokerError(f"Erlang in {asked.stdout} has no program 'epmd'")


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _speaks_amqp(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"  # a method frame: Connection.Start
    except OSError:
        return False


def _wait_until(
    condition: Callable[[], bool], timeout: float, process: subprocess.Popen[bytes]
) -> None:
    """Poll *condition*; ``TimeoutError`` says whether *process* ended or *timeout* passed."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None:
            raise TimeoutError(f"ended with status {process.returncode} instead of starting")
        if time.monotonic() > deadline:
            raise TimeoutError(f"was not ready after {timeout:g} s")
        time.sleep(0.05)


def _tail(file: Path, lines: int = 25) -> str:
    try:
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


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
    parser.add_argument(
        "--tls", action="store_true", help="open a TLS port too, with throw-away certificates"
    )
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
                if options.command:
                    return subprocess.run(
                        options.command, env=os.environ | variables, check=False
                    ).returncode
                for name, value in variables.items():
                    print(f"{name}={value}", flush=True)
                print("Ctrl-C ends it.", flush=True)
                while True:
                    signal.pause()
    except KeyboardInterrupt:
        return 130
    except (BrokerError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
