"""The processes of the chat, Daphne's and a worker's, for the demonstration and the tests.

A project of your own does not need this file: there, whatever keeps its services running starts
``daphne config.asgi:application`` and ``manage.py runworker chat-jobs`` as often as it likes.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from devtools.process import HOST, PrivateProcess, ServerError

HERE = Path(__file__).resolve().parent
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # straight to it
_LISTENING = re.compile(rf"Listening on TCP address {re.escape(HOST)}:(\d+)")


class ChatProcess(PrivateProcess):
    """What the chat's processes have in common: its directory, its settings and its RabbitMQ."""

    def __init__(self, amqp_url: str) -> None:
        super().__init__()
        self._amqp_url = amqp_url

    def start(self) -> None:
        """Start the process, again too, and wait until it is ready."""
        self.launch()
        self.wait_until_ready()

    def _environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "AMQP_URL": self._amqp_url,
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "DJANGO_DEBUG": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def _cwd(self) -> Path:
        return HERE


class Server(ChatProcess):
    """One Daphne process on a port of the loopback address.

    ``port`` is 0 for any free one. Once the server was ready it is the one in use, and stays the
    same when the server is started again.
    """

    name = "Daphne"
    stop_timeout = 5

    def __init__(self, amqp_url: str, *, port: int = 0) -> None:
        super().__init__(amqp_url)
        self.port = port

    @property
    def address(self) -> str:
        """Where the chat begins."""
        return f"http://{HOST}:{self.port}/"

    def _command(self) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "daphne"),
            *("--bind", HOST, "--port", str(self.port)),
            "config.asgi:application",
        ]

    def _is_ready(self) -> bool:
        # Daphne chooses a free port itself, so nobody can take it in between, and names it.
        listening = _LISTENING.search(self.tail())
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


class Worker(ChatProcess):
    """One process that does the jobs of the chat."""

    name = "Worker"
    stop_timeout = 5

    def _command(self) -> Sequence[str]:
        return [sys.executable, "manage.py", "runworker", "chat-jobs"]

    def _is_ready(self) -> bool:
        return "Running worker" in self.tail()


@contextlib.contextmanager
def chat_servers(amqp_url: str, ports: Sequence[int] = (0, 0)) -> Iterator[list[Server]]:
    """A server for each of ``ports``, over the RabbitMQ at ``amqp_url``; ended on the way out.

    Raises ``ServerError`` when one does not become ready.
    """
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(amqp_url, port=port)) for port in ports]
        for server in servers:
            server.launch()  # all at once, they do not wait for each other
        for server in servers:
            server.wait_until_ready()
        yield servers


@contextlib.contextmanager
def chat_worker(amqp_url: str) -> Iterator[Worker]:
    """A worker that starts, over the RabbitMQ at ``amqp_url``; ended on the way out."""
    with Worker(amqp_url) as worker:
        worker.launch()
        yield worker
