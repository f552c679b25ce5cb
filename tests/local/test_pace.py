"""How many AMQP channels a burst is spread over, against made-up servers and a clock by hand."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from channels_rabbitmq.local.pace import MOST_CHANNELS, Pace, batch_size

#: Bindings a second over so many channels, as measured on RabbitMQ 4.3 and 3.10.
LOG = {1: 1100, 2: 2000, 4: 3300, 8: 4700, 16: 6500, 32: 8000, 64: 9700, 128: 11500}
LOCKS = {1: 6300, 2: 7600, 4: 9600, 8: 8600, 16: 6000, 32: 4500, 64: 3500, 128: 3000}
FLAT = dict.fromkeys(LOG, 2000)


class Server:
    """Makes bindings at a rate that depends on the channels, and tells the pace of it."""

    def __init__(self, rates: dict[int, float], noise: Callable[[], float] = lambda: 1.0) -> None:
        self.rates = rates
        self.noise = noise
        self.pace = Pace()
        self.now = 0.0
        #: The number of channels at each answer.
        self.used: list[int] = []

    def bind(self, count: int, most: int = MOST_CHANNELS) -> float:
        """Make so many bindings under full load; give the seconds that they took."""
        began = self.now
        while count > 0:
            channels = min(most, self.pace.channels)
            self.used.append(channels)
            batch = batch_size(channels)
            self.now += batch / (self.rates[channels] * self.noise())
            self.pace.answered(batch, self.now, most)
            count -= batch
        self.pace.pause()
        return self.now - began


@pytest.mark.parametrize(
    ("rates", "best"),
    [(LOG, {64, 128}), (LOCKS, {4, 8}), (FLAT, {1})],
    ids=["log", "locks", "flat"],
)
def test_finds_the_best_number(rates: dict[int, float], best: set[int]) -> None:
    """It ends up where the server is fastest, with the fewest channels that do."""
    server = Server(rates)
    server.bind(20_000)
    used = server.used[-1000:]
    assert sum(channels in best for channels in used) > 0.8 * len(used)


@pytest.mark.parametrize("rates", [LOG, LOCKS], ids=["log", "locks"])
def test_cost_of_finding_it(rates: dict[int, float]) -> None:
    """The first ten thousand take at most twice as long as with the best number, the next 1.2."""
    server = Server(rates)
    least = 10_000 / max(rates.values())
    assert server.bind(10_000) < 2 * least
    assert server.bind(10_000) < 1.2 * least


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rates", [LOG, LOCKS], ids=["log", "locks"])
def test_noise(rates: dict[int, float], seed: int) -> None:
    """Measurements that are off by a fifth, either way, cost some of the pace and no more."""
    drawn = random.Random(seed)
    server = Server(rates, lambda: drawn.uniform(0.5, 1.5))
    server.bind(10_000)
    assert server.bind(20_000) < 1.6 * 20_000 / max(rates.values())


def test_server_that_changes() -> None:
    """After a server of another kind has taken its place, the number follows."""
    server = Server(LOCKS)
    server.bind(10_000)
    server.rates = LOG
    server.bind(10_000)
    assert server.bind(10_000) < 1.3 * 10_000 / max(LOG.values())
    server.rates = LOCKS
    server.bind(10_000)
    assert server.bind(10_000) < 1.3 * 10_000 / max(LOCKS.values())


@pytest.mark.parametrize("times", [0.1, 3.0], ids=["slow", "fast"])
def test_one_hiccup(times: float) -> None:
    """One measurement that is far off changes nothing, a second one does."""
    server = Server(FLAT)
    server.bind(10_000)
    while server.pace.channels != 1:
        server.bind(100)
    known = repr(server.pace)
    found = []
    for _ in range(2):
        began = server.now
        server.pace.answered(16, began)
        while server.now - began < 0.01 or server.now - began < 2 * 16 / (FLAT[1] * times):
            server.now += 16 / (FLAT[1] * times)
            server.pace.answered(16, server.now)
        found.append(repr(server.pace))
    assert found[0] == known
    assert found[1] != known


def test_forgets() -> None:
    """A pace that is not the server's any more is measured anew."""
    server = Server(LOCKS)
    server.bind(10_000)
    assert server.pace.rate is not None
    server.pace.forget()
    assert server.pace.rate is None
    server.rates = {channels: rate / 60 for channels, rate in LOCKS.items()}
    server.bind(1000)
    assert server.pace.rate is not None
    assert server.pace.rate < 200


def test_few_allowed() -> None:
    """No more channels are used than the connection has to spare."""
    server = Server({**LOG, 5: 3700})
    server.bind(5000, most=5)
    assert max(server.used) == 5
    server = Server(LOG)
    server.bind(5000, most=1)
    assert set(server.used) == {1}


def test_small_bursts_tell_nothing() -> None:
    """What does not keep the server busy is not measured, however often it comes."""
    pace = Pace()
    for burst in range(1000):
        pace.answered(8, float(burst))
        pace.answered(8, burst + 0.001)
        pace.pause()
    assert pace.channels == 1
    assert repr(pace) == "<Pace: 1 channels; best 1>"


def test_batches() -> None:
    """Few channels have large batches, so that many answers need not be waited for."""
    assert [batch_size(channels) for channels in (1, 2, 4, 128)] == [16, 8, 4, 4]
