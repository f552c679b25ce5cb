"""The documented permissions are all that the layer needs."""

from __future__ import annotations

import secrets
import shlex

import pytest

from channels_rabbitmq.errors import ChannelClosedByServer
from devtools.broker import Broker
from tests.helpers import rabbit
from tests.helpers.pages import snippets
from tests.helpers.rabbit import MakeLayer

LINE = {"type": "chat.line", "text": "Hello"}


@pytest.mark.slow
async def test_documented_permissions(broker: Broker, make_layer: MakeLayer) -> None:
    """The commands of the page give a user all that the layer needs, and not more."""
    name = f"chat-{secrets.token_hex(4)}"
    lines = snippet_of_commands()
    for line in lines:
        words = [word.replace("$PASSWORD", "secret") for word in shlex.split(line)]
        assert words.pop(0) == "rabbitmqctl"
        await rabbit.ctl(broker, *[name if word == "chat" else word for word in words])
    try:
        url = broker.url.replace("guest:guest", f"{name}:secret") + f"/{name}"
        layer, other = make_layer(host=url), make_layer(host=url)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await other.group_send("room", LINE)
        assert await layer.receive(channel) == LINE
        await other.send(channel, LINE)
        assert await layer.receive(channel) == LINE
        await other.send("normal", LINE)
        assert await layer.receive("normal") == LINE
        await layer.group_add("room", "normal")
        await other.group_send("room", LINE)
        assert await layer.receive("normal") == LINE
        assert await other.group_members("room") == sorted([channel, "normal"])
        await other.flush()
        with pytest.raises(ChannelClosedByServer, match="ACCESS_REFUSED"):
            await (await layer.current_connection).queue_declare("others")
        await layer.close()
        await other.close()
    finally:
        await rabbit.ctl(broker, "delete_vhost", name)
        await rabbit.ctl(broker, "delete_user", name)


def snippet_of_commands() -> list[str]:
    """The commands that the page on operations shows, each in one line."""
    commands = dict(snippets("docs/operations.rst", "shell"))["operations-permissions"]
    return commands.replace("\\\n", " ").splitlines()
