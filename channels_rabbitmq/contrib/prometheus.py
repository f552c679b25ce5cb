"""Metrics for Prometheus; with the extra ``prometheus``, which brings ``prometheus_client``.

::

    from channels_rabbitmq.contrib import prometheus

    prometheus.register()  # once in each process, such as in an AppConfig's ready()

The numbers are those of :meth:`.RabbitmqChannelLayer.statistics`, read when Prometheus asks. A
layer is there from its first use on.

Where several processes answer for each other (``PROMETHEUS_MULTIPROC_DIR``), no collector is asked.
There, :func:`count_event` as the option ``on_event`` counts what goes wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from channels.layers import channel_layers

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        InfoMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ImportError as err:
    raise ImportError(
        f'{__name__} needs an extra: pip install "channels_rabbitmq[prometheus]" ({err})',
        name=err.name,
    ) from err

from ..core import RabbitmqChannelLayer
from ..events import Event
from ..statistics import Statistics

__all__ = ["METRICS", "LayerCollector", "LayerMetric", "count_event", "register"]

_PREFIX = "channels_rabbitmq_"


class LayerMetric(NamedTuple):
    """A number of a layer as Prometheus has it."""

    #: The field of :class:`.Statistics`.
    field: str
    #: The metric's name after ``channels_rabbitmq_``; a counter's has ``_total`` added to it.
    name: str
    kind: Literal["counter", "gauge"]
    help: str


#: Every metric but ``connection`` (an info metric) and ``dropped_copies`` (which has a cause).
METRICS = (
    LayerMetric("connected", "connected", "gauge", "1 while the layer is connected, else 0"),
    LayerMetric("receiving", "receiving", "gauge", "1 while its queue is consumed, else 0"),
    LayerMetric(
        "connected_since",
        "connected_since_seconds",
        "gauge",
        "UNIX time at which the layer connected, 0 while it is not connected",
    ),
    LayerMetric(
        "disconnected_since",
        "disconnected_since_seconds",
        "gauge",
        "UNIX time since which the layer has tried to connect, 0 while it does not",
    ),
    LayerMetric("reconnections", "reconnections", "counter", "Connections after the first"),
    LayerMetric(
        "failed_connections", "failed_connections", "counter", "Failed attempts to connect"
    ),
    LayerMetric("blocked", "blocked", "gauge", "1 while RabbitMQ takes no publishes, else 0"),
    LayerMetric("published", "published_messages", "counter", "Messages given to RabbitMQ"),
    LayerMetric("confirmed", "confirmed_messages", "counter", "Messages that RabbitMQ confirmed"),
    LayerMetric(
        "refused", "refused_messages", "counter", "Messages that a full queue did not take"
    ),
    LayerMetric("unconfirmed", "unconfirmed_messages", "counter", "Messages not confirmed in time"),
    LayerMetric("under_way", "under_way_messages", "gauge", "Messages that may still be confirmed"),
    LayerMetric("unsent", "unsent_messages", "counter", "Messages not given to RabbitMQ"),
    LayerMetric("received", "received_messages", "counter", "Messages that RabbitMQ sent here"),
    LayerMetric("copies", "copies", "counter", "Copies of them, one for each local receiver"),
    LayerMetric("delivered", "delivered_copies", "counter", "Copies that receive() took"),
    LayerMetric("expired", "expired_copies", "counter", "Copies not read within local_expiry"),
    LayerMetric(
        "given_back", "given_back_copies", "counter", "Copies that went back to RabbitMQ on close"
    ),
    LayerMetric("waiting", "waiting_messages", "gauge", "Messages held in memory"),
    LayerMetric("unread", "unread_copies", "gauge", "Copies that they are still to be received as"),
    LayerMetric(
        "oldest_waiting", "oldest_waiting_seconds", "gauge", "How long the oldest has been held"
    ),
    LayerMetric(
        "local_capacity", "local_capacity_messages", "gauge", "Most messages held in memory"
    ),
    LayerMetric("channels", "channels", "gauge", "Channels of this process in use"),
    LayerMetric("groups", "groups", "gauge", "Groups with a member in this process"),
    LayerMetric("bindings", "bindings", "gauge", "Bindings for groups on RabbitMQ"),
    LayerMetric("bindings_pending", "bindings_pending", "gauge", "Bindings not confirmed yet"),
    LayerMetric(
        "bindings_lingering", "bindings_lingering", "gauge", "Bindings without a local member"
    ),
    LayerMetric("calls_waiting", "calls_waiting", "gauge", "Calls that wait for RabbitMQ"),
    LayerMetric("bytes_in", "received_bytes", "counter", "Bytes of AMQP that were read"),
    LayerMetric("bytes_out", "sent_bytes", "counter", "Bytes of AMQP that were written"),
)

_EVENTS = Counter(
    f"{_PREFIX}events",
    "Events of on_event, by kind and cause; messages where an event is about several",
    ["kind", "cause"],
    registry=None,
)


class LayerCollector(Collector):
    """Reads the numbers of every layer on RabbitMQ that this process uses, by alias."""

    def describe(self) -> Iterable[Metric]:
        """Name the metrics, so that registering one twice is found out."""
        return self._collect({})

    def collect(self) -> Iterable[Metric]:
        """Read the numbers, as Prometheus asks for them."""
        return self._collect(
            {
                alias: layer.statistics()
                for alias, layer in list(channel_layers.backends.items())
                if isinstance(layer, RabbitmqChannelLayer)
            }
        )

    def _collect(self, numbers: dict[str, Statistics]) -> Iterator[Metric]:
        for metric in METRICS:
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            made = family(_PREFIX + metric.name, metric.help, labels=["layer"])
            for alias, each in numbers.items():
                made.add_metric([alias], float(getattr(each, metric.field) or 0))
            yield made
        dropped = CounterMetricFamily(
            f"{_PREFIX}dropped_copies",
            "Copies that nobody got, by cause",
            labels=["layer", "cause"],
        )
        info = InfoMetricFamily(
            f"{_PREFIX}connection", "Names, as on RabbitMQ's management page", labels=["layer"]
        )
        for alias, each in numbers.items():
            for cause, count in each.dropped.items():
                dropped.add_metric([alias, cause], count)
            info.add_metric(
                [alias],
                {
                    "connection_name": each.connection_name,
                    "queue_name": each.queue_name,
                    "address": each.address or "",
                },
            )
        yield dropped
        yield info


def register(registry: CollectorRegistry = REGISTRY) -> LayerCollector:
    """Add the numbers of this process's layers, and the events that are counted, to a registry."""
    collector = LayerCollector()
    registry.register(collector)
    registry.register(_EVENTS)
    return collector


def count_event(event: Event) -> None:
    """Count an event: for the option ``on_event``."""
    _EVENTS.labels(event.kind.value, event.cause).inc(event.count)
