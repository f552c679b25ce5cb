"""Django's system checks of every layer in ``CHANNEL_LAYERS`` that is ours; nothing connects.

https://docs.djangoproject.com/en/stable/topics/checks/; docs/django.rst explains each by its id.
No message has a part of a URL but host, port and virtual host, nor a key.
"""

from __future__ import annotations

import difflib
import importlib.util
import ipaddress
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from channels.layers import channel_layers
from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..amqp.endpoint import Endpoint
from ..config.options import OPTIONS, Fault, Options, Refusal, refusals
from ..core import RabbitmqChannelLayer
from ..layer.hooks import find_event_hook, find_hook
from ..wire.serializers import make_codec

__all__ = ["HINTS", "check_deployment", "check_layers", "register"]

#: Where a check is explained, by its id in lower case.
_PAGE = "https://github.com/CJWorkbench/channels_rabbitmq/blob/main/docs/django.rst"

_BACKEND = f"{RabbitmqChannelLayer.__module__}.{RabbitmqChannelLayer.__qualname__}"

#: What ``BACKEND`` may be, of this package.
_BACKENDS = (_BACKEND, "channels_rabbitmq.contrib.opentelemetry.TracedChannelLayer")

#: What Channels reads of an entry.
_KEYS = ("BACKEND", "CONFIG", "TEST_CONFIG")

#: What to do, by the last part of the id.
HINTS: Mapping[str, str] = {
    "E001": "Correct the name; docs/options.rst has every option.",
    "E002": "It belongs to another channel layer or library; docs/migrating.rst has what to write.",
    "E003": "docs/options.rst has the range of each option.",
    "E004": "Write amqp://user:password@host:port/vhost, percent-encoded, or amqps:// for TLS.",
    "E005": "docs/tls.rst has the parameters of the URL, and what each error means.",
    "E006": 'Run: pip install "channels_rabbitmq[cryptography]"',
    "E007": "A dotted path is package.module.name, importable by this process.",
    "E008": f"BACKEND is '{_BACKEND}', or a subclass of that; CONFIG is a dict of its options.",
    "E009": "The options of a layer go into CONFIG; Channels reads no other key.",
    "W001": "Use an amqps:// URL, or silence this where the network itself is private.",
    "W002": "Make a user for this project: rabbitmqctl add_user, set_permissions.",
    "W003": "Leave verify=verify_none and server_name_indication=disable out; give cacertfile.",
}

#: The check that each fault of an option is.
_ERRORS: Mapping[Fault, str] = {
    Fault.UNKNOWN: "E001",
    Fault.FOREIGN: "E002",
    Fault.VALUE: "E003",
    Fault.URL: "E004",
    Fault.TLS: "E005",
}


def register() -> None:
    """Have ``manage.py check`` run these, and ``check --deploy`` those for production too."""
    checks.register(check_layers, "channels_rabbitmq")
    checks.register(check_deployment, "channels_rabbitmq", deploy=True)


def check_layers(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: object
) -> list[checks.CheckMessage]:
    """The errors of all layers: what would raise ImproperlyConfigured, and later ones."""
    return [
        *(_message(checks.Error, *error) for error in _errors_of_entries()),
        *(
            _message(checks.Error, layer.place, name, text)
            for layer in _layers()
            for name, text in layer.errors()
        ),
    ]


def check_deployment(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: object
) -> list[checks.CheckMessage]:
    """Warnings of what is fit for development only, as far as the options can be understood."""
    return [
        _message(checks.Warning, layer.place, name, text)
        for layer in _layers()
        if not layer.is_for_tests
        for name, text in layer.doubts()
    ]


def _message(
    kind: Callable[..., checks.CheckMessage], place: str, name: str, text: str
) -> checks.CheckMessage:
    hint = f"{HINTS[name]} {_PAGE}#channels-rabbitmq-{name.lower()}"
    return kind(f"{place}: {text}", hint=hint, id=f"channels_rabbitmq.{name}")


class _Layer(NamedTuple):
    """``CONFIG`` or ``TEST_CONFIG`` of one entry of ``CHANNEL_LAYERS`` that is ours."""

    place: str
    alias: str
    backend: type[RabbitmqChannelLayer]
    config: object
    is_for_tests: bool = False

    @property
    def _has_own_init(self) -> bool:
        """Whether a subclass makes its options in a way of its own."""
        return self.backend.__init__ is not RabbitmqChannelLayer.__init__

    def errors(self) -> Iterator[tuple[str, str]]:
        """Id and text of everything that is wrong with it."""
        if not isinstance(self.config, Mapping):
            yield "E008", f"{self._key} must be a dict, not a {type(self.config).__name__}."
        elif self._has_own_init:
            yield from self._errors_of_making()
        else:
            refused = refusals(self.config)
            for each in refused:
                yield _ERRORS[each.fault], each.text
            yield from _missing(_understood(self.config, refused).options)

    def doubts(self) -> Iterator[tuple[str, str]]:
        """Id and text of what is fit for development only."""
        if not isinstance(self.config, Mapping):
            return
        if not self._has_own_init:
            yield from _doubts(_understood(self.config, refusals(self.config)))
        elif not any(self.errors()):
            yield from _doubts(_Understood(self.make().options))

    @property
    def _key(self) -> str:
        return "TEST_CONFIG" if self.is_for_tests else "CONFIG"

    def make(self) -> RabbitmqChannelLayer:
        # The layer is the one that the process will use: making it does no I/O.
        layer: RabbitmqChannelLayer = (
            channel_layers.make_test_backend(self.alias)
            if self.is_for_tests
            else channel_layers[self.alias]
        )
        return layer

    def _errors_of_making(self) -> Iterator[tuple[str, str]]:
        try:
            options = self.make().options
        except ImproperlyConfigured as err:
            yield "E008", str(err)
        except Exception as err:
            yield "E008", f"the class cannot be made: {type(err).__name__}."
        else:
            yield from _missing(options)


# Which layers


def _entries() -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """Every entry of ``CHANNEL_LAYERS`` that Channels can read: alias, ``BACKEND`` and all of it.

    Channels itself tells what is wrong with others.
    """
    configured: object = getattr(settings, "CHANNEL_LAYERS", None)
    if isinstance(configured, Mapping):
        for alias, entry in configured.items():
            path = entry.get("BACKEND") if isinstance(entry, Mapping) else None
            if isinstance(path, str):
                yield alias, path, entry


def _layers() -> Iterator[_Layer]:
    """What every layer that is ours, by its class, is made of."""
    for alias, path, entry in _entries():
        backend = _backend(path)
        if not isinstance(backend, str):
            place = _place(alias)
            yield _Layer(place, alias, backend, entry.get("CONFIG", {}))
            if "TEST_CONFIG" in entry:
                place = f"{place}['TEST_CONFIG']"
                yield _Layer(place, alias, backend, entry["TEST_CONFIG"], is_for_tests=True)


def _errors_of_entries() -> Iterator[tuple[str, str, str]]:
    """Place, id and text of what is wrong with the entries that are ours, or mean to be."""
    for alias, path, entry in _entries():
        backend = _backend(path)
        if isinstance(backend, str):
            if path.startswith("channels_rabbitmq."):
                yield _place(alias), "E008", backend
            continue
        for key in entry:
            if key not in _KEYS:
                yield _place(alias), "E009", _unread(key, entry)


def _place(alias: str) -> str:
    return f"CHANNEL_LAYERS[{alias!r}]"


def _backend(path: str) -> type[RabbitmqChannelLayer] | str:
    """The class that ``BACKEND`` names, or what is wrong with it."""
    try:
        found = import_string(path)
    except ImportError as err:
        return f"BACKEND {path!r} cannot be imported: {err}{_instead(path)}"
    if isinstance(found, type) and issubclass(found, RabbitmqChannelLayer):
        return found
    return f"BACKEND {path!r} is no channel layer of channels_rabbitmq{_instead(path)}"


def _instead(path: str) -> str:
    """The end of a sentence on a ``BACKEND``: what was meant, unless it is written like that."""
    if path in _BACKENDS:
        return "."
    (nearest,) = difflib.get_close_matches(path, _BACKENDS, n=1, cutoff=0)
    return f"; did you mean {nearest!r}?"


def _unread(key: object, entry: Mapping[str, object]) -> str:
    names = difflib.get_close_matches(str(key).upper(), _KEYS, n=1)
    meant = names[0] if names else "CONFIG"
    asked = "" if meant in entry else f"; did you mean {meant!r}?"
    return f"key {key!r} is not read{asked or '.'}"


# What the options lead to


class _Understood(NamedTuple):
    """The options that are not wrong; those that are have their defaults."""

    options: Options
    #: Whether it is known where RabbitMQ is, and whether TLS leads there.
    has_endpoints: bool = True
    has_tls: bool = True


def _understood(config: Mapping[str, object], refused: Sequence[Refusal]) -> _Understood:
    wrong = {each.option for each in refused}
    kept = {name: config[name] for name in OPTIONS if name in config and name not in wrong}
    host = kept.get("host")
    if isinstance(host, (list, tuple)):
        kept["host"] = [url for index, url in enumerate(host) if f"host[{index}]" not in wrong]
        if not kept["host"]:
            del kept["host"]
    return _Understood(
        Options.from_config(kept),
        has_endpoints="host" in kept or "host" not in config,
        has_tls="ssl_context" not in wrong,
    )


def _missing(options: Options) -> Iterator[tuple[str, str]]:
    """What the options lead to, and is not there."""
    if options.symmetric_encryption_keys and importlib.util.find_spec("cryptography") is None:
        yield (
            "E006",
            "Option 'symmetric_encryption_keys' needs the package cryptography, which is not "
            "installed.",
        )
    # The keys are another check's.
    plain = replace(options, symmetric_encryption_keys=())
    looks: tuple[Callable[[], object], ...] = (
        lambda: make_codec(plain),
        lambda: find_hook("on_disconnect", options.on_disconnect),
        lambda: find_hook("on_reconnect", options.on_reconnect),
        lambda: find_event_hook(options.on_event),
    )
    for look, name in zip(
        looks, ("serializer_format", "on_disconnect", "on_reconnect", "on_event"), strict=True
    ):
        try:
            look()
        except ImproperlyConfigured as err:
            yield "E007", str(err)
        except Exception as err:
            # The module, or the serializer's class, is the user's.
            yield "E007", f"Option {name!r} leads to what raises {type(err).__name__}."


# For production


def _doubts(understood: _Understood) -> Iterator[tuple[str, str]]:
    has_tls = understood.has_tls
    for endpoint in understood.options.endpoints if understood.has_endpoints else ():
        if has_tls and endpoint.tls is None and not _is_local(endpoint.host):
            yield "W001", f"messages and password travel to {endpoint} in clear text."
        if endpoint.username == "guest" and endpoint.auth_mechanisms != ("EXTERNAL",):
            yield "W002", f"the user at {endpoint} is guest, whom everybody knows."
        if endpoint.tls is not None and not _verifies(endpoint):
            yield "W003", f"the certificate of {endpoint} is not verified, or not its name."


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def _verifies(endpoint: Endpoint) -> bool:
    context = endpoint.tls
    return (
        context is not None and context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
    )
