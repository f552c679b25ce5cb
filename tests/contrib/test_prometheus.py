"""The metrics for Prometheus, and the Grafana dashboard that shows them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources

import pytest
from channels.layers import channel_layers
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from channels_rabbitmq.contrib import prometheus
from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.events import Event, EventKind
from channels_rabbitmq.local.counts import CAUSES
from channels_rabbitmq.statistics import Statistics
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

#: Labels and value of each sample, by its name.
Samples = dict[str, list[tuple[dict[str, str], float]]]

#: Fields of the statistics that are in the info metric, or have a metric with a cause, or that
#: other metrics say as well.
ELSEWHERE = {"connection_name", "queue_name", "address", "dropped", "closed", "blocked_reason"}


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry with our metrics."""
    made = CollectorRegistry()
    prometheus.register(made)
    return made


@pytest.fixture
def _no_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_layers, "backends", {})


def scrape(registry: CollectorRegistry) -> Samples:
    """What Prometheus reads."""
    samples: Samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    """The one sample with that name and these labels."""
    (found,) = [
        number for having, number in samples[f"channels_rabbitmq_{name}"] if having == labels
    ]
    return found


@pytest.mark.usefixtures("_no_layers")
async def test_metrics(registry: CollectorRegistry, make_layer: MakeLayer) -> None:
    """Every number of every layer that is in use is there, with the alias of the layer."""
    assert not [name for name in scrape(registry) if "published" in name]
    first, second = make_layer(), make_layer()
    channel_layers.backends |= {"default": first, "second": second, "other": object()}
    channel = await first.new_channel()
    await first.group_add("room", channel)
    for _ in range(3):
        await first.group_send("room", {})
    await first.receive(channel)
    connection = await first.current_connection
    await connection.publish(b"no message", routing_key=first.queue_name)
    await until(lambda: first.statistics().dropped["bad_message"] == 1)
    await until(lambda: first.statistics().waiting == 2)
    samples = scrape(registry)
    numbers = first.statistics()
    for metric in prometheus.METRICS:
        suffix = "_total" if metric.kind == "counter" else ""
        found = value(samples, metric.name + suffix, layer="default")
        if metric.field != "oldest_waiting":
            assert found == float(getattr(numbers, metric.field) or 0), metric
    assert value(samples, "published_messages_total", layer="default") == 3
    assert value(samples, "waiting_messages", layer="default") == 2
    assert value(samples, "dropped_copies_total", layer="default", cause="bad_message") == 1
    assert value(samples, "connected", layer="default") == 1
    assert value(samples, "connected", layer="second") == 0
    (info, _), _ = samples["channels_rabbitmq_connection_info"]
    assert info == {
        "layer": "default",
        "connection_name": first.connection_name,
        "queue_name": first.queue_name,
        "address": numbers.address,
    }
    assert "guest" not in generate_latest(registry).decode()


def test_every_number_has_a_metric() -> None:
    """No field of the statistics is forgotten, and no metric is without one."""
    fields = {field.name for field in dataclasses.fields(Statistics)}
    assert {metric.field for metric in prometheus.METRICS} == fields - ELSEWHERE
    names = [metric.name for metric in prometheus.METRICS]
    assert len(names) == len(set(names))


@pytest.mark.usefixtures("_no_layers")
def test_registered_twice(registry: CollectorRegistry) -> None:
    """Registering twice is a mistake that prometheus_client finds out."""
    with pytest.raises(ValueError, match="Duplicated"):
        prometheus.register(registry)


async def test_events(registry: CollectorRegistry, make_layer: MakeLayer) -> None:
    """As on_event, it counts events by kind and cause, and messages where there are several."""

    def count(kind: str, cause: str = "") -> float:
        found = [
            number
            for labels, number in scrape(registry).get("channels_rabbitmq_events_total", [])
            if labels == {"kind": kind, "cause": cause}
        ]
        return sum(found)

    before = count("connected"), count("expired"), count("dropped", "flush")
    layer = make_layer(on_event="channels_rabbitmq.contrib.prometheus.count_event")
    await layer.current_connection
    prometheus.count_event(Event(EventKind.EXPIRED, 0.0, "", count=5))
    prometheus.count_event(Event(EventKind.DROPPED, 0.0, "", cause="flush", count=2))
    after = count("connected"), count("expired"), count("dropped", "flush")
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 5, 2]


def exported() -> set[str]:
    """The names of all samples."""
    layer = RabbitmqChannelLayer()
    registry = CollectorRegistry()
    prometheus.register(registry)
    channel_layers.backends["default"] = layer
    prometheus.count_event(Event(EventKind.EXPIRED, 0.0, ""))
    return {name for name in scrape(registry) if not name.endswith("_created")}


def expressions(node: object) -> Iterator[str]:
    """All queries of the dashboard."""
    if isinstance(node, dict):
        for key, each in node.items():
            if key in ("expr", "definition", "query") and isinstance(each, str):
                yield each
            else:
                yield from expressions(each)
    elif isinstance(node, list):
        for each in node:
            yield from expressions(each)


@pytest.mark.usefixtures("_no_layers")
def test_dashboard() -> None:
    """The dashboard that is in the package asks for metrics that are there, by labels they have."""
    path = resources.files("channels_rabbitmq.contrib") / "grafana-dashboard.json"
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    queries = list(expressions(dashboard))
    used = {name for query in queries for name in re.findall(r"channels_rabbitmq_\w+", query)}
    names = exported()
    assert len(used) > 20
    assert used <= names
    # What tells of trouble is shown.
    assert {
        name for name in names if re.search("refused|un(sent|confirmed)|dropped|expired", name)
    } <= used
    labels = {name for query in queries for name in re.findall(r"(\w+)=~", query)}
    assert labels == {"job", "instance", "layer"}
    assert {panel["type"] for panel in dashboard["panels"]} == {
        "row",
        "stat",
        "timeseries",
        "table",
    }
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_causes_are_labels() -> None:
    """Causes are words that a label may have, few and known."""
    assert all(re.fullmatch("[a-z_]+", cause) for cause in CAUSES)


def test_nothing_is_paid_when_off() -> None:
    """The layer imports neither prometheus_client nor opentelemetry."""
    program = (
        "import sys, django.conf; django.conf.settings.configure(); "
        "import channels_rabbitmq.core, channels_rabbitmq.contrib.health; "
        "print(sorted(name for name in sys.modules "
        "if name.startswith(('prometheus', 'opentelemetry'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("extra", ["prometheus", "opentelemetry"])
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, extra: str) -> None:
    """Where what it brings is not installed, the import says which extra that is."""
    module = f"channels_rabbitmq.contrib.{extra}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    package = {"prometheus": "prometheus_client"}.get(extra, extra)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as caught:
        importlib.import_module(module)
    assert f'{module} needs an extra: pip install "channels_rabbitmq[{extra}]"' in str(caught.value)
    assert caught.value.name == package
