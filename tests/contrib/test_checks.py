"""``contrib.checks``: what Django's system checks say of the channel layers in the settings."""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.checks import CheckMessage
from django.core.checks.registry import registry
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from channels_rabbitmq.config.options import Options, refusals
from channels_rabbitmq.contrib import checks
from channels_rabbitmq.core import RabbitmqChannelLayer
from tests.helpers.pages import ROOT

BACKEND = "channels_rabbitmq.core.RabbitmqChannelLayer"
#: In every value that is to be secret.
SECRET = "Zw9"


class Renamed(RabbitmqChannelLayer):
    """A subclass that takes the same options."""


class FromName(RabbitmqChannelLayer):
    """A subclass that takes others."""

    def __init__(self, name: str) -> None:
        if name == "broken":
            raise RuntimeError(SECRET)
        super().__init__(host=f"amqp://guest:{SECRET}@{name}")


def no_hook() -> None:
    """A hook that a path leads to."""


class NoSerializer:
    """Has none of the methods."""


class Raising:
    """A serializer that cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError(SECRET)


def found(
    config: object, backend: str = BACKEND, *, deploy: bool = False
) -> list[tuple[str, CheckMessage]]:
    """What the checks say of one layer, each after the last part of its id."""
    return found_in_entry({"BACKEND": backend, "CONFIG": config}, deploy=deploy)


def found_in_entry(
    entry: dict[str, object], *, deploy: bool = False
) -> list[tuple[str, CheckMessage]]:
    """The same, of a whole entry of CHANNEL_LAYERS."""
    check = checks.check_deployment if deploy else checks.check_layers
    with override_settings(CHANNEL_LAYERS={"web": entry}):
        messages = check()
    for message in messages:
        assert message.id is not None
        assert message.hint
        assert re.match(r"CHANNEL_LAYERS\['web'\](\['TEST_CONFIG'\])?: ", message.msg)
        assert SECRET not in f"{message.msg} {message.hint} {message!r}"
    return [(str(message.id).removeprefix("channels_rabbitmq."), message) for message in messages]


def ids(config: object, backend: str = BACKEND, *, deploy: bool = False) -> list[str]:
    """The ids alone."""
    return [name for name, _ in found(config, backend, deploy=deploy)]


ERRORS = [
    ({"expiri": 5}, "E001", "'expiri' is not known .* did you mean 'expiry'"),
    ({"hosts": [f"redis://:{SECRET}@redis"]}, "E002", "'host', as an AMQP URL"),
    ({"HOST": SECRET}, "E002", "no database is used"),
    ({"expiry": "5"}, "E003", "'expiry' must be a number of seconds"),
    ({"host": 5}, "E003", "'host' must be an AMQP URL"),
    ({"symmetric_encryption_keys": SECRET}, "E003", "must be a list of str"),
    ({"on_reconnect": "no path"}, "E003", "the dotted path of one"),
    ({"ssl_context": SECRET}, "E003", "must be an ssl.SSLContext"),
    ({"host": f"redis://:{SECRET}@redis:6379/0"}, "E004", "redis:// is for another server"),
    ({"host": f"{SECRET}://:{SECRET}@redis"}, "E004", "scheme must be amqp or amqps"),
    ({"host": ["amqp://one", f"amqp://u:{SECRET}/@two"]}, "E004", r"'host\[1\]' cannot be used"),
    ({"host": f"amqps://u:{SECRET}@a?cacertfile=/nowhere"}, "E005", "cannot be read: /nowhere"),
    ({"serializer_format": "no.such.Serializer"}, "E007", "cannot be imported"),
    ({"serializer_format": f"{__name__}.NoSerializer"}, "E007", r"has no method serialize\(\)"),
    ({"serializer_format": f"{__name__}.Raising"}, "E007", "leads to what raises RuntimeError"),
    ({"on_reconnect": f"{__name__}.nothing"}, "E007", "'on_reconnect' must be .* imported"),
    ({"on_disconnect": f"{__name__}.SECRET"}, "E007", "'on_disconnect' must be .* is a str"),
    ([SECRET], "E008", "CONFIG must be a dict, not a list"),
]

#: Of other keys of an entry than BACKEND and CONFIG.
ENTRIES = [
    ({"OPTIONS": {"host": SECRET}}, "E009", r"key 'OPTIONS' is not read; did you mean 'CONFIG'\?"),
    ({"Config": {}}, "E009", r"key 'Config' is not read; did you mean 'CONFIG'\?"),
    ({"CONFIG": {}, "OPTIONS": {}}, "E009", "key 'OPTIONS' is not read\\.$"),
    ({"TEST_CONFG": {}}, "E009", r"did you mean 'TEST_CONFIG'\?"),
    ({"TEST_CONFIG": {"expiri": 5}}, "E001", r"\['TEST_CONFIG'\]: Option 'expiri' is not known"),
    ({"TEST_CONFIG": [SECRET]}, "E008", "TEST_CONFIG must be a dict, not a list"),
]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module under its name: pytest imports it under another."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[found.__module__])


@pytest.mark.parametrize(("config", "expected", "says"), ERRORS)
def test_errors(config: object, expected: str, says: str) -> None:
    """Each has its id, and a text that names the option and what it may be."""
    ((name, message),) = found(config)
    assert name == expected
    assert re.search(says, message.msg)
    assert message.is_serious()


@pytest.mark.parametrize(("entry", "expected", "says"), ENTRIES)
def test_entries(entry: dict[str, object], expected: str, says: str) -> None:
    """A key that Channels does not read is an error, and TEST_CONFIG is checked as CONFIG is."""
    ((name, message),) = found_in_entry({"BACKEND": BACKEND, **entry})
    assert name == expected
    assert re.search(says, message.msg)


def test_sound_entry() -> None:
    """Nothing is said of options for tests that are sound, nor warned of what only tests have."""
    entry: dict[str, object] = {
        "BACKEND": BACKEND,
        "CONFIG": {"host": "amqp://me@localhost"},
        "TEST_CONFIG": {"host": "amqp://a"},
    }
    assert found_in_entry(entry) == found_in_entry(entry, deploy=True) == []
    subclass = {**entry, "BACKEND": f"{__name__}.FromName", "CONFIG": {"name": "a"}}
    assert found_in_entry({**subclass, "TEST_CONFIG": {"name": "b"}}) == []
    ((name, message),) = found_in_entry({**subclass, "TEST_CONFIG": {"name": "broken"}})
    assert (name, "['TEST_CONFIG']: " in message.msg) == ("E008", True)


def test_everything_at_once() -> None:
    """All that is wrong is reported, not only what is found first."""
    config = {"expiri": 5, "hosts": [], "expiry": 0, "capacity": 0, "host": ["redis://a", "amqp:"]}
    assert ids(config) == ["E001", "E002", "E003", "E003", "E004", "E004"]
    config = {"expiri": 5, "on_event": "no.where", "serializer_format": "no.such.Serializer"}
    assert ids(config) == ["E001", "E007", "E007"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"expiri": 5}, ["W002"]),
        ({"host": ["redis://a", "amqp://me@b"]}, ["W001"]),
        ({"host": ["redis://a"]}, []),
        ({"host": 5}, []),
        ({"host": "amqp://a", "ssl_context": SECRET}, ["W002"]),
        ([SECRET], []),
    ],
)
def test_warnings_beside_errors(config: object, expected: list[str]) -> None:
    """An error in one option hides no warning of another, and makes none up."""
    assert ids(config, deploy=True) == expected
    assert any(name.startswith("E") for name in ids(config))


@pytest.mark.parametrize("config", [config for config, *_ in ERRORS if isinstance(config, dict)])
def test_refusals_are_those_of_the_options(config: dict[str, object]) -> None:
    """What is reported as refused is refused when the layer is made, and nothing else is."""
    refused = [each.text for each in refusals(config)]
    if not refused:
        assert Options.from_config(config)
        return
    (text,) = refused
    with pytest.raises(ImproperlyConfigured, match=re.escape(text)):
        Options.from_config(config)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys without the package cryptography are an error, and with it they are none."""
    config = {"symmetric_encryption_keys": [SECRET * 5]}
    assert ids(config) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ((name, message),) = found(config)
    assert name == "E006"
    assert ids({**config, "expiri": 5}) == ["E001", "E006"]
    assert 'pip install "channels_rabbitmq[cryptography]"' in str(message.hint)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"host": f"amqp://me:{SECRET}@127.0.0.1"},
        {"on_reconnect": f"{__name__}.no_hook", "on_disconnect": no_hook},
        {"serializer_format": "json"},
    ],
)
def test_sound_layers(config: dict[str, object]) -> None:
    """Nothing is said of a layer that can be made."""
    assert ids(config) == []


WARNINGS = [
    ({}, ["W002"]),
    ({"host": "amqp://me@127.0.0.1"}, []),
    ({"host": "amqp://me@[::1]"}, []),
    ({"host": "amqp://me@localhost"}, []),
    ({"host": f"amqp://me:{SECRET}@rabbit.example.com"}, ["W001"]),
    ({"host": "amqp://me@10.0.0.5"}, ["W001"]),
    ({"host": ["amqp://me@localhost", "amqp://a", "amqp://me@b"]}, ["W001", "W002", "W001"]),
    ({"host": "amqps://me@a"}, []),
    ({"host": "amqps://me@a?verify=verify_none"}, ["W003"]),
    ({"host": "amqps://me@a?server_name_indication=disable"}, ["W003"]),
    ({"host": "amqp://me@a", "ssl_context": ssl.create_default_context()}, []),
    ({"host": "amqp://me@a", "ssl_context": ssl._create_unverified_context()}, ["W003"]),
]


@pytest.mark.parametrize(("config", "expected"), WARNINGS)
def test_warnings(config: dict[str, object], expected: list[str]) -> None:
    """For production there are warnings of clear text, of guest, and of TLS without checks."""
    assert ids(config, deploy=True) == expected
    assert ids(config) == []
    assert not any(message.is_serious() for _, message in found(config, deploy=True))


def test_client_certificate_is_no_guest(certs: Path) -> None:
    """Whoever logs in by certificate has no user name in the URL, and is not guest."""
    files = f"certfile={certs}/client.cert&keyfile={certs}/client.key&cacertfile={certs}/ca.cert"
    assert ids({"host": f"amqps://a?auth_mechanism=external&{files}"}, deploy=True) == []


# Which layers


@pytest.fixture
def layers() -> Iterator[dict[str, object]]:
    """The entries of CHANNEL_LAYERS, to be filled."""
    made: dict[str, object] = {}
    with override_settings(CHANNEL_LAYERS=made):
        yield made


def test_subclasses(layers: dict[str, object]) -> None:
    """A subclass is checked as its base class is, or made, if it takes other options."""
    assert ids({"expiri": 5}, f"{__name__}.Renamed") == ["E001"]
    assert ids({"name": "a"}, f"{__name__}.FromName") == []
    assert ids({"name": "a"}, f"{__name__}.FromName", deploy=True) == ["W001", "W002"]
    assert ids({"name": "a b"}, f"{__name__}.FromName") == ["E008"]
    assert ids({"name": "broken"}, f"{__name__}.FromName") == ["E008"]
    assert ids({"host": "amqp://a"}, f"{__name__}.FromName") == ["E008"]


@pytest.mark.parametrize(
    "path",
    [
        "channels_rabbitmq.RabbitmqChannelLayer",
        "channels_rabbitmq.core.get_layer",
        "channels_rabbitmq.errors.NotConnected",
    ],
)
def test_backend_that_is_none(path: str) -> None:
    """What is in this package and no layer is quoted in an error, with the right path."""
    ((name, message),) = found({}, path)
    assert name == "E008"
    assert f"BACKEND {path!r} " in message.msg
    assert message.msg.endswith(f"; did you mean {BACKEND!r}?")
    assert BACKEND in str(message.hint)


def test_traced_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its extra, the layer that traces names that; misspelt, it is suggested."""
    path = "channels_rabbitmq.contrib.opentelemetry.TracedChannelLayer"
    assert ids({}, path) == []
    assert ids({"expiri": 5, "expiry": 0}, path) == ["E001", "E003"]
    ((name, message),) = found({}, path.replace("Traced", "Tracing"))
    assert (name, message.msg.endswith(f"; did you mean {path!r}?")) == ("E008", True)
    monkeypatch.delitem(sys.modules, "channels_rabbitmq.contrib.opentelemetry")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    ((name, message),) = found({}, path)
    assert name == "E008"
    assert f"BACKEND {path!r} cannot be imported: " in message.msg
    assert 'pip install "channels_rabbitmq[opentelemetry]"' in message.msg
    assert "did you mean" not in message.msg


def test_layers_of_others(layers: dict[str, object]) -> None:
    """Other backends, and what Channels itself refuses, are not our matter."""
    layers["memory"] = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"expiri": 5}}
    layers["missing"] = {"BACKEND": "no.such.Layer"}
    layers["wrong"] = {"BACKEND": 5}
    layers["wronger"] = 5
    assert checks.check_layers() == checks.check_deployment() == []
    layers["ours"] = {"BACKEND": BACKEND}
    assert [message.id for message in checks.check_deployment()] == ["channels_rabbitmq.W002"]
    for settings in (None, [5]):
        with override_settings(CHANNEL_LAYERS=settings):
            assert checks.check_layers() == []


def test_registered() -> None:
    """Both are registered under a tag, and the warnings for deployment alone."""
    checks.register()
    assert checks.check_layers in registry.registered_checks
    assert checks.check_deployment in registry.deployment_checks
    assert "channels_rabbitmq" in registry.tags_available(deployment_checks=True)


# The documentation


def test_every_check_is_documented() -> None:
    """Each id has a section in docs/django.rst, a hint, and a test here."""
    headings = set(
        re.findall(
            r"^channels_rabbitmq\.([EW]\d{3})\n~+$",
            (ROOT / "docs" / "django.rst").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )
    source = Path(checks.__file__).read_text(encoding="utf-8")
    assert headings == set(checks.HINTS) == set(re.findall(r'"([EW]\d{3})"', source))
    tested = {name for _, name, _ in [*ERRORS, *ENTRIES]} | {
        name for _, names in WARNINGS for name in names
    }
    assert headings == tested | {"E006"}


def test_hints_lead_somewhere() -> None:
    """Each page that a hint names is there."""
    pages = set(re.findall(r"docs/[\w-]+\.rst", " ".join(checks.HINTS.values())))
    assert len(pages) >= 3
    assert all((ROOT / page).exists() for page in pages)
