"""examples/chat/demo.py, as ``make demo`` runs it: with and without a terminal, and cut short."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.broker import Broker
from devtools.process import free_port

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(180)


class Demo:
    """A demo that runs, with all that it has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], output: int) -> None:
        self.process = process
        self.text = ""
        self._reader = threading.Thread(target=self._read, args=(output,), daemon=True)
        self._reader.start()

    def _read(self, output: int) -> None:
        # A terminal whose last writer is gone answers with an error, a pipe with nothing.
        with contextlib.suppress(OSError):
            while piece := os.read(output, 65536):
                self.text += piece.decode()

    def until(self, pattern: str, timeout: float = 60) -> re.Match[str]:
        """Wait until the output matches; fail with the output."""
        deadline = time.monotonic() + timeout
        while not (match := re.search(pattern, self.text)):
            if time.monotonic() > deadline or not self._reader.is_alive():
                pytest.fail(f"{pattern!r} is not in the output:\n{self.text}")
            time.sleep(0.05)
        return match

    def finish(self, timeout: float = 60) -> int:
        """Wait for the end, and return the exit status."""
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status

    @property
    def processes(self) -> list[int]:
        """The process ids of the servers, and of the worker."""
        return [
            int(pid)
            for pid in re.findall(r"^  (?:server \d: \S+,|worker:) process (\d+)", self.text, re.M)
        ]


@contextlib.contextmanager
def running(amqp_url: str | None, *, terminal: bool = False) -> Iterator[Demo]:
    """A demo, which is ended on the way out if it has not by itself."""
    environment = {name: value for name, value in os.environ.items() if name != "AMQP_URL"}
    environment |= {"PYTHONIOENCODING": "utf-8"}
    if amqp_url:
        environment["AMQP_URL"] = amqp_url
    ours, theirs = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        [sys.executable, "examples/chat/demo.py"],
        cwd=ROOT,
        env=environment,
        stdin=theirs if terminal else subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    os.close(theirs)
    demo = Demo(process, ours)
    try:
        yield demo
    finally:
        if process.poll() is None:
            process.terminate()
        demo.finish()
        os.close(ours)


def assert_all_ended(demo: Demo) -> None:
    """The demonstration had two servers and a worker, and none of them runs any more."""
    assert len(demo.processes) == 3, demo.text
    for pid in demo.processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_without_a_terminal_every_line_arrives() -> None:
    """It brings its own RabbitMQ, shows each line with its latency and leaves nothing behind."""
    with running(None) as demo:
        assert demo.finish() == 0, demo.text
    assert "Starting a private RabbitMQ" in demo.text
    lines = re.findall(r"^  :(\d+) to :(\d+) +[\d.]+ ms +(Ada|Grace): .+$", demo.text, re.M)
    assert len(lines) == 8, demo.text
    assert {speaker for _, _, speaker in lines} == {"Ada", "Grace"}
    assert all(one != two for one, two, _ in lines)
    assert "8 of 8 lines arrived" in demo.text
    for seen in (
        r"Who is here: +{ms}Hedy comes in and sees Ada, Grace, Hedy\.",
        r'A private note: +{ms}Ada to Grace: "Just between us\." And not to Hedy\.',
        r"A worker's job: +{ms}348,513 primes .*, with 50 reports from worker process \d+\.",
        r"Missed lines: +{ms}Hedy's websocket is cut, comes back, and has 3 of 3 lines\.",
        r"Live numbers: +{ms}server :\d+ has published \d+, confirmed \d+, received \d+, ",
    ):
        assert re.search(seen.replace("{ms}", r"[\d.]+ ms +"), demo.text), (seen, demo.text)
    assert_all_ended(demo)


def test_at_a_terminal_it_serves_until_ctrl_c(broker: Broker) -> None:
    """Both addresses are printed and serve the room until Ctrl-C, which is no failure."""
    with running(broker.url, terminal=True) as demo:
        demo.until(r"Ctrl-C ends it")
        demo.until(r"(?s)Now you.*(http://\S+/room/\S+/).*(http://\S+/room/\S+/)\s")
        addresses = re.findall(r"http://\S+/room/\S+/", demo.text)
        assert len(set(addresses)) == 2
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for address in addresses:
            with direct.open(address, timeout=30) as page:
                assert b"Here now" in page.read()
        demo.process.send_signal(signal.SIGINT)
        assert demo.finish() == 0, demo.text
    assert_all_ended(demo)


def test_a_server_that_dies_is_said_with_its_output(broker: Broker) -> None:
    """When a server process ends by itself, the demo fails and shows what it printed last."""
    with running(broker.url, terminal=True) as demo:
        demo.until(r"Ctrl-C ends it")
        os.kill(demo.processes[0], signal.SIGKILL)
        assert demo.finish() == 1, demo.text
    assert f"(process {demo.processes[0]}) ended: signal 9" in demo.text
    assert "Listening on TCP address" in demo.text
    assert_all_ended(demo)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ended_early_it_ends_what_it_started(broker: Broker, number: signal.Signals) -> None:
    """A signal in the middle ends the servers too, and is no success."""
    with running(broker.url) as demo:
        demo.until(r"worker: ")
        demo.process.send_signal(number)
        assert demo.finish() == 128 + number, demo.text
    assert_all_ended(demo)


def test_without_rabbitmq_it_fails_in_words() -> None:
    """An AMQP_URL where nothing listens ends with exit status 1, and the servers' own words."""
    with running(f"amqp://127.0.0.1:{free_port()}") as demo:
        assert demo.finish(90) == 1, demo.text
    assert "printed last" in demo.text
    assert "Traceback" not in demo.text.split("printed last")[0]
    assert_all_ended(demo)
