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

    def handle_partitions(self, how: str) -> None:
        """Set ``cluster_partition_handling`` on all nodes, until they restart.

        RabbitMQ looks it up at each partition; 4.2 and later, with Khepri, never do.
        """
        set_it = f"application:set_env(rabbit, cluster_partition_handling, {how})."
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(lambda node: node.ctl("eval", set_it), self.nodes))

    def cut_off(self, node: Broker) -> None:
        """Break what connects *node* to the others, for them as if it were gone; clients stay.

        It has another cookie for each of them, so that neither side can connect to the other.
        """
        self._set_cookie(node, "cut_off", "erlang:disconnect_node(N)")

    def heal(self, node: Broker) -> None:
        """Undo ``cut_off()``.

        It connects to all others at once: where nodes find each other one after the other, RabbitMQ
        3.10 may restart the wrong one under ``autoheal``, and take more than a minute.
        """
        self._set_cookie(node, "erlang:get_cookie()", "net_kernel:connect_node(N)")

    def rejoin(self, node: Broker) -> None:
        """Restart RabbitMQ on *node*, as an operator has to where a partition does not heal."""
        node.ctl("stop_app")
        node.ctl("start_app")
        self.wait_whole(node)

    def wait_whole(self, node: Broker) -> None:
        """Return once *node*, which the others had lost, takes connections as one of them."""
        node.wait_until_ready()
        other = next(other for other in self.nodes if other is not node)
        other.ctl("await_online_nodes", str(len(self.nodes)))

    def _set_cookie(self, node: Broker, cookie: str, then: str) -> None:
        others = ", ".join(f"'{other.node}'" for other in self.nodes if other is not node)
        each = f"erlang:set_cookie(N, {cookie}), {then}"
        node.ctl("eval", f"[begin {each} end || N <- [{others}]].")

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
