"""``make conformance``: every layer against every clause, and the table for the documentation.

Each layer runs in an interpreter of its own, from a virtual environment of its own, against a
private server. The results are kept in build/conformance, so that one layer can be run again
without the others: ``python -m tests.conformance --only redis``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from devtools import environments
from devtools.broker import find_scripts
from devtools.process import ServerError
from devtools.servers import PostgresServer, RedisServer, Server
from tests.conformance.layers import OURS, SUBJECTS

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "conformance"
TABLE = ROOT / "docs" / "conformance-table.inc"

TOOLS = ("pytest >=8.2", "pytest-asyncio >=1.0", "pytest-timeout >=2.3")
SERVERS: Mapping[str, tuple[type[Server], str]] = {
    "redis": (RedisServer, "REDIS_URL"),
    "postgres": (PostgresServer, "POSTGRES_URL"),
}
SYMBOLS = {"passed": "✓", "failed": "**✗**", "failed at times": "(✗)", "not offered": "—"}

#: The order of the groups of clauses: that of the specification, then the original document's.
GROUPS = (
    "Messages",
    "Channels",
    "Interface",
    "Channel Semantics",
    "Capacity",
    "Groups",
    "Flush",
    "Persistence",
    "Approximate Global Ordering",
    "Names",
    "The original backend document: what a backend MUST do",
    "The original backend document: what a backend SHOULD do",
)

#: By test: what became of it, and the clauses that it proves.
Results = Mapping[str, Mapping[str, Any]]
#: By test and sentence: what became of a clause.
Clauses = dict[tuple[str, str], dict[str, str]]


class Unable(Exception):
    """A layer cannot be run. The text says why."""


def say(text: str) -> None:
    """Name a step."""
    print(f"==> {text}", flush=True)


@contextlib.contextmanager
def running(kind: str | None) -> Iterator[dict[str, str]]:
    """Run the server that a layer needs; gives its name and version, and the variable for it."""
    if kind is None:
        yield {}
        return
    make, variable = SERVERS[kind]
    with make.start() as server:
        yield {"name": server.name, "version": server.version, variable: server.url}


def rabbitmq_version() -> str:
    """The version of the RabbitMQ that the suite starts a private node of."""
    if "AMQP_URL" in os.environ:
        return "at AMQP_URL"
    with tempfile.TemporaryDirectory() as home:
        program = find_scripts() / "rabbitmqctl"
        environ = os.environ | {"HOME": home, "LC_ALL": "C.UTF-8"}
        return subprocess.run(
            [program, "version"], env=environ, capture_output=True, text=True, check=True
        ).stdout.strip()


def run(name: str) -> dict[str, Any]:
    """Hold one layer against all clauses; return, and keep, the results."""
    subject = SUBJECTS[name]
    file = BUILD / f"{name}.json"
    ours = name == OURS
    if ours:
        python = Path(sys.executable)
    else:
        wanted = [*subject.requirements, *TOOLS]
        say(f"Virtual environment with {', '.join(subject.requirements)}")
        package = subject.requirements[0].split()[0]
        python = environments.make(BUILD / "environments", package, wanted).python
    command = [str(python), "-m", "pytest", "--layer", name, "--conformance-json", str(file)]
    command += ["-q", "--no-header", "--tb=no", "-r", "", "-p", "no:cacheprovider"]
    if not ours:
        # Nothing of ours is installed there, and its warnings are its own affair.
        command += ["--confcutdir", "tests/conformance", "-W", "default", "--disable-warnings"]

    def run_tests(*tests: str) -> dict[str, Any]:
        file.unlink(missing_ok=True)
        environ = (dict(os.environ) if ours else environments.clean_environ()) | server
        subprocess.run([*command, *tests], cwd=ROOT, env=environ, check=False)
        if not file.exists():
            raise Unable("pytest did not come to its end")
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    with running(subject.server) as server:
        say(f"Running the clauses over {subject.title}")
        found = run_tests("tests/conformance")
        failed = [test for test, told in found["results"].items() if told["outcome"] == "failed"]
        if failed and not ours:
            say("Running again what failed, to tell always from at times")
            again = run_tests(*failed)["results"]
            for test in failed:
                if again[test]["outcome"] == "passed":
                    found["results"][test]["outcome"] = "failed at times"
    if ours:
        server = {"name": "RabbitMQ", "version": rabbitmq_version()}
    if server:
        found["server"] = f"{server['name']} {server['version']}"
    file.write_text(json.dumps(found, indent=1))
    return found


def by_clause(results: Results) -> Clauses:
    """One entry for a clause of a test function: of its parameters, the first that failed."""
    merged: Clauses = {}
    for test, result in results.items():
        for clause in result["clauses"]:
            key = test.partition("[")[0], clause["clause"]
            if key not in merged or merged[key]["outcome"] == "passed":
                merged[key] = {**clause, "outcome": result["outcome"], "reason": result["reason"]}
    return merged


def render(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The table, and what fails, in reStructuredText."""
    results = {name: by_clause(found[name]["results"]) for name in found}
    yield ".. Written by `make conformance`; changes made by hand are lost."
    yield ""
    yield from _versions(found)
    groups: dict[str, Clauses] = {group: {} for group in GROUPS}
    for layer in results.values():
        for test, result in layer.items():
            groups[result["group"]].setdefault(test, result)
    for group, clauses in groups.items():
        yield from _heading(group, "-")
        yield from _table_head(found, "Clause")
        for test, result in clauses.items():
            yield f"   * - *{result['level']}*: {_escape(result['clause'])}"
            for layer in results.values():
                outcome = layer[test]["outcome"] if test in layer else None
                yield f"     - {SYMBOLS.get(outcome or '', 'not run')}"
        yield ""
    yield from _heading("In all", "-")
    yield from _table_head(found, "Clauses")
    for outcome, title in (
        ("passed", "passed"),
        ("failed", "failed"),
        ("not offered", "not offered"),
    ):
        yield f"   * - {title}"
        for layer in results.values():
            yield f"     - {sum(r['outcome'] == outcome for r in layer.values())}"
    yield ""
    for name, layer in results.items():
        failed = [result for result in layer.values() if result["outcome"].startswith("failed")]
        if failed:
            yield from _heading(f"What fails: {SUBJECTS[name].title}", "-")
            for result in failed:
                yield f"* {_escape(result['clause'])} *{_escape(_short(result['reason']))}*"
            yield ""


def _versions(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, layer in found.items():
        versions = [f"{package} {version}" for package, version in layer["versions"].items()]
        if "server" in layer:
            versions.append(layer["server"])
        yield f"* **{SUBJECTS[name].title}**: {', '.join(versions)}"
    yield ""


def _heading(text: str, line: str) -> Iterator[str]:
    yield text
    yield line * len(text)
    yield ""


def _table_head(found: Mapping[str, object], title: str) -> Iterator[str]:
    yield ".. list-table::"
    yield "   :header-rows: 1"
    yield f"   :widths: 50 {' '.join('10' for _ in found)}"
    yield ""
    yield f"   * - {title}"
    for name in found:
        yield f"     - {SUBJECTS[name].title}"


def _escape(text: str) -> str:
    """Keep reStructuredText from seeing markup in a sentence."""
    return "".join(f"\\{letter}" if letter in "\\*`_|" else letter for letter in text)


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:157]}..."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the layers; write the table if there are results of all. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(SUBJECTS), metavar="LAYER")
    only = parser.parse_args(arguments).only or list(SUBJECTS)
    BUILD.mkdir(parents=True, exist_ok=True)
    found: dict[str, Mapping[str, Any]] = {}
    unable: dict[str, str] = {}
    for name in SUBJECTS:
        kept = BUILD / f"{name}.json"
        try:
            if name in only:
                found[name] = run(name)
            elif kept.exists():
                found[name] = json.loads(kept.read_text())
            else:
                unable[name] = f"not run yet; leave out --only, or add --only {name}"
        except (Unable, ServerError, environments.EnvironmentFailed) as error:
            unable[name] = str(error)
    print()
    for name, layer in found.items():
        outcomes = [result["outcome"] for result in by_clause(layer["results"]).values()]
        counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in SYMBOLS)
        print(f"{SUBJECTS[name].title:24} {counts}")
    for name, reason in unable.items():
        print(f"{SUBJECTS[name].title:24} {reason}")
    if unable:
        print("\nThe table was not written: results of all layers are needed.")
        return 1
    TABLE.write_text("\n".join(render(found)).rstrip() + "\n", encoding="utf-8")
    print(f"\nWritten: {TABLE.relative_to(ROOT)}")
    results = by_clause(found[OURS]["results"])
    return int(any(result["outcome"] != "passed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
