"""The processes of the site: two Daphnes, a Celery worker, ``runworker``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from devtools.process import HOST, PrivateDirectory, PrivateProcess

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "tests" / "projects" / "soak"


class Process(PrivateProcess):
    """A Python command of the site; ``{port}`` in it is its port."""

    name = "The site"

    def __init__(
        self, shared: PrivateDirectory, key: str, more: Mapping[str, str], *arguments: str
    ) -> None:
        super().__init__(shared, key)
        #: What it is called in the report.
        self.key = key
        self._more = more
        self._arguments = arguments

    def _command(self) -> Sequence[str]:
        return [sys.executable, *(each.format(port=self.port) for each in self._arguments)]

    def _environment(self) -> Mapping[str, str]:
        path = os.pathsep.join([str(PROJECT), str(ROOT)])
        return {**os.environ, **self._more, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

    @property
    def output(self) -> list[str]:
        """The lines that it printed."""
        return (self.directory / f"{self.key}.out").read_text(errors="replace").splitlines()

    @property
    def told(self) -> list[dict[str, Any]]:
        """What it told of its messages."""
        return [json.loads(line) for line in self.output if line.startswith("{")]

    @property
    def connections(self) -> int:
        """How often it connected to RabbitMQ."""
        return sum("Connected to RabbitMQ at" in line for line in self.output)

    @property
    def memory(self) -> float:
        """MiB that it holds, with the children that it forked."""
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,rss="], capture_output=True, text=True, check=True
        )
        rows = [[int(word) for word in line.split()] for line in listed.stdout.splitlines()]
        return sum(rss for pid, ppid, rss in rows if self.pid in (pid, ppid)) / 1024


class Site:
    """All processes of the site, in one directory."""

    def __init__(self, urls: Sequence[str], rooms: int, rate: float) -> None:
        self._ground = PrivateDirectory("soak")
        options = {
            "host": list(urls),
            "send_timeout": 5,
            "group_send_raises": True,
            "normal_queue_type": "quorum",
            # What comes while the machine is busy with a node that starts is not to be refused.
            "capacity": 10_000,
            "local_capacity": 1_000,
            "remote_capacity": 10_000,
        }
        more = {
            "DJANGO_SETTINGS_MODULE": "soaked.settings",
            "LAYER_OPTIONS": json.dumps(options),
            "SOAK_ROOMS": str(rooms),
            "SOAK_RATE": str(rate),
        }

        def process(key: str, *arguments: str) -> Process:
            return Process(self._ground, key, more, *arguments)

        daphne = ["-m", "daphne", "-v", "0", "-b", HOST, "-p", "{port}", "soaked.asgi:application"]
        celery = ["-m", "celery", "-A", "soaked.tasks", "worker", "-P", "prefork", "-c", "1"]
        self.servers = [process("daphne-1", *daphne), process("daphne-2", *daphne)]
        self.worker = process("runworker", str(PROJECT / "manage.py"), "runworker", "orders")
        self.publisher = process("celery", *celery)
        self.all = [*self.servers, self.worker, self.publisher]

    def start(self) -> None:
        """Start the servers and the worker. The publisher is started when somebody hears it."""
        self.worker.launch()
        for server in self.servers:
            server.launch_on_free_ports()

    def dropped(self) -> dict[str, dict[str, int]]:
        """What each server's layer dropped, by cause."""
        found = {}
        for server in self.servers:
            with urllib.request.urlopen(f"http://{HOST}:{server.port}/dropped", timeout=30) as page:
                found[server.key] = {cause: n for cause, n in json.load(page).items() if n}
        return found

    def stop_publishing(self) -> None:
        """Have the publisher come to its end."""
        (self._ground.path / "stop").touch()

    def close(self) -> None:
        """End all."""
        for process in self.all:
            process.stop()
        self._ground.close()
