"""Which layer is under test, how tests get it, and what becomes of their results."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests.conformance.clauses import Layer, Layers, NotOffered
from tests.conformance.layers import OURS, SUBJECTS, Subject

RESULTS = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Only known where pytest is told to run this directory; elsewhere the defaults hold."""
    group = parser.getgroup("conformance")
    group.addoption("--layer", choices=list(SUBJECTS), default=OURS, help="the layer under test")
    group.addoption("--conformance-json", metavar="FILE", help="write the results to FILE")


def _subject_name(config: pytest.Config) -> str:
    return str(config.getoption("--layer", OURS))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give Django what the layer under test needs, unless the ordinary suite has done so."""
    config.addinivalue_line(
        "markers", "clause(level, section, sentence, group): what the specification asks for"
    )
    config.stash[RESULTS] = {}
    if not settings.configured:
        import django

        settings.configure(**SUBJECTS[_subject_name(config)].configure_django(), USE_TZ=True)
        django.setup()


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Subject:
    """The layer under test."""
    chosen = SUBJECTS[_subject_name(request.config)]
    chosen.prepare()
    return chosen


@pytest.fixture
def make_ours(request: pytest.FixtureRequest, subject: Subject) -> Any:
    """What makes our layers, on a private broker; nothing where another layer is under test."""
    return request.getfixturevalue("make_layer") if subject is SUBJECTS[OURS] else None


@pytest.fixture
async def layers(subject: Subject, make_ours: Any) -> AsyncIterator[Layers]:
    """A function that makes layers which share one backing store, as two processes do.

    It takes how many (2), and of the options that the specification asks for: ``expiry``,
    ``group_expiry``, ``capacity`` and ``channel_capacity``.
    """
    made: list[Layer] = []

    async def make(count: int = 2, **options: object) -> list[Layer]:
        for name in sorted(options.keys() - subject.options):
            raise NotOffered(f"there is no option {name!r}")
        if make_ours is None:
            found = subject.make(count, options)
        else:
            if "capacity" in options:
                # What a channel of the process may hold on RabbitMQ and in memory, each.
                capacity = options["capacity"]
                options = {"local_capacity": capacity, "remote_capacity": capacity, **options}
            found = [make_ours(**options) for _ in range(count)]
        made.extend(found)
        for layer in found:
            await subject.start(layer)
        return found

    yield make
    for layer in {id(layer): layer for layer in made}.values():
        await subject.close(layer)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Tell "not offered" from failed, except for our layer, which has to offer everything."""
    report: pytest.TestReport = yield  # type: ignore[misc, assignment]
    error = call.excinfo.value if call.excinfo is not None else None
    reason = _in_one_line(error) if error is not None else ""
    outcome = report.outcome
    if call.when == "call" and isinstance(error, (NotOffered, NotImplementedError)):
        outcome = "not offered"
        if _subject_name(item.config) != OURS:
            report.outcome = "skipped"
            path, line, _ = item.location
            report.longrepr = (path, line or 0, f"not offered: {reason}")
    results = item.config.stash[RESULTS]
    if call.when == "call" or (outcome != "passed" and item.nodeid not in results):
        results[item.nodeid] = {
            "outcome": outcome,
            "reason": reason,
            "clauses": [_clause(item, mark) for mark in item.iter_markers("clause")],
        }
    return report  # type: ignore[return-value]


def _clause(item: pytest.Item, mark: pytest.Mark) -> dict[str, str]:
    level, section = mark.args
    sentence = mark.kwargs.get("sentence") or item.function.__doc__  # type: ignore[attr-defined]
    group = mark.kwargs.get("group") or item.module.__doc__.split("\n")[0]  # type: ignore[attr-defined]
    return {
        "level": level,
        "section": section,
        "clause": " ".join(sentence.split()),
        "group": group,
    }


def _in_one_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0].removeprefix("AssertionError: ")
    return (
        text
        if isinstance(error, (AssertionError, NotOffered, pytest.fail.Exception)) and text
        else (f"{type(error).__name__}: {text}" if text else type(error).__name__)
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the results, if a file for them is named."""
    file = session.config.getoption("--conformance-json", None)
    if file:
        name = _subject_name(session.config)
        versions = {told: importlib.metadata.version(told) for told in SUBJECTS[name].told}
        found = {
            "layer": name,
            "versions": {**versions, "Python": platform.python_version()},
            "results": session.config.stash[RESULTS],
        }
        Path(file).write_text(json.dumps(found, indent=1))
