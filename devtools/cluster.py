"""A private cluster of RabbitMQ nodes, for tests of what clusters go through.

In Python::

    with Cluster.start() as cluster:
        connect_to(cluster.urls)
        cluster.nodes[0].kill()

How nodes find each other and what a partition does: https://www.rabbitmq.com/docs/clustering,
https://www.rabbitmq.com/docs/partitions
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from devtools.broker import Broker, BrokerError

#: Nodes of a cluster: the least number of which one can be lost.
SIZE = 3
#: Seconds after which a node that fell silent counts as down: a quarter of the default.
NET_TICKTIME = 15
#: Seconds for each step of joining; on a busy machine a minute is not enough.
JOIN_TIMEOUT = 300

#: Asks each of some nodes: whether it runs, which others it is connected to, and, up to RabbitMQ
#: 4.1, whether it is in a partition. (Later ones do not know that function.)
_WHOLE = """
Nodes = [%s],
Ask = fun(Node, Module, Name) -> rpc:call(Node, Module, Name, [], 5000) end,
lists:all(fun(Node) ->
    Ask(Node, rabbit, is_running) =:= true
    andalso Nodes -- [Node | Ask(Node, erlang, nodes)] =:= []
    andalso [] =:= [lost || [_ | _] <- [Ask(Node, rabbit_node_monitor, partitions)]]
end, Nodes).
"""


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
        3.10 may restart the wrong ones under ``autoheal``, and take more than a minute.
        """
        self._set_cookie(node, "erlang:get_cookie()", "net_kernel:connect_node(N)")

    def make_whole(self, node: Broker, patience: float = 0.0) -> None:
        """Have *node*, which the others had lost, as one of them again.

        Where they do not come together by themselves within *patience* seconds, RabbitMQ is
        restarted on *node* and, if need be, on the others, as an operator has to.
        """
        due = time.monotonic() + patience
        while not self.whole:
            if time.monotonic() >= due:
                break
            time.sleep(0.5)
        for split in (node, *self.nodes):
            if self.whole:
                return
            split.ctl("stop_app")
            split.ctl("start_app")

    @property
    def whole(self) -> bool:
        """Whether RabbitMQ runs on every node, and none of them has lost another."""
        nodes = ", ".join(f"'{node.node}'" for node in self.nodes)
        try:
            return self.nodes[0].ctl("eval", _WHOLE % nodes).strip() == "true"
        except BrokerError:
            return False  # a node is gone, and does not answer

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
