"""``config.connection_name``: what a connection is called where no option says it."""

from __future__ import annotations

import gc
import os
import re
import socket
import uuid

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from channels_rabbitmq.config.connection_name import ConnectionName, program
from channels_rabbitmq.config.options import Options
from channels_rabbitmq.core import RabbitmqChannelLayer


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["/usr/bin/daphne", "-p", "8000"], "daphne"),
        (["/lib/site-packages/uvicorn/__main__.py", "chat.asgi:application"], "uvicorn"),
        (["manage.py", "runworker", "thumbnails"], "runworker"),
        (["./manage.py"], "manage"),
        (["/lib/django/__main__.py", "runserver", "8000"], "runserver"),
        (["django-admin", "--help"], "django-admin"),
        (["scripts/nightly.py", "password"], "nightly"),
        (["-c"], "python"),
        (["-m"], "python"),
        ([""], "python"),
        ([], "python"),
    ],
)
def test_program(argv: list[str], name: str) -> None:
    """It is what runs: the module of ``python -m``, the command of ``manage.py``."""
    assert program(argv) == name


def test_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has project, program, host and process id, and the host as it is."""
    host = "web-1.a-long-name-of-a-data-centre.example.com"
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr("sys.argv", ["daphne"])
    with override_settings(SETTINGS_MODULE="chat.settings.production"):
        assert str(ConnectionName()) == f"chat/daphne@{host}:{os.getpid()}"
    with override_settings(SETTINGS_MODULE=None):
        assert str(ConnectionName()) == f"daphne@{host}:{os.getpid()}"


def test_characters_that_a_log_cannot_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not printable ASCII becomes a question mark; long names are cut, but for the host."""
    monkeypatch.setattr("sys.argv", ["bin/t\u00e9st\n" + "x" * 300])
    monkeypatch.setattr(socket, "gethostname", lambda: "h\u00f4st")
    with override_settings(SETTINGS_MODULE="p" * 70):
        name = str(ConnectionName())
    assert re.fullmatch(r"p{64}/t\?st\?x{59}@h\?st:\d+", name)


def test_layers_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of the same name has a number, and a name of its own has none."""
    given = f"web-{uuid.uuid4()}"
    first, second, other = (ConnectionName(name) for name in (given, given, f"{given}-b"))
    for name in (first, second, other):
        name.take_number()
    assert [str(name) for name in (first, second, other)] == [given, f"{given} #2", f"{given}-b"]


def test_numbers_are_given_back() -> None:
    """The next layer has the least number that is free; what was given back once stays so."""
    given = f"web-{uuid.uuid4()}"
    first, second, third, fourth = (ConnectionName(given) for _ in range(4))
    for name in (first, second):
        name.take_number()
    first.give_number_back()
    third.take_number()
    first.give_number_back()
    fourth.take_number()
    said = [str(name) for name in (first, second, third, fourth)]
    assert said == [given, f"{given} #2", given, f"{given} #3"]


async def test_layers_give_numbers_back() -> None:
    """One that is closed, or collected, leaves its number to the next."""
    given = f"web-{uuid.uuid4()}"
    for _ in range(3):
        layer = RabbitmqChannelLayer(connection_name=given)
        assert layer.connection_name == given
        await layer.close()
        assert layer.connection_name == given
    for _ in range(3):
        assert RabbitmqChannelLayer(connection_name=given).connection_name == given
        gc.collect()


def test_checking_options_takes_no_number() -> None:
    """Options that no layer is made of leave the first layer its name."""
    given = f"web-{uuid.uuid4()}"
    for _ in range(3):
        made = Options.from_config({"connection_name": given})
    made.connection_name.take_number()
    assert str(made.connection_name) == given


@pytest.mark.parametrize("value", [5, b"web", ["web"], "", "x" * 201, "w\u00e9b", "web\n", "a\x1b"])
def test_refused(value: object) -> None:
    """What does not fit into a log line and a consumer's tag is refused by the option's name."""
    with pytest.raises(ImproperlyConfigured, match="Option 'connection_name' must") as caught:
        Options.from_config({"connection_name": value})
    assert not isinstance(value, str) or value not in str(caught.value) or not value
