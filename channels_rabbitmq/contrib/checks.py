"""Django's system checks of every layer in ``CHANNEL_LAYERS`` that is ours; nothing connects.

https://docs.djangoproject.com/en/stable/topics/checks/; docs/django.rst explains each by its id.
No message has a part of a URL but host, port and virtual host, nor a key.
"""

from __future__ import annotations

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
from ..config.options import Fault, Options, refusals
from ..core import RabbitmqChannelLayer
from ..layer.hooks import find_event_hook, find_hook
from ..wire.serializers import make_codec

__all__ = ["HINTS", "check_deployment", "check_layers", "register"]

#: Where a check is explained, by its id in lower case.
_PAGE = "https://github.com/CJWorkbench/channels_rabbitmq/blob/main/docs/django.rst"

_BACKEND = f"{RabbitmqChannelLayer.__module__}.{RabbitmqChannelLayer.__qualname__}"

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
        _message(checks.Error, layer.place, name, text)
        for layer in _layers()
        for name, text in layer.errors()
    ]


def check_deployment(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: object
) -> list[checks.CheckMessage]:
    """Warnings of what is fit for development only; a layer with errors has none yet."""
    return [
        _message(checks.Warning, layer.place, name, text)
        for layer in _layers()
        if not any(layer.errors())
        for name, text in _doubts(layer.options())
    ]


def _message(
    kind: Callable[..., checks.CheckMessage], place: str, name: str, text: str
) -> checks.CheckMessage:
    hint = f"{HINTS[name]} {_PAGE}#channels-rabbitmq-{name.lower()}"
    return kind(f"{place}: {text}", hint=hint, id=f"channels_rabbitmq.{name}")


class _Layer(NamedTuple):
    """One entry of ``CHANNEL_LAYERS`` that is ours, or means to be."""

    place: str
    alias: str
    #: None where ``BACKEND`` is nothing that we have.
    backend: type[RabbitmqChannelLayer] | None
    config: object

    @property
    def _has_own_init(self) -> bool:
        """Whether a subclass makes its options in a way of its own."""
        return self.backend is not None and self.backend.__init__ is not (
            RabbitmqChannelLayer.__init__
        )

    def options(self) -> Options:
        """What a layer without errors is made of."""
        if self._has_own_init:
            made: RabbitmqChannelLayer = channel_layers[self.alias]
            return made.options
        return Options.from_config(_mapping(self.config))

    def errors(self) -> Iterator[tuple[str, str]]:
        """Id and text of everything that is wrong with it."""
        if self.backend is None:
            yield "E008", "BACKEND is no channel layer of channels_rabbitmq."
        elif not isinstance(self.config, Mapping):
            yield "E008", f"CONFIG must be a dict, not a {type(self.config).__name__}."
        elif self._has_own_init:
            yield from self._errors_of_making()
        else:
            refused = refusals(self.config)
            for each in refused:
                yield _ERRORS[each.fault], each.text
            if not refused:
                yield from _missing(self.options())

    def _errors_of_making(self) -> Iterator[tuple[str, str]]:
        # The layer is the one that the process will use: making it does no I/O.
        try:
            options = self.options()
        except ImproperlyConfigured as err:
            yield "E008", str(err)
        except Exception as err:
            yield "E008", f"the class cannot be made: {type(err).__name__}."
        else:
            yield from _missing(options)


def _layers() -> Iterator[_Layer]:
    """Every entry that is ours, by its class, or means to be, by its ``BACKEND``."""
    configured: object = getattr(settings, "CHANNEL_LAYERS", None)
    if not isinstance(configured, Mapping):
        return
    for alias, entry in configured.items():
        path = entry.get("BACKEND") if isinstance(entry, Mapping) else None
        if not isinstance(path, str):
            continue  # Channels says that
        backend = _backend(path)
        if backend is not None or path.startswith("channels_rabbitmq."):
            yield _Layer(f"CHANNEL_LAYERS[{alias!r}]", alias, backend, entry.get("CONFIG", {}))


def _backend(path: str) -> type[RabbitmqChannelLayer] | None:
    try:
        found = import_string(path)
    except ImportError:
        return None
    ours = isinstance(found, type) and issubclass(found, RabbitmqChannelLayer)
    return found if ours else None


def _mapping(config: object) -> Mapping[str, object]:
    return config if isinstance(config, Mapping) else {}


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


def _doubts(options: Options) -> Iterator[tuple[str, str]]:
    for endpoint in options.endpoints:
        if endpoint.tls is None and not _is_local(endpoint.host):
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
