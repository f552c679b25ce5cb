"""``manage.py rabbitmq_layer`` against a real RabbitMQ: each subcommand, and each way to fail."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from channels_rabbitmq.management.commands.rabbitmq_layer import Command, to_json
from channels_rabbitmq.statistics import Statistics
from devtools.broker import Broker
from devtools.process import free_port
from tests.contrib.projects import layer, manage, started
from tests.helpers import rabbit
from tests.helpers.pages import literals, table
from tests.helpers.rabbit import MakeLayer
from tests.helpers.waiting import until

SECRET = "Zw9-hush"
STEPS = ["resolve", "connect", "log in", "declare", "message", "group message"]
TLS_STEPS = ["resolve", "connect", "TLS", "log in", "declare", "message", "group message"]


@pytest.fixture
def limited_user(broker: Broker, vhost: str) -> Iterator[str]:
    """A user who may not declare anything in this test's virtual host."""
    name = f"limited-{vhost}"
    broker.api("PUT", f"users/{name}", {"password": SECRET, "tags": ""})
    permission = {"configure": "^$", "write": ".*", "read": ".*"}
    broker.api("PUT", f"permissions/{vhost}/{name}", permission)
    yield name
    broker.api("DELETE", f"users/{name}")


async def command(
    *arguments: str, layers: dict[str, object] | None = None, **config: object
) -> str:
    """What the command writes, in this process, with a layer of these options.

    Raises CommandError as it does.
    """
    out = io.StringIO()
    with override_settings(CHANNEL_LAYERS=layers or {"default": layer(**config)}):
        try:
            await asyncio.to_thread(call_command, Command(), *arguments, stdout=out, no_color=True)
        except CommandError as err:
            err.add_note(out.getvalue())
            raise
    return out.getvalue()


async def failing(*arguments: str, **config: Any) -> tuple[str, str]:
    """The error with which the command fails, and what it wrote before. Neither has a secret."""
    with pytest.raises(CommandError) as caught:
        await command(*arguments, **config)
    (out,) = caught.value.__notes__
    assert SECRET not in f"{caught.value} {out}"
    assert "\n" not in str(caught.value)
    return str(caught.value), out


# ping


async def test_ping(amqp_url: str) -> None:
    """Every step is shown with its time, and the exit status is 0."""
    ended = await manage({"default": layer(host=amqp_url)}, "rabbitmq_layer", "ping")
    assert (ended.code, ended.err) == (0, "")
    first, *steps, last = ended.out.splitlines()
    address = urlsplit(amqp_url)
    assert first == f"{address.hostname}:{address.port}{address.path} (127.0.0.1)"
    assert [line[:16].strip() for line in steps] == STEPS
    assert all(float(line[16:].removesuffix(" ms")) >= 0 for line in steps)
    assert last == "  ok"


async def test_ping_over_tls(tls_url: str, certs: Path) -> None:
    """With TLS there is a step for that; JSON has the same, and nothing else is written."""
    config = layer(host=f"{tls_url}?cacertfile={certs}/ca.cert")
    ended = await manage({"other": config}, "rabbitmq_layer", "ping", "--layer", "other", "--json")
    assert (ended.code, ended.err) == (0, "")
    document = json.loads(ended.out)
    assert (document["layer"], document["ok"], document["error"]) == ("other", True, None)
    (attempt,) = document["attempts"]
    assert [timing["step"] for timing in attempt["timings"]] == TLS_STEPS
    assert all(0 < timing["seconds"] < 60 for timing in attempt["timings"])
    assert attempt["failed"] is None


async def test_ping_leaves_nothing(amqp_url: str, broker: Broker, vhost: str) -> None:
    """Neither its connection nor its queue or binding is left."""
    await command("ping", host=amqp_url)
    assert await rabbit.connections(broker, vhost) == []
    assert await rabbit.queue_names(broker, vhost) == []
    assert await rabbit.bindings(broker, vhost) == []


async def test_ping_uses_the_options(amqp_url: str) -> None:
    """Prefix, exchange and encryption keys are no hindrance."""
    keys = [SECRET]
    out = await command(
        "ping",
        host=amqp_url,
        prefix="red",
        groups_exchange="red.groups",
        symmetric_encryption_keys=keys,
    )
    assert out.endswith("  ok\n")


async def test_refused_password(broker: Broker, vhost: str) -> None:
    """It is one plain line and exit status 1, without a traceback, and without the password."""
    url = f"amqp://guest:{SECRET}@127.0.0.1:{broker.plain_port}/{vhost}"
    ended = await manage({"default": layer(host=url)}, "rabbitmq_layer", "ping")
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert line.startswith("CommandError: log in: wrong user name or password")
    assert [line[:16].strip() for line in ended.out.splitlines()][1:] == [
        *("resolve", "connect", "log in")
    ]
    assert SECRET not in ended.out + ended.err


async def test_refused_password_in_json(broker: Broker, vhost: str) -> None:
    """JSON says the same, and how far it went."""
    url = f"amqp://guest:{SECRET}@127.0.0.1:{broker.plain_port}/{vhost}"
    error, out = await failing("ping", "--json", host=url)
    document = json.loads(out)
    (attempt,) = document["attempts"]
    assert (document["ok"], attempt["failed"]) == (False, "log in")
    assert attempt["error"].startswith("wrong user name or password")
    assert error == document["error"] == f"log in: {attempt['error']}"


async def test_closed_port() -> None:
    """Where nobody listens, connecting is what fails."""
    error, _ = await failing("ping", host=f"amqp://u:{SECRET}@127.0.0.1:{free_port()}")
    assert error.startswith("connect: ")
    assert "refused" in error


async def test_silent_server() -> None:
    """Where nobody speaks AMQP, logging in is what fails, when connection_timeout is over."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"amqp://127.0.0.1:{server.getsockname()[1]}?connection_timeout=200"
        assert await failing("ping", "--json", host=url)
        error, _ = await failing("ping", host=url)
    assert error == "log in: no answer in time"


async def test_unknown_host() -> None:
    """A name that nobody has is not found: the first step fails, and there is no address."""
    error, out = await failing(
        "ping", "--json", host="amqp://rabbit.invalid?connection_timeout=5000"
    )
    assert error.startswith("resolve: ")
    (attempt,) = json.loads(out)["attempts"]
    assert (attempt["address"], attempt["timings"]) == (None, [])


async def test_wrong_virtual_host(broker: Broker) -> None:
    """A virtual host that is not there is named."""
    error, _ = await failing("ping", host=f"{broker.url}/no-such-vhost")
    assert error.startswith("log in: no virtual host 'no-such-vhost' for this user. ")


async def test_untrusted_certificate(tls_url: str) -> None:
    """A certificate that the system does not trust fails in TLS's step, with OpenSSL's reason."""
    error, _ = await failing("ping", host=tls_url)
    assert error.startswith("TLS: ")
    assert "certificate" in error


async def test_missing_permission(broker: Broker, vhost: str, limited_user: str) -> None:
    """Who may not declare the queue is told that, and which permission it takes."""
    url = f"amqp://{limited_user}:{SECRET}@127.0.0.1:{broker.plain_port}/{vhost}"
    error, _ = await failing("ping", host=url)
    assert error.startswith("declare: ")
    assert "403 ACCESS_REFUSED" in error


@pytest.mark.slow
async def test_alarm(broker: Broker, amqp_url: str) -> None:
    """A RabbitMQ that takes no publishes lets everybody in: the message is what fails."""
    async with rabbit.memory_alarm(broker):
        error, _ = await failing("ping", host=amqp_url, send_timeout=1)
    assert error == "message: RabbitMQ takes no publishes: low on memory"


async def test_one_of_several(amqp_url: str) -> None:
    """As long as one address works, so does the layer; what fails is shown all the same."""
    nobody = f"amqp://127.0.0.1:{free_port()}"
    out = await command("ping", "--json", host=[nobody, amqp_url])
    document = json.loads(out)
    assert document["ok"] is True
    assert [attempt["failed"] for attempt in document["attempts"]] == ["connect", None]
    text = await command("ping", host=[nobody, amqp_url])
    assert "connect          failed: " in text


# The others


async def test_stats(amqp_url: str) -> None:
    """All fields of statistics() are there, in order, of a live connection."""
    ended = await manage({"default": layer(host=amqp_url)}, "rabbitmq_layer", "stats", "--json")
    assert (ended.code, ended.err) == (0, "")
    document = json.loads(ended.out)
    assert list(document) == list(Statistics.__dataclass_fields__)
    assert document["connected"] is True
    assert document["connection_name"].startswith("site_of_layers/rabbitmq_layer@")
    text = await command("stats", host=amqp_url)
    names = [line.split()[0] for line in text.splitlines()]
    assert names == list(Statistics.__dataclass_fields__)


async def test_members(make_layer: MakeLayer, amqp_url: str) -> None:
    """The channels in a group, of all processes, one a line or as a list."""
    here = make_layer()
    channels = sorted([await here.new_channel() for _ in range(2)])
    for channel in channels:
        await here.group_add("room", channel)
    assert (await command("members", "room", host=amqp_url)).splitlines() == channels
    out = await command("members", "room", "--timeout", "5", "--json", host=amqp_url)
    assert json.loads(out) == {"group": "room", "members": channels}
    assert await command("members", "nobody", host=amqp_url) == ""


async def test_send(make_layer: MakeLayer, amqp_url: str) -> None:
    """A message reaches the group as it is."""
    here = make_layer()
    channel = await here.new_channel()
    await here.group_add("room", channel)
    message = {"type": "chat.line", "text": "h\u00e9", "n": [1, None, 2.5], "data": b"\0\xff"}
    assert await command("send", "room", json.dumps(to_json(message)), host=amqp_url) == ""
    assert await here.receive(channel) == message
    out = await command("send", "room", "{}", "--json", host=amqp_url)
    assert json.loads(out) == {"group": "room", "sent": True}
    assert await here.receive(channel) == {}


async def test_listen(make_layer: MakeLayer, amqp_url: str, broker: Broker, vhost: str) -> None:
    """Messages come as they are sent, one a line, until Ctrl-C, which is no error."""
    here = make_layer()
    with started(
        {"default": layer(host=amqp_url)}, "rabbitmq_layer", "listen", "room", "--json"
    ) as process:
        await until(lambda: "Listening to group room" in process.log, timeout=30)
        await here.group_send("room", {"type": "a", "data": b"\0\xff"})
        assert await process.hear() == {"type": "a", "data": {"__asgi_bytes__": "AP8="}}
        await here.group_send("room", {"type": "h\u00e9"})
        assert await process.line() == '{"type": "h\u00e9"}'
        process.signal(signal.SIGINT)
        ended = await process.end()
    assert ended.code == 0
    assert ended.err.splitlines() == ["Listening to group room; Ctrl-C ends it"]
    assert await rabbit.queue_names(broker, vhost) == [here.queue_name]


@pytest.mark.slow
async def test_listen_ends_on_sigterm(make_layer: MakeLayer, amqp_url: str) -> None:
    """So does SIGTERM end it; for people, each line begins with the time."""
    here = make_layer()
    with started({"default": layer(host=amqp_url)}, "rabbitmq_layer", "listen", "room") as process:
        await until(lambda: "Listening to group room" in process.log, timeout=30)
        await here.group_send("room", {"type": "a"})
        time, _, message = (await process.line()).partition(" ")
        assert time.count(":") == 2
        assert json.loads(message) == {"type": "a"}
        process.signal(signal.SIGTERM)
        ended = await process.end()
    assert (ended.code, len(ended.err.splitlines())) == (0, 1)


# What is wrong with a command


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        (["members", "room"], {}),
        (["send", "room", "{}"], {}),
        (["stats"], {"send_timeout": 1}),
        (["listen", "room"], {}),
    ],
)
async def test_rabbitmq_away(
    arguments: list[str], config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing waits for long: the error says where and why, and so does no log line; nor JSON."""
    port = free_port()
    config["host"] = f"amqp://u:{SECRET}@127.0.0.1:{port}"
    error, out = await failing(*arguments, **config)
    assert error.startswith(f"127.0.0.1:{port}/%2F: connect: nobody listens on port {port}")
    assert out == ""
    assert caplog.messages == []
    error, out = await failing(*arguments, "--json", **config)
    if arguments[0] != "listen":
        assert json.loads(out) == {"error": error}


async def test_silent_server_of_others() -> None:
    """Where nothing is said at all, the error names the address and the step."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        error, _ = await failing("stats", host=f"amqp://127.0.0.1:{port}", send_timeout=2)
    assert error == f"127.0.0.1:{port}/%2F: log in: no answer in time"


async def test_one_line_of_standard_error() -> None:
    """That is all that is written there, also where nobody configured the log."""
    layers = {"default": layer(host=f"amqp://127.0.0.1:{free_port()}", send_timeout=1)}
    ended = await manage(layers, "rabbitmq_layer", "stats")
    (line,) = ended.err.splitlines()
    assert line.startswith("CommandError: 127.0.0.1:")
    assert ended.code == 1


async def test_members_that_may_be_missing(amqp_url: str) -> None:
    """A list that may not be whole is an error, and says why."""
    error, out = await failing("members", "room", "--timeout", "0.001", "--json", host=amqp_url)
    assert re.search("did not take the question within|not known yet had only", error)
    assert json.loads(out) == {"error": error}
    error, _ = await failing("members", "room", "--timeout", "0", host=amqp_url)
    assert "argument --timeout: must be a number of seconds, more than 0" in error


async def test_wrong_names_and_messages(amqp_url: str) -> None:
    """A name or message that cannot be sent is an error in one line, not a traceback."""
    for arguments in (["members", "a b"], ["send", "a b", "{}"]):
        error, _ = await failing(*arguments, host=amqp_url)
        assert "must be a str of 1 to 200" in error
    error, _ = await failing("send", "room", f'{{"n": {2**70}}}', host=amqp_url)
    assert "64 bits" in error
    bad = [{"n": float("nan")}, {"__asgi_bytes__": "?"}, {"a": {"__asgi_bytes__": "", "b": 1}}]
    for text in ("{", "[]", "5", *map(json.dumps, bad)):
        error, _ = await failing("send", "room", text, host=amqp_url)
        assert "argument JSON:" in error
    error, _ = await failing("members", "room", "--timeout", "-1", host=amqp_url)
    assert "argument --timeout" in error


async def test_wrong_layers() -> None:
    """An alias that is not there, of another backend, or with a wrong option, is named."""
    layers: dict[str, object] = {
        "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        "wrong": layer(hosts=[SECRET]),
        "misspelt": layer("no.such.Layer"),
    }
    error, out = await failing("ping", "--json", layers=layers)
    assert error == "CHANNEL_LAYERS has no 'default'; there are: 'memory', 'wrong', 'misspelt'"
    assert json.loads(out) == {"layer": "default", "ok": False, "error": error, "attempts": []}
    for alias, says in (
        ("memory", "is of class InMemoryChannelLayer, no layer on RabbitMQ"),
        ("wrong", "Option 'hosts' is not known"),
        ("misspelt", "Cannot import BACKEND"),
    ):
        error, _ = await failing("stats", "--layer", alias, layers=layers)
        assert says in error


async def test_options_of_django(amqp_url: str) -> None:
    """Django's own options may follow the subcommand, too; one that is missing is status 2."""
    layers = {"default": layer(host=amqp_url)}
    ended = await manage(
        layers, "rabbitmq_layer", "ping", "--settings", "site_of_layers.settings", "--no-color"
    )
    assert (ended.code, ended.err) == (0, "")
    ended = await manage(layers, "rabbitmq_layer")
    assert ended.code == 2
    assert "SUBCOMMAND" in ended.err


def test_command_is_documented() -> None:
    """The page has each subcommand and each step of ping, and no other."""
    rows = table("docs/django.rst", "command-table")
    documented = [literals(row[0])[0].split()[0] for row in rows]
    parser = Command().create_parser("manage.py", "rabbitmq_layer")
    usage = parser.format_help().partition("subcommands:")[2]
    assert re.findall(r"^    (\w+) ", usage, re.MULTILINE) == documented
    steps = [text for row in table("docs/django.rst", "ping-table") for text in literals(row[0])]
    assert steps == TLS_STEPS


def test_values_that_json_has_not() -> None:
    """Whatever a message holds, JSON can be made of it."""
    value = {"a": [b"\0", (1, 2.5)], "n": float("nan"), 5: None, "set": {1}, "t": True}
    assert json.loads(json.dumps(to_json(value), allow_nan=False)) == {
        "a": [{"__asgi_bytes__": "AA=="}, [1, 2.5]],
        "n": "nan",
        "5": None,
        "set": "{1}",
        "t": True,
    }
