"""Daphne processes that serve the chat, for the demonstration and the tests.

A project of your own does not need this file: there, whatever keeps its services running starts
``daphne config.asgi:application`` as often as it likes.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
READY_WITHIN = 60.0  # seconds; a cold first import on a slow disk takes its time
STOP_WITHIN = 5.0  # seconds after which a process that was asked to end is killed
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # straight to it
_LISTENING = re.compile(rf"Listening on TCP address {re.escape(HOST)}:(\d+)")


class ServerError(Exception):
    """A server process ended by itself, or did not become ready. Its text tells the output."""


class Server:
    """One Daphne process on a port of the loopback address.

    `port` is 0 for any free one; once :meth:`start` has returned it is the one in use, and stays
    the same when the server is started again.
    """

    def __init__(self, amqp_url: str, log: Path, *, port: int = 0) -> None:
        self.port = port
        self.log = log
        self._amqp_url = amqp_url
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}/"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def launch(self) -> None:
        """Start the process and return at once."""
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "daphne"),
                    *("--bind", HOST, "--port", str(self.port)),
                    "config.asgi:application",
                ],
                cwd=HERE,
                env={
                    **os.environ,
                    "AMQP_URL": self._amqp_url,
                    "DJANGO_SETTINGS_MODULE": "config.settings",
                    "DJANGO_DEBUG": "1",
                    "PYTHONUNBUFFERED": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C at the terminal is ours alone: we end the servers, in order.
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Return once pages are served. Raises ServerError when that takes too long."""
        deadline = time.monotonic() + READY_WITHIN
        while not self._serves():
            self.check()
            if time.monotonic() > deadline:
                raise ServerError(f"Daphne did not serve within {READY_WITHIN:g} s.{self._told()}")
            time.sleep(0.05)

    def start(self) -> None:
        """Start the process and wait until it serves."""
        self.launch()
        self.wait_until_ready()

    def check(self) -> None:
        """Raise ServerError if the process has ended by itself."""
        if self._process and self._process.poll() is not None:
            status = self._process.returncode
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            port = f" on port {self.port}" if self.port else ""
            raise ServerError(f"Daphne{port} (process {self.pid}) ended: {how}.{self._told()}")

    def stop(self) -> None:
        """End the process, and return when it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def tail(self, lines: int = 20) -> str:
        """The last lines that the process printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _serves(self) -> bool:
        # Daphne chooses a free port itself, so nobody can take it in between, and names it.
        listening = _LISTENING.search(self.log.read_text(errors="replace"))
        if not listening:
            return False
        self.port = int(listening[1])
        try:
            with _opener.open(self.address, timeout=5) as response:
                return bool(response.status == 200)
        except urllib.error.HTTPError as error:
            raise ServerError(f"{self.address} answers {error}.{self._told()}") from error
        except OSError:
            return False

    def _told(self) -> str:
        tail = self.tail()
        return f" Its last output:\n\n{tail}\n" if tail else " It printed nothing."


@contextlib.contextmanager
def chat_servers(amqp_url: str, ports: Sequence[int] = (0, 0)) -> Iterator[list[Server]]:
    """A server for each of `ports`, over the RabbitMQ at `amqp_url`; ended on the way out.

    Raises ServerError when one does not become ready.
    """
    with contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chat-")))
        servers = []
        for number, port in enumerate(ports, start=1):
            server = Server(amqp_url, logs / f"server-{number}.log", port=port)
            servers.append(stack.enter_context(server))
            server.launch()  # all at once, they do not wait for each other
        for server in servers:
            server.wait_until_ready()
        yield servers
