"""The benchmark's own arithmetic and checks: what a figure may count on."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import against, worker
from benchmarks.__main__ import BEGIN, END, Bench, parse, write_between
from benchmarks.cases import CASES, TARGETS, UNITS, Target
from benchmarks.limits import LIMITS
from benchmarks.peers import PEERS
from benchmarks.processes import execute
from benchmarks.results import LIMIT, OURS, Results, Run, case_rows, judge, rst_table, text_table
from benchmarks.servers import SERVERS

WORKER = str(Path(worker.__file__))


def texts(*numbers: int) -> list[str]:
    """Messages of one sender."""
    return [worker.text(0, number, 30) for number in numbers]


def spec(workload: str, **params: object) -> list[str]:
    """The command that runs a workload on Channels' in-memory layer."""
    described = {
        "layer": "channels.layers.InMemoryChannelLayer",
        "config": {"capacity": 100_000},
        "loop": "asyncio",
        "workload": workload,
        "params": params,
        "seconds": 0.05,
        "patience": 5,
    }
    return [sys.executable, WORKER, json.dumps(described)]


def results(**by_peer: list[float]) -> Results:
    """The rate of each peer in one case, round after round."""
    return Results(
        Run("send", peer, number, {"rate": rate})
        for peer, rates in by_peer.items()
        for number, rate in enumerate(rates, 1)
    )


def test_order_is_right() -> None:
    """Messages of several senders may mix, if each sender's are in order."""
    mixed = [worker.text(*pair, 30) for pair in ((0, 0), (1, 0), (0, 1), (1, 1))]
    worker.check_order(mixed, [2, 2])


@pytest.mark.parametrize(
    ("numbers", "wrong"),
    [((0, 2), "gap"), ((0, 0), "twice"), ((1, 0), "gap"), ((0, 1), "never came")],
)
def test_order_is_wrong(numbers: tuple[int, ...], wrong: str) -> None:
    """A message that is lost, doubled or out of order fails the workload."""
    with pytest.raises(worker.Failure, match=wrong):
        worker.check_order(texts(*numbers), [3])


async def test_goal_counts_too_many() -> None:
    """More messages than were sent fail the workload as well."""
    goal = worker.Goal()
    goal.count = 3
    with pytest.raises(worker.Failure, match="3 messages came instead of 2"):
        await goal.wait(2)


async def test_goal_tells_what_a_reader_found() -> None:
    """What a reader finds wrong ends the wait for the rest."""
    goal = worker.Goal()
    waiting = asyncio.ensure_future(goal.wait(2))
    await asyncio.sleep(0)
    goal.fail("it came twice")
    with pytest.raises(worker.Failure, match="it came twice"):
        await waiting


@pytest.mark.parametrize(
    ("workload", "params", "figure"),
    [
        ("send", {"senders": 3, "payload": 100}, "rate"),
        ("latency", {}, "median_us"),
        ("group", {"members": 5}, "rate"),
        ("own_groups", {"groups": 5}, "join_rate"),
        ("room", {"members": 5}, "rate"),
        ("soak", {"messages": 100, "at_most": 5}, "growth_mb"),
    ],
)
def test_worker(workload: str, params: dict[str, object], figure: str) -> None:
    """A worker process runs a workload on a layer and answers with its figures."""
    figures, error = execute(spec(workload, **params), 30)
    assert not error
    assert figure in figures


def test_worker_fails() -> None:
    """What a layer raises is the answer."""
    command = spec("send", senders=5, payload=100)
    command[-1] = command[-1].replace("100000", "1")
    figures, error = execute(command, 30)
    assert not figures
    assert "ChannelFull" in error


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
    assert found.ratio("send", "ours", "other", "rate") == 2
    spread = found.spread("send", "ours", "rate")
    assert spread is not None
    assert (spread.median, spread.low, spread.high) == (10, 1, 100)


def test_failing_peer_has_no_figures() -> None:
    """A peer that failed in any round shows its error instead of the other rounds' figures."""
    found = results(ours=[1], peer=[1])
    found.add(Run("send", "peer", 2, error="fails: ChannelFull"))
    assert found.spread("send", "peer", "rate") is None
    rows = case_rows(found, CASES[0], {"ours": "Ours", "peer": "Peer"}, {})
    assert rows[1][:2] == ["Peer", "fails: ChannelFull"]


def test_missing_peer() -> None:
    """A peer whose server is not there is listed with the reason."""
    rows = case_rows(results(), CASES[0], {"nats": "NATS"}, {"nats": "no nats-server"})
    assert rows == [["NATS", "not available: no nats-server", "", "", "", ""]]


@pytest.mark.parametrize(("rates", "met"), [([60], True), ([59], False), ([], None)])
def test_targets(rates: list[float], met: bool | None) -> None:
    """A target is met, missed, or not measured."""
    target = Target("six times the other", "send", "rate", 6, True, "other")
    assert judge(results(ours=rates, other=[10]), target).met is met


def test_tables() -> None:
    """Tables hold for a terminal, and for reStructuredText with its marks escaped."""
    rows = [["a", "1"], ["bc_", "22"]]
    assert text_table(["", "x"], [["a", "1"]]).splitlines()[-1].split() == ["a", "1"]
    assert "   * - bc\\_\n     - 22\n" in rst_table(["", "x"], rows)


def test_page_between_marks(tmp_path: Path) -> None:
    """Only what is between the marks of the page is written anew."""
    page = tmp_path / "page.rst"
    page.write_text(f"before\n\n{BEGIN}\n\nold\n\n{END}\nafter\n")
    write_between(page, "new\n")
    assert page.read_text() == f"before\n\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


def test_everything_named_is_there() -> None:
    """Cases, targets, peers and limits name what exists."""
    keys = {case.key for case in CASES}
    peers = {peer.key for peer in PEERS} | {LIMIT}
    assert OURS in peers
    for case in CASES:
        assert case.workload in worker.WORKLOADS
        assert case.figure in UNITS
        assert case.limit is None or case.workload in LIMITS
    for target in TARGETS:
        assert {target.case, *target.spread_over} <= keys
        assert target.against is None or target.against in peers
    assert {peer.server for peer in PEERS} - {None} <= set(SERVERS)


def test_turns() -> None:
    """Each case is run by all in turn, and a quick run leaves the documentation alone."""
    bench = Bench(parse(["--quick", "--case", "send"]))
    assert [case for _, case, _ in bench.plan()] == [CASES[0]] * (len(PEERS) + 1)
    assert not bench.for_documentation


def test_update(tmp_path: Path) -> None:
    """What is measured again takes the place of the case's last runs; all others stay."""
    old = [Run("send", OURS, 1, {"rate": 1.0}), Run("room", OURS, 1, {"rate": 2.0})]
    facts = {"command": "make bench", "processors": "2"}
    found = {"facts": facts, "runs": [dataclasses.asdict(run) for run in old]}
    (tmp_path / "results.json").write_text(json.dumps(found))

    bench = Bench(parse(["--update", "--case", "send"]))
    assert bench.for_documentation
    bench.output = tmp_path
    bench.machine = {"load before": "0.5"}
    bench.results.add(Run("send", OURS, 1, {"rate": 3.0}))
    bench.update(["python", "-m", "benchmarks"])

    rates = {run.case: run.figures["rate"] for run in bench.results.runs}
    assert rates == {"send": 3.0, "room": 2.0}
    assert [case.key for case in bench.cases] == ["send", "room"]
    assert bench.facts(["x"]) == {
        **facts,
        "measured again (send)": "python -m benchmarks",
        "load before that": "0.5",
    }


@pytest.mark.parametrize("other", [["--quick"], ["--peer", "ours"], ["--output", "x"]])
def test_update_of_less(other: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An update with fewer peers, or from a quick run, is refused."""
    with pytest.raises(SystemExit):
        parse(["--update", *other])
    assert "--update" in capsys.readouterr().err


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
    """A ratio is of one pair of runs, and the median of the pairs counts."""
    pairs = [
        ({"rate": rate, "cpu_us": 5.0}, {"rate": 10.0, "cpu_us": 10.0}) for rate in (9, 11, 20)
    ]
    assert against.row(CASES[0], pairs) == ["send", "11", "10", "1.100", "0.900 - 2.000", "0.500"]


def test_worker_of_another_source() -> None:
    """A layer that does not come from where it should is not measured."""
    command = spec("send", senders=1, payload=100)
    command[-1] = json.dumps({**json.loads(command[-1]), "source": "/nowhere"})
    figures, error = execute(command, 30)
    assert not figures
    assert "channels.layers was imported from" in error


def test_help() -> None:
    """``python -m benchmarks --help`` says what it does."""
    command = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "three minutes" in done.stdout
