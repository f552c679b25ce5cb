"""``group_add()`` and ``group_discard()`` for a channel of another process."""

from __future__ import annotations

import time

import pytest

from channels_rabbitmq.core import RabbitmqChannelLayer
from channels_rabbitmq.errors import NotAnswered, NotConnected
from devtools.broker import Broker
from tests.helpers.processes import running
from tests.helpers.rabbit import MakeLayer, memory_alarm
from tests.helpers.waiting import until

pytestmark = pytest.mark.slow


#: A process that tells a channel of its own, and then what it receives.
OWNER = """
async def main():
    channel = await layer.new_channel()
    await layer.current_connection
    tell(channel)
    while True:
        tell(await layer.receive(channel))
"""


async def test_a_real_process(amqp_url: str, make_layer: MakeLayer) -> None:
    """Once group_add() returned, messages to the group reach the channel; not after a discard."""
    layer = make_layer()
    with running(OWNER, host=amqp_url) as owner:
        channel = await owner.hear()
        assert isinstance(channel, str)
        await layer.group_add("g", channel)
        await layer.group_send("g", {"n": 1})
        assert await owner.hear() == {"n": 1}
        assert await layer.group_members("g") == [channel]
        await layer.group_discard("g", channel)
        await layer.group_send("g", {"n": 2})
        await layer.send(channel, {"n": 3})
        assert await owner.hear() == {"n": 3}


async def test_a_process_that_has_gone(make_layer: MakeLayer) -> None:
    """Its channel is nobody's any more: nothing happens, at once."""
    layer = make_layer()
    started = time.monotonic()
    await layer.group_add("g", "channels_gone!channel")
    await layer.group_discard("g", "channels_gone!channel")
    assert time.monotonic() - started < 5
    assert await layer.group_members("g") == []


async def test_rabbitmq_away() -> None:
    """It is RabbitMQ that is away, and not the other process that is silent."""
    layer = RabbitmqChannelLayer("amqp://guest:guest@127.0.0.1:1", send_timeout=0.1)
    try:
        for call in (layer.group_add, layer.group_discard):
            with pytest.raises(NotConnected, match="RabbitMQ is away: no connection within") as met:
                await call("g", "channels_other!channel")
            assert not met.value.sent
    finally:
        await layer.close()


async def test_rabbitmq_takes_nothing(broker: Broker, make_layer: MakeLayer) -> None:
    """In an alarm the error says that, as that of send() does."""
    owner, layer = make_layer(), make_layer(send_timeout=0.5)
    channel = await owner.new_channel()
    await owner.current_connection
    await layer.current_connection
    async with memory_alarm(broker):
        await until(lambda: layer.statistics().blocked)
        with pytest.raises(NotConnected, match="RabbitMQ takes no messages"):
            await layer.group_add("g", channel)


async def test_a_process_that_does_not_answer(make_layer: MakeLayer) -> None:
    """It is an error, after send_timeout."""
    stuck, layer = make_layer(local_capacity=1), make_layer(send_timeout=0.5)
    channel = await stuck.new_channel()
    await stuck.current_connection
    for _ in range(3):
        await layer.send(channel, {})
    with pytest.raises(NotAnswered):
        await layer.group_add("g", channel)
