"""The operator's own ``max_message_size`` is lower than the layer's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from channels.exceptions import ChannelFull, MessageTooLarge

from channels_rabbitmq.errors import NotConnected
from devtools.broker import Broker
from tests.helpers.rabbit import MakeLayer

LIMIT = 5000

#: RabbitMQ 3.10 reads the limit from the one as a channel is opened, 4.x from the other.
_SET = (
    "application:set_env(rabbit, max_message_size, {0}), "
    "persistent_term:put(max_message_size, {0})."
)


@pytest.fixture(autouse=True, scope="module")
def limit(broker: Broker) -> Iterator[None]:
    """Have the broker refuse larger messages on AMQP channels that are opened meanwhile."""
    usual = broker.ctl("eval", "{ok, N} = application:get_env(rabbit, max_message_size), N.")
    broker.ctl("eval", _SET.format(LIMIT))
    yield
    broker.ctl("eval", _SET.format(int(usual)))


async def test_only_the_publish_is_lost(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is MessageTooLarge, for all kinds of sends; no other operation fails, then or later."""
    layer, other = make_layer(send_timeout=20), make_layer()
    channel = await other.new_channel()
    await other.group_add("room", channel)
    protocol = (await layer.current_connection).protocol
    large = {"data": bytes(LIMIT)}
    for _ in range(3):
        for send in (
            layer.send(channel, large),
            layer.group_send("room", large),
            layer.send("normal", large),
        ):
            with pytest.raises(MessageTooLarge, match=f"max_message_size is {LIMIT}"):
                await send
    await layer.send(channel, {"n": 1})
    await layer.group_send("room", {"n": 2})
    await layer.send("normal", {"n": 3})
    assert [(await other.receive(channel))["n"] for _ in range(2)] == [1, 2]
    assert await other.receive("normal") == {"n": 3}
    assert await layer.group_members("room") == [channel]
    assert (await layer.current_connection).protocol is protocol
    warnings = [line for line in caplog.messages if "max_message_size" in line]
    assert warnings == [
        f"[{layer.connection_name}] RabbitMQ refused a message: its max_message_size is {LIMIT}; "
        f"that of the layer is {16 * 1024 * 1024}"
    ]


@pytest.mark.parametrize("normal", [False, True])
async def test_those_under_way(make_layer: MakeLayer, normal: bool) -> None:
    """Of publishes at the same time each one too large says so; the others may be NotConnected."""
    layer = make_layer()
    target = "normal" if normal else await layer.new_channel()
    protocol = (await layer.current_connection).protocol
    small = [{"n": n} for n in range(20)]
    large = [{"data": bytes(size)} for size in (LIMIT, 200_000)]
    messages = [*small[:10], large[0], *small[10:], large[1]]
    results = await asyncio.gather(
        *(layer.send(target, message) for message in messages), return_exceptions=True
    )
    assert [type(results[10]), type(results[21])] == [MessageTooLarge, MessageTooLarge]
    others = {type(result) for result in results[:10] + results[11:21]}
    assert others <= {type(None), NotConnected}
    assert issubclass(NotConnected, ChannelFull)
    sent = [n for n, result in enumerate(results[:10] + results[11:21]) if result is None]
    await layer.send(target, {"n": "last"})
    got = []
    while (message := await layer.receive(target))["n"] != "last":
        got.append(message["n"])
    assert got == sorted(set(got))
    assert set(sent) <= set(got)
    assert (await layer.current_connection).protocol is protocol
