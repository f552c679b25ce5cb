"""What is measured, for how long, and which targets the figures must meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .spec import Spec


@dataclass(frozen=True)
class Unit:
    """How a figure is written."""

    name: str
    #: After the point.
    digits: int = 0
    scale: float = 1
    better: str = "lower is better"

    def shown(self, value: float) -> str:
        """Write a value."""
        return f"{value * self.scale:,.{self.digits}f}"


UNITS: Mapping[str, Unit] = {
    "rate": Unit("per second", better="higher is better"),
    "join_rate": Unit("per second", better="higher is better"),
    "first_rate": Unit("the first", better="higher is better"),
    "churn_rate": Unit("churn", better="higher is better"),
    "bytes_rate": Unit("MB per second", 1, 1e-6, better="higher is better"),
    "median_us": Unit("µs"),
    "bytes_each": Unit("bytes"),
    "growth_mb": Unit("MB", 1),
    "worst_ms": Unit("ms", 1),
    "cpu_us": Unit("CPU µs each", 1),
    "seconds": Unit("s", 2),
    "p50_ms": Unit("p50 ms", 1),
    "p99_ms": Unit("p99 ms", 1),
}

#: Who takes part in what is not a case for all peers, and in a quick run.
FEW_PEERS = ("ours", "4.0.1", "redis-pubsub", "nats")
QUICK_PEERS = ("ours", "redis-pubsub")
#: Who takes part in what real servers do.
SERVED_PEERS = ("ours", "ours-uvloop", "4.0.1", "redis-pubsub", "redis-core", "memory")


@dataclass(frozen=True)
class Case:
    """One workload with its parameters."""

    key: str
    title: str
    params: Mapping[str, object] = field(default_factory=dict)
    #: A key of worker.WORKLOADS, and of limits.LIMITS if there is a limit, or of served.SERVED;
    #: empty if it is ``key``.
    workload: str = ""
    #: The figure that is compared.
    figure: str = "rate"
    #: What the limit is; None if nothing limits it that a probe can measure.
    limit: str | None = None
    #: What grows in the chart that this is a point of, and how far it is here.
    growth: tuple[str, int] | None = None
    #: Whether there is a bar chart and all peers take part; else only a few do.
    main: bool = True
    #: Who takes part; empty if ``main`` says it.
    peers: tuple[str, ...] = ()
    #: More figures that its table shows.
    columns: tuple[str, ...] = ()
    #: Whether it is part of a quick run.
    quick: bool = True
    seconds: float = 2.0
    quick_seconds: float = 0.4
    #: Whether it needs more than one process.
    processes: bool = False
    #: What a quick run has instead of some of ``params``.
    quick_params: Mapping[str, object] = field(default_factory=dict)
    #: Whether once is enough: it takes long, and measures no speed.
    once: bool = False

    @property
    def unit(self) -> Unit:
        """How its figure is written."""
        return UNITS[self.figure]

    @property
    def better(self) -> str:
        """Which way is better."""
        return self.unit.better

    def spec(self, *, quick: bool = False, port: int = 0) -> Spec:
        """Return what a worker is told to measure the limit; a peer adds its layer."""
        return Spec(
            workload=self.workload or self.key,
            params={**self.params, **(self.quick_params if quick else {})},
            seconds=self.quick_seconds if quick else self.seconds,
            port=port,
        )

    def shown(self, value: float) -> str:
        """Write its figure."""
        return self.unit.shown(value)


_BROKER = "RabbitMQ itself, over a raw socket"
_ASYNCIO = "asyncio itself, without a network"
_NULL = "Channels and the server, with a layer that only hands over"
_BRIDGE = "the least of bridges to an asyncio publisher"


def _send(key: str, size: int, text: str, **more: Any) -> Case:
    title = f"send -> receive, 100 concurrent senders, {text} text"
    params = {"senders": 100, "payload": size}
    return Case(key, title, params, "send", limit=_BROKER, growth=("payload", size), **more)


def _members(count: int, **more: Any) -> Case:
    title = f"group_send to {count:,} waiting members: deliveries"
    growth = ("members", count)
    params = {"members": count}
    return Case(f"group-{count}", title, params, "group", limit=_ASYNCIO, growth=growth, **more)


def _groups(count: int, *, churn: bool = False, **more: Any) -> Case:
    key = f"own-groups-{count}"
    title = f"{count:,} channels each join a group of their own"
    # The pause is longer than our layer keeps what is left. A quick run has no time for it: its
    # few rounds stay below what the layer keeps.
    params = {"groups": count, "pause": 5.5, "churn": churn}
    return Case(
        *(key, title, params, "own_groups", "join_rate"),
        limit=_BROKER,
        growth=("groups", count),
        columns=("first_rate", *(("churn_rate",) if churn else ())),
        quick_params={"pause": 0},
        **more,
    )


def _processes(pairs: int, **more: Any) -> Case:
    plural = "processes publish" if pairs > 1 else "process publishes"
    return Case(
        f"processes-{pairs}",
        f"{pairs} {plural} to a group, {pairs} with 500 members each receive: deliveries",
        {"pairs": pairs, "members": 500, "messages": 200 // pairs},
        "processes",
        growth=("processes", pairs),
        processes=True,
        quick_params={"messages": 20},
        **more,
    )


def _site(key: str, what: str, scenario: str, *, count: int = 200, **more: Any) -> Case:
    """Real servers: the limit is the same over a layer that only hands over in memory."""
    params = {"scenario": scenario, "clients": count, **more.pop("params", {})}
    fields: dict[str, Any] = {
        "figure": "cpu_us",
        "limit": _NULL,
        "peers": SERVED_PEERS,
        "columns": ("rate", "p50_ms", "p99_ms"),
        "seconds": 3.0,
        "quick_params": {"clients": 50},
        **more,
    }
    return Case(f"site-{key}", what, params, "served", **fields)


def _variant(key: str, what: str, **params: object) -> Case:
    title = f"Uvicorn, a message to a room of 200 websockets: {what}"
    fields: dict[str, Any] = {"main": False, "quick": False, "once": True, "peers": ("ours",)}
    return _site(key, title, "broadcast", params=params, **fields)


_FEW: Mapping[str, Any] = {"main": False}
_LONG: Mapping[str, Any] = {"main": False, "quick": False}

CASES: Sequence[Case] = (
    _send("send", 100, "100-byte"),
    Case("latency", "one message at a time, round trip: median", {}, "", "median_us", _BROKER),
    _members(1000),
    _groups(2000, churn=True),
    Case("room", "2,000 channels join one group", {"members": 2000}),
    Case(
        "large",
        "1 MB messages, 4 concurrent senders",
        {"senders": 4, "payload": 1_000_000},
        "send",
        "bytes_rate",
        _BROKER,
        ("payload", 1_000_000),
    ),
    _processes(2),
    Case(
        "plain",
        "async_to_sync(group_send) from plain code, one call at a time",
        limit=_BRIDGE,
        processes=True,
        **_FEW,
    ),
    Case(
        "second-loop",
        "group_send by 100 concurrent senders on a second event loop",
        workload="second_loop",
        **_FEW,
    ),
    Case(
        "waiting",
        "10,000 waiting channels: memory of each, with its task",
        {"channels": 10_000},
        figure="bytes_each",
        quick_params={"channels": 2000},
        quick_seconds=1.0,
    ),
    Case(
        "disconnect",
        "a process with 10,000 groups dies: longest wait of another client",
        {"groups": 10_000, "watch": 3.0},
        figure="worst_ms",
        processes=True,
        quick_params={"watch": 1.0},
        **_FEW,
    ),
    Case(
        "replaced",
        "a process with 10,000 groups dies, 3,000 are joined in another: until these are",
        {"groups": 10_000, "joins": 3000},
        figure="seconds",
        processes=True,
        quick=False,
        **_FEW,
    ),
    Case(
        "cut",
        "the connection of a process with 10,000 groups is cut: until all are back",
        {"groups": 10_000},
        figure="seconds",
        limit="RabbitMQ itself: the same queue again, bound over 8 or 128 AMQP channels",
        quick_params={"groups": 2000},
        peers=("ours", "redis-pubsub"),
        **_FEW,
    ),
    Case(
        "soak",
        "a million messages through one process: growth of its memory",
        {"messages": 1_000_000, "at_most": 60.0},
        figure="growth_mb",
        once=True,
        quick_params={"messages": 50_000, "at_most": 3.0},
        **_FEW,
    ),
    _site("room", "Uvicorn, a message to a room of 200 websockets: server's CPU", "broadcast"),
    _site("users", "Uvicorn, a notification to each of 200 websockets: server's CPU", "notify"),
    _site(
        "daphne",
        "Daphne, a message to a room of 200 websockets: server's CPU",
        "broadcast",
        params={"server": "daphne"},
        peers=("ours", "4.0.1", "redis-pubsub"),
        quick=False,
    ),
    _site(
        "storm",
        "Uvicorn, 200 websockets leave and come back: until all are served",
        "storm",
        figure="seconds",
        columns=("rate",),
    ),
    Case(
        "site-restart",
        "the layer's server restarts under 200 websockets: until all are served",
        {"clients": 200},
        "restart",
        "seconds",
        main=False,
        peers=("ours", "4.0.1", "redis-pubsub", "redis-core"),
        quick=False,
        once=True,
    ),
    _variant("bare", "no consumer, plain ASGI", consumer="bare"),
    _variant("direct", "no thread for each message", consumer="direct"),
    _variant("json", "AsyncJsonWebsocketConsumer", consumer="json"),
    _variant("sync", "WebsocketConsumer, in a thread", consumer="sync"),
    _variant("plain", "no compression", options=["--ws-per-message-deflate", "false"]),
    _variant("wsproto", "wsproto", options=["--ws", "wsproto"]),
    _variant("legacy", "websockets' older implementation", options=["--ws", "websockets"]),
    _variant("uvloop", "uvloop", loop="uvloop"),
    _send("payload-1000", 1000, "1 kB", **_FEW),
    _send("payload-10000", 10_000, "10 kB", **_LONG),
    _send("payload-100000", 100_000, "100 kB", **_FEW),
    _members(100, **_FEW),
    _members(10_000, **_FEW),
    _groups(200, **_FEW),
    _groups(10_000, **_LONG),
    _processes(1, **_FEW),
    _processes(4, **_LONG),
)


@dataclass(frozen=True)
class Target:
    """A bound that our figure must keep: alone, or divided by another peer's or the limit's."""

    text: str
    case: str
    figure: str
    bound: float
    at_least: bool
    #: The peer that ours is divided by; "limit" for the limit; None for none.
    against: str | None = None
    #: The figure of ``against``, where it has another name.
    against_figure: str | None = None
    #: Instead of ``case``: the greatest figure over the smallest of these.
    spread_over: tuple[str, ...] = ()


def _rate(text: str, case: str, bound: float, against: str | None = None) -> Target:
    return Target(text, case, "rate", bound, True, against)


def _joins(text: str, bound: float, against: str) -> Target:
    return Target(text, "own-groups-2000", "join_rate", bound, True, against)


def _most(text: str, case: str, figure: str, bound: float, **more: Any) -> Target:
    return Target(text, case, figure, bound, False, **more)


_PUBSUB = "redis-pubsub"
_SPREAD = ("group-100", "group-1000", "group-10000")
_SPREAD_TEXT = "100 to 10,000 members, greatest to smallest cost of a delivery"
_LEAST: Mapping[str, Any] = {"against": "limit", "against_figure": "asyncio_median_us"}
_LEAST_TEXT = "round trip, to asyncio's with the least of protocols"

_SHARE = "server's CPU, message to a room, to a layer that only hands over"

TARGETS: Sequence[Target] = (
    _rate("send -> receive, to 4.0.1", "send", 6, "4.0.1"),
    _rate("send -> receive, to the broker's limit", "send", 0.5, "limit"),
    _most("send -> receive, µs of Python a message", "send", "cpu_us", 25),
    _rate("1,000 members, to channels_redis pub/sub", "group-1000", 2, _PUBSUB),
    _rate("1,000 members, to asyncio's limit", "group-1000", 0.5, "limit"),
    _most(_SPREAD_TEXT, "group-1000", "cpu_us", 1.2, spread_over=_SPREAD),
    _joins("2,000 own groups, to the broker's limit", 0.7, "limit"),
    _joins("2,000 own groups, to channels_redis pub/sub", 1, _PUBSUB),
    _rate("2,000 channels join one group, to channels_redis pub/sub", "room", 1, _PUBSUB),
    _rate("2,000 channels join one group, to 4.0.1", "room", 1, "4.0.1"),
    _most("10,000 groups lost, longest wait of others, ms", "disconnect", "worst_ms", 250),
    _most("10,000 groups back, to the broker's limit", "cut", "seconds", 1.5, against="limit"),
    _most("round trip, to channels_redis pub/sub", "latency", "median_us", 1, against=_PUBSUB),
    _most("round trip, to the broker's limit", "latency", "median_us", 1.5, against="limit"),
    _most(_LEAST_TEXT, "latency", "median_us", 1.5, **_LEAST),
    _rate("plain code, to channels_redis pub/sub", "plain", 3, _PUBSUB),
    Target("a second event loop, to the first", "second-loop", "share", 0.3, True),
    _most("waiting channel, bytes", "waiting", "bytes_each", 1500),
    _most("10,000 waiting channels, % of a processor", "waiting", "cpu_percent", 0.1),
    _most("a million messages, MB of growth", "soak", "growth_mb", 5),
    _most(_SHARE, "site-room", "cpu_us", 1.05, against="limit"),
    _most(_SHARE.replace("room", "user each"), "site-users", "cpu_us", 1.05, against="limit"),
    Target("1 MB messages, to the broker's limit", "large", "bytes_rate", 0.5, True, "limit"),
    _rate("2 x 2 processes, to 4.0.1", "processes-2", 1, "4.0.1"),
    _rate("2 x 2 processes, to channels_redis pub/sub", "processes-2", 1, _PUBSUB),
)
