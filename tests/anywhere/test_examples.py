"""The examples of docs/sending.rst, copied and pasted into a project, each run as it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.pages import snippets
from tests.helpers.scripts import started

if TYPE_CHECKING:
    from channels_rabbitmq.core import RabbitmqChannelLayer
    from tests.helpers.rabbit import MakeLayer

SETTINGS = """
import json, os

SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "mysite.urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "channels", "chat"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
USE_TZ = True
CELERY_TASK_ALWAYS_EAGER = True
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_rabbitmq.core.RabbitmqChannelLayer",
        "CONFIG": {"host": os.environ["AMQP_URL"], **json.loads(os.environ["LAYER_OPTIONS"])},
    }
}
"""
URLS = """
from chat import views
from django.urls import path

urlpatterns = [path("plain", views.plain_view), path("async", views.async_view)]
"""
MANAGE = """
import os, sys
from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
execute_from_command_line(sys.argv)
"""
BEGIN = "import django; django.setup(); "


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new project with the page's examples in it."""
    files = {
        "mysite/__init__.py": "",
        "mysite/settings.py": SETTINGS,
        "mysite/urls.py": URLS,
        "manage.py": MANAGE,
        "chat/__init__.py": "",
        "chat/management/__init__.py": "",
        "chat/management/commands/__init__.py": "",
    }
    for name, code in snippets("docs/sending.rst"):
        first_line = code.partition("\n")[0]
        assert first_line.startswith("# "), f"{name} does not say which file it is"
        files[first_line[2:]] = code
    for file, text in files.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "mysite.settings")
    return tmp_path


@pytest.fixture
async def lobby(make_layer: MakeLayer) -> tuple[RabbitmqChannelLayer, str]:
    """Another process's layer, and its channel in the lobby."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("lobby", channel)
    return layer, channel


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-c", BEGIN + "from chat.tasks import announce; announce('by task')"], ["by task"]),
        (["-c", BEGIN + "from chat.retried import announce_surely as a; a('surely')"], ["surely"]),
        (["manage.py", "announce", "by command"], ["by command"]),
        (["script.py"], ["line 0", "line 1", "line 2"]),
        (
            [
                "-c",
                BEGIN + "from django.test import Client; "
                "assert Client().get('/plain?text=one').content == b'said'; "
                "assert Client().get('/async?text=two').content == b'said'",
            ],
            ["one", "two"],
        ),
        (
            [
                "-c",
                BEGIN + "import chat.signals; "
                "from django.contrib.auth.models import User; "
                "from django.core.management import call_command; "
                "call_command('migrate', verbosity=0); "
                "User.objects.create(username='somebody').save(); "
                "from django.db import connections; connections.close_all()",
            ],
            ["somebody has joined"],
        ),
    ],
    ids=["celery", "retried", "command", "script", "views", "signals"],
)
async def test_what_says_something(
    site: Path,
    lobby: tuple[RabbitmqChannelLayer, str],
    amqp_url: str,
    arguments: list[str],
    said: list[str],
) -> None:
    """What an example says is heard by another process, once."""
    layer, channel = lobby
    exchange = layer.options.groups_exchange
    with started(arguments, amqp_url, cwd=site, groups_exchange=exchange) as running:
        await running.end_well()
    await layer.send(channel, {"type": "chat.line", "text": "that is all"})
    heard = [(await asyncio.wait_for(layer.receive(channel), 10))["text"] for _ in [*said, None]]
    assert heard == [*said, "that is all"]


async def test_a_task_that_tries_again(site: Path) -> None:
    """While RabbitMQ is away the task is tried again, as often as it says, and then fails."""
    code = BEGIN + (
        "from chat.retried import announce_surely; from celery.signals import task_retry; "
        "tries = []; task_retry.connect(lambda **_: tries.append(1), weak=False); "
        "result = announce_surely.apply(args=['x']); "
        "print(len(tries), result.state, type(result.result).__name__, flush=True)"
    )
    flags = ("-X", "dev")
    nobody = "amqp://127.0.0.1:1"
    with started(
        ["-c", code], nobody, flags=flags, cwd=site, group_send_raises=True, send_timeout=0.2
    ) as running:
        assert await running.line() == "8 FAILURE NotConnected"
        await running.end()


async def test_asking(site: Path, lobby: tuple[RabbitmqChannelLayer, str], amqp_url: str) -> None:
    """Plain code asks a group, and gets the answer."""
    layer, channel = lobby
    code = BEGIN + "from chat.ask import ask; print(ask('how are you?'))"
    exchange = layer.options.groups_exchange
    with started(["-c", code], amqp_url, cwd=site, groups_exchange=exchange) as running:
        question = await asyncio.wait_for(layer.receive(channel), 20)
        assert question["text"] == "how are you?"
        await layer.send(str(question["reply_to"]), {"type": "answer", "text": "very well"})
        assert await running.line() == "very well"
        await running.end_well()


async def test_a_loop_in_a_thread(
    site: Path, lobby: tuple[RabbitmqChannelLayer, str], amqp_url: str
) -> None:
    """A thread with a loop of its own hears what plain code says, and what others say."""
    layer, _ = lobby
    code = (
        BEGIN + "from chat.watcher import start; from chat.tasks import announce; import time; "
        "thread = start(); print('started', flush=True)\n"
        "while thread.is_alive(): announce('from here'); time.sleep(0.05)"
    )
    exchange = layer.options.groups_exchange
    with started(["-c", code], amqp_url, cwd=site, groups_exchange=exchange) as running:
        assert await running.line() == "started"
        assert await running.line() == "from here"
        await layer.group_send("lobby", {"type": "chat.line", "text": "goodbye"})
        while await running.line() != "goodbye":
            pass
        await running.end_well()


async def test_jobs(site: Path, lobby: tuple[RabbitmqChannelLayer, str], amqp_url: str) -> None:
    """A job that plain code orders waits in its queue."""
    layer, _ = lobby
    code = BEGIN + "from chat.jobs import order_thumbnail; order_thumbnail('a.png')"
    with started(["-c", code], amqp_url, cwd=site) as running:
        await running.end_well()
    connection = await layer.current_connection
    async with connection.acking_consumer("thumbnails") as consumer:
        body, tag = await asyncio.wait_for(consumer.next_delivery(), 10)
        consumer.ack(tag)
    assert body == b'{"path": "a.png"}'
