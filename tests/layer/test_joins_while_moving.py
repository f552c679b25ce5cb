"""A join from one event loop, while the layer moves from another to a third, or to this one."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
from channels.exceptions import StopConsumer

from channels_rabbitmq.broker import recovery
from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.broker.fake_rabbit import FakeRabbit, running
from tests.helpers.waiting import until


async def test_the_next_owner_has_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the owner before had bound is bound again when the call returns."""
    monkeypatch.setattr(recovery, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(logging.getLogger("channels_rabbitmq"), "disabled", True)
    rabbit = FakeRabbit()
    async with running(rabbit) as port:
        layer = RabbitmqChannelLayer(f"amqp://guest:guest@127.0.0.1:{port}?heartbeat=0")
        owner = layer._owner
        run = owner.run
        mine = await layer.new_channel()
        owning, finish = threading.Event(), threading.Event()

        async def first() -> None:
            await layer.current_connection
            owning.set()
            await asyncio.to_thread(finish.wait)

        async def run_and_move(*args: Any, **options: Any) -> object:
            """The claim is on its way while the first loop ends, and this one takes over."""
            claim = await run(*args, **options)
            monkeypatch.setattr(owner, "run", run)
            finish.set()
            await until(lambda: not thread.is_alive())
            await layer.current_connection
            return claim

        thread = threading.Thread(target=lambda: asyncio.run(first()))
        thread.start()
        try:
            await until(owning.is_set)
            monkeypatch.setattr(owner, "run", run_and_move)
            await layer.group_add("room", mine)
            assert rabbit.bound() == {"room": [layer.queue_name]}
            loop_layer = owner.here()
            assert loop_layer is not None
            assert loop_layer.local.memberships.pairs == [("room", mine)]
        finally:
            finish.set()
            await layer.close()


async def test_closed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the layer was closed as the claim was on its way, the call says so."""
    async with running(FakeRabbit()) as port:
        layer = RabbitmqChannelLayer(f"amqp://guest:guest@127.0.0.1:{port}?heartbeat=0")
        run = layer._owner.run

        async def run_and_close(*args: Any, **options: Any) -> object:
            claim = await run(*args, **options)
            await layer.close()
            return claim

        async def join() -> None:
            channel = await layer.new_channel()
            monkeypatch.setattr(layer._owner, "run", run_and_close)
            await layer.group_add("room", channel)

        await layer.current_connection
        with pytest.raises(StopConsumer):
            await asyncio.to_thread(asyncio.run, join())
