"""The benchmark's own arithmetic and checks: what a figure may count on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import against, checks, micro
from benchmarks.__main__ import parse
from benchmarks.bench import Bench
from benchmarks.cases import CASES, TARGETS, UNITS, Target
from benchmarks.limits import LIMITS, Raw, bind_all
from benchmarks.null import NullLayer
from benchmarks.peers import PEERS, REQUIREMENTS
from benchmarks.processes import execute, run_worker
from benchmarks.report import (
    BEGIN,
    END,
    case_rows,
    escape,
    page,
    table,
    target_rows,
    targets_header,
    write_between,
)
from benchmarks.results import LIMIT, OURS, Results, judge
from benchmarks.served import SERVED
from benchmarks.servers import SERVERS, settle
from benchmarks.spec import Failure, Figures, Spec
from benchmarks.worker import WORKLOADS
from devtools.broker import Broker


def texts(*numbers: int) -> list[str]:
    """Messages of one sender."""
    return [checks.text(0, number, 30) for number in numbers]


def run(workload: str, capacity: int = 100_000, **params: object) -> tuple[Figures, str]:
    """Run a workload on Channels' in-memory layer."""
    return run_spec(
        Spec(
            workload=workload,
            params=params,
            seconds=0.05,
            layer="channels.layers.InMemoryChannelLayer",
            config={"capacity": capacity},
        )
    )


def run_spec(spec: Spec) -> tuple[Figures, str]:
    """Run it with our own interpreter."""
    return run_worker(Path(sys.executable), spec, 30)


def results(**by_peer: list[float]) -> Results:
    """The rate of each peer in one case, round after round."""
    found = Results()
    for peer, rates in by_peer.items():
        for rate in rates:
            found.add("send", peer, {"rate": rate})
    return found


def test_order_is_right() -> None:
    """Messages of several senders may mix, if each sender's are in order."""
    mixed = [checks.text(*pair, 30) for pair in ((0, 0), (1, 0), (0, 1), (1, 1))]
    checks.check_order(mixed, [2, 2])


@pytest.mark.parametrize(
    ("numbers", "wrong"),
    [((0, 2), "gap"), ((0, 0), "twice"), ((1, 0), "gap"), ((0, 1), "never came")],
)
def test_order_is_wrong(numbers: tuple[int, ...], wrong: str) -> None:
    """A message that is lost, doubled or out of order fails the workload."""
    with pytest.raises(Failure, match=wrong):
        checks.check_order(texts(*numbers), [3])


async def test_goal_counts_too_many() -> None:
    """More messages than were sent fail the workload as well."""
    goal = checks.Goal()
    goal.count = 3
    with pytest.raises(Failure, match="3 messages came instead of 2"):
        await goal.wait(2)


async def test_goal_tells_what_a_reader_found() -> None:
    """What a reader finds wrong ends the wait for the rest."""
    goal = checks.Goal()
    waiting = asyncio.ensure_future(goal.wait(2))
    await asyncio.sleep(0)
    goal.fail("it came twice")
    with pytest.raises(Failure, match="it came twice"):
        await waiting


@pytest.mark.parametrize(
    ("workload", "params", "figure"),
    [
        ("send", {"senders": 3, "payload": 100}, "rate"),
        ("latency", {}, "median_us"),
        ("group", {"members": 5}, "rate"),
        ("own_groups", {"groups": 5, "pause": 0.01, "churn": True}, "churn_rate"),
        ("room", {"members": 5}, "rate"),
        ("soak", {"messages": 100, "at_most": 5}, "growth_mb"),
    ],
)
def test_worker(workload: str, params: dict[str, int], figure: str) -> None:
    """A worker process runs a workload on a layer and answers with its figures."""
    figures, error = run(workload, **params)
    assert not error
    assert figure in figures


@pytest.mark.parametrize(
    "params",
    [
        {"scenario": "broadcast", "server": "daphne", "consumer": "sync"},
        {"scenario": "broadcast", "consumer": "json"},
        {"scenario": "notify"},
        {"scenario": "storm"},
    ],
    ids=lambda params: "-".join(params.values()),
)
def test_served(params: dict[str, str]) -> None:
    """Websockets of a real server all get what is for them; the server's time is told."""
    figures, error = run("served", clients=5, **params)
    assert not error
    assert figures["cpu_us"] > 0


def test_served_by_nobody() -> None:
    """A server that does not start is told, and nobody waits for it."""
    figures, error = run("served", clients=1, scenario="storm", options=["--no-such-option"])
    assert not figures
    assert "uvicorn ended with status 2" in error


async def test_null_layer() -> None:
    """The layer that only hands over does hand over, to the members of a group only."""
    layer = NullLayer()
    first, second = [await layer.new_channel() for _ in range(2)]
    await layer.group_add("room", first)
    await layer.group_add("room", second)
    await layer.group_discard("room", second)
    receiving = asyncio.ensure_future(layer.receive(first))
    await layer.group_send("room", {"type": "one"})
    await layer.send(second, {"type": "two"})
    assert await receiving == {"type": "one"}
    assert await layer.receive(second) == {"type": "two"}


def test_worker_fails() -> None:
    """What a layer raises is the answer."""
    figures, error = run("send", capacity=1, senders=5, payload=100)
    assert not figures
    assert "ChannelFull" in error


def test_worker_of_another_source() -> None:
    """A layer that does not come from where it should is not measured."""
    layer = "channels.layers.InMemoryChannelLayer"
    spec = Spec(workload="latency", seconds=0.05, layer=layer, source="/nowhere")
    figures, error = run_spec(spec)
    assert not figures
    assert "channels.layers was imported from" in error


def test_limit() -> None:
    """A limit is measured where no layer is named."""
    figures, error = run_spec(Spec(workload="group", params={"members": 5}, seconds=0.05))
    assert not error
    assert figures["rate"] > 0


@pytest.mark.parametrize(
    ("workload", "params", "figure"),
    [
        ("own_groups", {"groups": 10, "pause": 0, "churn": False}, "join_rate"),
        ("cut", {"groups": 10}, "seconds"),
    ],
)
def test_limit_of_rabbitmq(
    broker: Broker, workload: str, params: dict[str, int], figure: str
) -> None:
    """A socket binds keys, and does so again after a cut, once it gets its queue back."""
    spec = Spec(workload=workload, params=params, seconds=0.05, port=broker.port)
    figures, error = run_spec(spec)
    assert not error
    assert figures[figure] > 0


def test_settle(broker: Broker) -> None:
    """What the server does for a process that has ended is waited for, within bounds."""
    raw = Raw(broker.port)
    bind_all(raw, 1, [f"key{number}" for number in range(3000)])
    raw.socket.close()
    assert not settle(broker, patience=0)
    assert settle(broker)
    # Without an error: nobody has the queue any more.
    Raw(broker.port, queue=raw.queue).socket.close()


def test_cut(broker: Broker) -> None:
    """Groups come back after a cut, and the time until then is told."""
    layer = "channels_rabbitmq.core.RabbitmqChannelLayer"
    spec = Spec(
        workload="cut",
        params={"groups": 30},
        seconds=0.05,
        layer=layer,
        port=broker.port,
        config={"host": broker.url, "connection_name": "benchmark"},
    )
    figures, error = run_spec(spec)
    assert not error
    assert figures["seconds"] > 0.1  # the least delay before the layer connects again


def test_worker_breaks() -> None:
    """A worker that ends without an answer is told by its last words."""
    figures, error = execute([sys.executable, "-c", "raise SystemExit('no such layer')"], 30)
    assert (figures, error) == ({}, "no such layer")


def test_worker_hangs() -> None:
    """A worker that takes too long is ended."""
    figures, error = execute([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
    assert (figures, error) == ({}, "no result within 0.5 s")


def test_ratios_are_of_one_round() -> None:
    """A ratio compares figures of the same round: the machine changes between rounds."""
    found = results(ours=[100, 10, 1], other=[50, 5, 2])
    ratios = found.ratios("send", "ours", "other", "rate")
    assert ratios is not None
    assert (ratios.median, ratios.low, ratios.high) == (2, 0.5, 2)
    spread = found.spread("send", "ours", "rate")
    assert spread is not None
    assert (spread.median, spread.low, spread.high) == (10, 1, 100)


def test_failing_peer_has_no_figures() -> None:
    """A peer that failed in any round shows its error instead of the other rounds' figures."""
    found = results(**{"ours": [1.0], "redis-core": [1.0]})
    found.add("send", "redis-core", {}, "fails: ChannelFull")
    found.add("send", "redis-core", {"rate": 3.0})
    assert found.spread("send", "redis-core", "rate") is None
    rows = case_rows(found, CASES[0])
    assert rows[0][0] == "channels_rabbitmq"
    assert rows[1] == ["channels_redis core", "", "", "", "", "", "fails: ChannelFull"]


def test_missing_peer() -> None:
    """A peer whose server is not there is listed with the reason."""
    rows = case_rows(Results(missing={"nats": "no nats-server"}), CASES[0])
    assert rows == [["channels-nats", "", "", "", "", "", "not available: no nats-server"]]


@pytest.mark.parametrize(
    ("rates", "held", "met"), [([60, 70], 2, True), ([59, 60], 1, False), ([], 0, None)]
)
def test_targets(rates: list[float], held: int, met: bool | None) -> None:
    """A target is met if it held in every round; it may not have been measured."""
    target = Target("six times the other", "send", "rate", 6, True, "other")
    verdict = judge(results(ours=rates, other=[10, 10], limit=[70, 50]), target)
    assert (verdict.held, verdict.met, verdict.limit) == (held, met, 6)


def test_targets_of_several_versions() -> None:
    """The table of targets has the figures of each version beside each other."""
    found = [
        replace(results(**{OURS: [60, 50], "4.0.1": [10, 10], LIMIT: [90, 90]}), facts=facts)
        for facts in ({"RabbitMQ": "3.10.8"}, {"RabbitMQ": "4.3.6"})
    ]
    assert targets_header(found) == [
        *("target", "bound", "3.10.8", "held", "limit", "4.3.6", "held", "limit", "")
    ]
    row = ["5.50", "1 of 2", "9.00"]
    assert target_rows(found)[0] == ["send -> receive, to 4.0.1", "at least 6", *row, *row, ""]
    assert "The same with RabbitMQ 4.3.6" in page(found, Path("nowhere"))


def test_tables() -> None:
    """A table is simple reStructuredText; a last column that nobody needs is left out."""
    rows = [["a", "1", ""], ["bc_", "22", ""]]
    assert table(["name", "x", "why not"], rows, escape).splitlines() == [
        "====  ==",
        "name   x",
        "====  ==",
        "a      1",
        "bc\\_  22",
        "====  ==",
    ]
    assert "a     1  wide text" in table(["name", "x", ""], [["a", "1", "wide text"]])


def test_page_between_marks(tmp_path: Path) -> None:
    """Only what is between the marks of the page is written anew."""
    file = tmp_path / "page.rst"
    file.write_text(f"before\n\n{BEGIN}\n\nold\n\n{END}\nafter\n")
    write_between(file, "new\n")
    assert file.read_text() == f"before\n\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


def test_everything_named_is_there() -> None:
    """Cases, targets, peers and limits name what exists."""
    keys = {case.key for case in CASES}
    peers = {peer.key for peer in PEERS} | {LIMIT}
    assert OURS in peers
    for case in CASES:
        assert case.spec().workload in {*WORKLOADS, *SERVED}
        assert case.figure in UNITS
        assert case.limit is None or case.spec().workload in {*LIMITS, *SERVED}
        assert set(case.peers) <= peers
        assert set(case.columns) <= set(UNITS)
    for target in TARGETS:
        assert {target.case, *target.spread_over} <= keys
        assert target.against is None or target.against in peers
    assert {peer.server for peer in PEERS} - {None} <= set(SERVERS)
    assert {peer.environment for peer in PEERS} <= set(REQUIREMENTS)


def test_turns() -> None:
    """Each case is run by all in turn; the next round begins with who was last."""
    plan = Bench(PEERS, CASES[:2], 2, quick=False).plan()
    everybody = [LIMIT, *(peer.key for peer in PEERS)]
    turns = [(1, everybody), (2, everybody[::-1])]
    assert plan == [
        (number, case, key) for number, keys in turns for case in CASES[:2] for key in keys
    ]


def test_quick_turns() -> None:
    """A quick run has measured us in every case before it turns to the other peers."""
    keys = [key for _, _, key in Bench(PEERS, CASES[:3], 1, quick=True).plan()]
    assert keys[:9] == [LIMIT, OURS, "redis-pubsub"] * 3
    assert set(keys[9:]).isdisjoint(keys[:9])


def test_results_are_kept(tmp_path: Path) -> None:
    """What is saved can be read again, and takes a line for each case and peer."""
    found = replace(results(ours=[1234.5678, 2]), facts={"command": "make bench"})
    found.add("room", OURS, {}, "fails: é")
    file = tmp_path / "results.json"
    found.save(file)
    assert '"send/ours": {"rate": [1234.6, 2]}' in file.read_text().splitlines()
    assert Results.load(file) == found


def test_measured_again() -> None:
    """What is measured again takes the place of the case's last runs; all others stay."""
    found = replace(results(ours=[1], nats=[1]), facts={"command": "make bench"})
    found.add("room", OURS, {"rate": 2})
    newer = replace(results(ours=[3]), facts={"command": "again", "load before": "0.5"})
    found.replace(newer)
    assert found.values("send", OURS, "rate") == [3]
    assert found.values("send", "nats", "rate") == []
    assert found.values("room", OURS, "rate") == [2]
    assert found.facts == {
        "command": "make bench",
        "measured again (send)": "again",
        "load before that": "0.5",
    }


@pytest.mark.parametrize("other", [["--quick"], ["--peer", "ours"]])
def test_page_of_less(other: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A page with fewer peers, or from a quick run, is refused."""
    with pytest.raises(SystemExit):
        parse(["--page", *other])
    assert "--page" in capsys.readouterr().err


def test_against_unpacks_a_revision(tmp_path: Path) -> None:
    """The package comes as the revision has it, whatever the working tree has."""
    package = tmp_path / "repository" / against.PACKAGE
    package.mkdir(parents=True)
    (package / "core.py").write_text("old\n")
    (package.parent / "other.py").touch()
    git = ["git", "-C", str(package.parent), "-c", "user.name=A", "-c", "user.email=a@b.example"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "Old"]):
        subprocess.run([*git, *words], check=True)
    (package / "core.py").write_text("new\n")

    commit = against.unpack(package.parent, "HEAD", tmp_path / "unpacked")
    assert len(commit) >= 7
    files = [path for path in (tmp_path / "unpacked").rglob("*") if path.is_file()]
    assert files == [tmp_path / "unpacked" / against.PACKAGE / "core.py"]
    assert files[0].read_text() == "old\n"
    with pytest.raises(against.NotComparable, match="no revision 'nowhere'"):
        against.unpack(package.parent, "nowhere", tmp_path)


def test_against_compares_pairs() -> None:
    """A ratio is of two runs that followed each other, and the median of the pairs counts."""
    found = results(ours=[9, 11, 20], other=[10, 10, 10])
    assert against.row(found, CASES[0]) == ["send", "11", "10", "1.100", "0.900 - 2.000", "", ""]
    found.add("send", "other", {}, "fails: RuntimeError")
    with pytest.raises(against.NotComparable, match="send, other: fails: RuntimeError"):
        against.row(found, CASES[0])


def test_against_needs_a_case() -> None:
    """The names of cases are whole ones."""
    with pytest.raises(against.NotComparable, match="no case group-: give whole names"):
        against.compare(Path(), "HEAD", ["group-"], 1, quick=True)


@pytest.mark.parametrize(("function", "arguments"), [entry[1:] for entry in micro.BENCHMARKS])
def test_micro(function: Callable[..., object], arguments: Sequence[object]) -> None:
    """What is timed without a broker works, again and again."""
    for _ in range(2):
        function(*arguments)
    assert len(micro.mailboxes) == 0


def test_help() -> None:
    """``python -m benchmarks --help`` says what it does."""
    command = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "three minutes" in done.stdout
