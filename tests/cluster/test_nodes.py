"""Processes on a cluster whose nodes die, restart, freeze and stop."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotConnected
from devtools.broker import Broker
from devtools.cluster import Cluster

from .traffic import SEND_TIMEOUT, Traffic, traffic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Seconds for RabbitMQ to heal a partition; 3.10 under ``autoheal`` may need a second round, which
#: begins a minute later. After that its nodes are restarted, as operators do.
HEALED = 60


async def on_node(node: Broker, cluster: Cluster, **config: Any) -> RabbitmqChannelLayer:
    """A layer that is connected to a node, and may go to any other."""
    layer = RabbitmqChannelLayer(cluster.urls, **config)
    while (await layer.current_connection).protocol.endpoint.port != node.port:
        await (await layer.current_connection).close()
    return layer


async def ends_well(flowing: Traffic, capsys: pytest.CaptureFixture[str], **times: float) -> None:
    """Check the whole, and show the numbers."""
    await flowing.quiet()
    counts = await flowing.check()
    with capsys.disabled():
        seconds = {name: f"{value:.1f} s" for name, value in times.items()}
        print(f" {counts | seconds}", end=" ")


async def test_node_that_is_killed(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Groups, jobs and other processes go on within seconds; direct messages once it is back.

    Processes find each other, too, under whatever names their queues have then.

    Since RabbitMQ 4.2 the name of the killed node's queue is locked until then.
    """
    async with traffic(cluster) as flowing:
        node, there = await flowing.victim()
        others = [each.url for each in cluster.nodes if each is not node]
        with_queue = RabbitmqChannelLayer(node.url)
        without = RabbitmqChannelLayer(others, send_timeout=SEND_TIMEOUT)
        await with_queue.send("classic", {"n": 0})
        assert await with_queue.receive("classic") == {"n": 0}
        await with_queue.close()
        receiving = asyncio.create_task(without.receive("classic"))
        await without.current_connection
        options = {"groups_exchange": "asked", "send_timeout": SEND_TIMEOUT}
        asked = await on_node(node, cluster, **options)
        asking = RabbitmqChannelLayer(others, **options)
        channel = await asked.new_channel()
        await asked.group_add("room", channel)
        assert await asking.group_members("room", timeout=20) == [channel]
        try:
            async with flowing.fault():
                await asyncio.to_thread(node.kill)
                back = await flowing.back(time.time(), without=there)
                called = time.monotonic()
                assert await asking.group_members("room", timeout=60) == [channel]
                assert time.monotonic() - called < 30
                await asking.flush()
                assert await asking.group_members("room", timeout=20) == []
                called = time.monotonic()
                with pytest.raises(NotConnected):
                    await without.send("classic", {"n": 1})
                assert time.monotonic() - called < SEND_TIMEOUT + 2
                assert not receiving.done()
                await asyncio.to_thread(node.restart)
            await without.send("classic", {"n": 2})
            assert (await asyncio.wait_for(receiving, 20))["n"] == 2
        finally:
            await asyncio.gather(*(layer.close() for layer in (without, asked, asking)))
        await ends_well(flowing, capsys, back=back)


async def test_rolling_restart(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Nodes that restart one after the other, as for an update."""
    async with traffic(cluster) as flowing:
        times = {}
        for number, node in enumerate(cluster.nodes):
            async with flowing.fault():
                await asyncio.to_thread(node.restart)
                times[f"back {number}"] = await flowing.back(time.time())
        await ends_well(flowing, capsys, **times)


async def test_node_that_is_stopped(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """RabbitMQ stops on a node, as an operator does it, and starts again."""
    async with traffic(cluster) as flowing:
        node, there = await flowing.victim()
        async with flowing.fault():
            await asyncio.to_thread(node.ctl, "stop_app")
            back = await flowing.back(time.time(), without=there)
            await asyncio.to_thread(node.ctl, "start_app")
        await ends_well(flowing, capsys, back=back)


@pytest.mark.parametrize("handling", ["pause_minority", "autoheal"])
async def test_partition(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], handling: str
) -> None:
    """A node that the others cannot reach, while its clients can: all is well once it is over.

    Until then RabbitMQ up to 4.1 stops that node under ``pause_minority``, and its processes go to
    others. Under ``autoheal``, and with Khepri always, they are cut off with it.
    """
    async with traffic(cluster) as flowing:
        await asyncio.to_thread(cluster.handle_partitions, handling)
        async with flowing.fault():
            node = await flowing.apart()
            version = await asyncio.to_thread(lambda: node.version)
            stops = handling == "pause_minority" and version < (4, 2)
            await asyncio.to_thread(cluster.cut_off, node)
            try:
                back = await flowing.back(time.time(), deaf=() if stops else [0])
            finally:
                await asyncio.to_thread(cluster.heal, node)
            await asyncio.to_thread(cluster.make_whole, node, HEALED)
            healed = await flowing.back(time.time())
        await ends_well(flowing, capsys, back=back, healed=healed)


async def test_node_that_freezes(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """A node that says nothing for a while: its processes leave it within seconds.

    RabbitMQ up to 4.1 does not come together by itself when it goes on, under ``pause_minority``:
    neither side knows of the other's bindings, until somebody restarts that node.
    """
    async with traffic(cluster) as flowing:
        await asyncio.to_thread(cluster.handle_partitions, "pause_minority")
        node, there = await flowing.victim()
        async with flowing.fault():
            node.pause()
            try:
                back = await flowing.back(time.time() + 0.2, without=there)
            finally:
                node.resume()
            if await asyncio.to_thread(lambda: node.version) < (4, 2):
                await asyncio.to_thread(cluster.make_whole, node)
        await ends_well(flowing, capsys, back=back)
