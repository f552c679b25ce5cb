"""Each process has a queue of its own, each channel its name; wrong names are refused."""

from __future__ import annotations

import pamqp.commands
import pytest

from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.helpers.rabbit import MakeLayer


async def test_process_that_is_gone(make_layer: MakeLayer) -> None:
    """A message to a process that is gone is lost without an error: nobody could read it."""
    layer = make_layer()
    await layer.send("channels_gone!abc", {"type": "a"})


async def test_channel_of_another_process(make_layer: MakeLayer) -> None:
    """Receiving from a channel of another process raises ValueError."""
    here, there = make_layer(), make_layer()
    channel = await there.new_channel()
    with pytest.raises(ValueError, match="another process"):
        await here.receive(channel)


async def test_wrong_names(make_layer: MakeLayer) -> None:
    """A name that breaks the specification's rules raises TypeError, in every method."""
    layer = make_layer()
    channel = await layer.new_channel()
    for bad in ("", "with space", "x" * 201, 5, None, "a!b!c"):
        for call in (
            layer.send(bad, {}),  # type: ignore[arg-type]
            layer.receive(bad),  # type: ignore[arg-type]
            layer.group_add(bad, channel),  # type: ignore[arg-type]
            layer.group_add("g", bad),  # type: ignore[arg-type]
            layer.group_discard(bad, channel),  # type: ignore[arg-type]
            layer.group_discard("g", bad),  # type: ignore[arg-type]
            layer.group_send(bad, {}),  # type: ignore[arg-type]
        ):
            with pytest.raises(TypeError, match="must be a str of 1 to 200"):
                await call


@pytest.mark.parametrize("prefix", ["", "red"])
async def test_queues_of_other_programs(make_layer: MakeLayer, prefix: str) -> None:
    """A name with an exclamation mark reaches no queue but a channel layer's own kind."""
    layer = make_layer(prefix=prefix)
    connection = await layer.current_connection
    queue = connection.protocol.open_channel()
    await queue.call(pamqp.commands.Queue.Declare(queue="celery", exclusive=True))
    for call in (
        layer.send("celery!x", {"type": "a"}),
        layer.group_add("g", "celery!x"),
        layer.group_discard("g", "celery!x"),
    ):
        with pytest.raises(ValueError, match="no queue of a channel layer"):
            await call
    declared = await queue.call(pamqp.commands.Queue.Declare(queue="celery", passive=True))
    assert isinstance(declared, pamqp.commands.Queue.DeclareOk)
    assert declared.message_count == 0


async def test_new_channels_differ(make_layer: MakeLayer) -> None:
    """Every new channel has a name of its own, in this process's queue."""
    layer = make_layer()
    names = {await layer.new_channel() for _ in range(1000)}
    assert len(names) == 1000
    assert {name.partition("!")[0] for name in names} == {layer.queue_name}


def test_two_layers_are_two_processes() -> None:
    """Each layer has a queue of its own."""
    assert RabbitmqChannelLayer().queue_name != RabbitmqChannelLayer().queue_name


@pytest.mark.slow
async def test_names_of_200_characters(make_layer: MakeLayer) -> None:
    """200 included, with the longest prefix, for groups and channels; 201 are refused."""
    layer = make_layer(prefix="p" * 41)
    channel = await layer.new_channel()
    await layer.group_add("g" * 200, channel)
    await layer.group_send("g" * 200, {"n": 1})
    assert await layer.receive(channel) == {"n": 1}
    await layer.send("c" * 200, {"n": 2})
    assert await layer.receive("c" * 200) == {"n": 2}
    own = f"{layer.queue_name}!".ljust(200, "x")
    await layer.send(own, {"n": 3})
    assert await layer.receive(own) == {"n": 3}
    for call in (
        layer.group_add("g" * 201, channel),
        layer.group_send("g" * 201, {}),
        layer.send("c" * 201, {}),
        layer.receive(own + "x"),
    ):
        with pytest.raises(TypeError):
            await call
