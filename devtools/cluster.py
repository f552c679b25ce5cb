"""A private cluster of RabbitMQ nodes, for tests of what clusters go through.

In Python::

    with Cluster.start() as cluster:
        connect_to(cluster.urls)
        cluster.nodes[0].kill()

How nodes find each other and what a partition does: https://www.rabbitmq.com/docs/clustering,
https://www.rabbitmq.com/docs/partitions
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from devtools.broker import Broker

#: Nodes of a cluster: the least number of which one can be lost.
SIZE = 3
#: Seconds after which a node that fell silent counts as down: a quarter of the default.
NET_TICKTIME = 15
#: Seconds for each step of joining; on a busy machine a minute is not enough.
JOIN_TIMEOUT = 300


class Cluster:
    """Some private nodes that are one RabbitMQ. Made by ``start()``."""

    def __init__(self, nodes: list[Broker]) -> None:
        self.nodes = nodes

    @classmethod
    def start(
        cls,
        size: int = SIZE,
        *,
        config: Mapping[str, str] | None = None,
        management: bool = False,
    ) -> Cluster:
        """Start *size* nodes and join them. *config* has lines of ``rabbitmq.conf``, for each.

        Raises ``BrokerError`` with the end of a node's log.
        """
        config = {"net_ticktime": str(NET_TICKTIME), **(config or {})}
        first = Broker.start(config=config, management=management)
        cluster = cls([first])
        try:
            with ThreadPoolExecutor(size) as pool:
                others = pool.map(
                    lambda _: Broker.start(
                        config=config, management=management, erlang=first.erlang
                    ),
                    range(size - 1),
                )
                for node in others:
                    cluster.nodes.append(node)
            for node in cluster.nodes[1:]:
                for command in (["stop_app"], ["join_cluster", first.node], ["start_app"]):
                    node.ctl(*command, timeout=JOIN_TIMEOUT)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @property
    def urls(self) -> list[str]:
        """The address of each node."""
        return [node.url for node in self.nodes]

    def stop(self) -> None:
        """End all nodes and remove their files. Safe to call again."""
        for node in reversed(self.nodes):
            node.stop()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
