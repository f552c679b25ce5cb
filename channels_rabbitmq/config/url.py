"""
Reads an AMQP URL; no I/O.

The grammar is RabbitMQ's `URI specification <https://www.rabbitmq.com/docs/uri-spec>`_, and the
parameters are its `query parameters <https://www.rabbitmq.com/docs/uri-query-parameters>`_.
Where the specification leaves the choice to the client:

* A user name that is not there is ``guest``, a password likewise, and a host ``127.0.0.1``; an
  empty user name or password that is written out stays empty.
* The path ``/`` means the default virtual host, as no path does (version 4.0.1 read it so):
  whoever ends a URL with a slash means the default, not a virtual host with an empty name.
* An ``@`` after the host is refused unless it is percent-encoded. It is nearly always a ``/``,
  ``?`` or ``#`` in a password, whose rest would else be taken for a name that may be logged.
* A ``+`` in the query is a plus sign, as RFC 3986 has it.

Errors name what is wrong, never the text of it: a URL that is not understood may hold a password
anywhere.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from ..errors import RabbitmqError
from .tls import TlsParameters

DEFAULT_ADDRESS: Final = "127.0.0.1"
DEFAULT_PORT: Final = 5672
DEFAULT_TLS_PORT: Final = 5671
DEFAULT_HEARTBEAT: Final = 60
DEFAULT_CONNECT_TIMEOUT: Final = 10.0
DEFAULT_AUTH_MECHANISMS: Final = ("PLAIN",)

# Fewer could not hold the layer's own AMQP channels beside a few for the user's publishes.
LEAST_CHANNEL_MAX: Final = 16
# AMQP 0-9-1's frame-min-size.
LEAST_FRAME_MAX: Final = 4096

_AUTH_MECHANISMS: Final = ("PLAIN", "AMQPLAIN", "EXTERNAL")

# Parameters that say something about TLS, so that a URL without TLS must not have them.
_TLS_PARAMETERS: Final = (
    "cacertfile",
    "certfile",
    "keyfile",
    "password",
    "verify",
    "server_name_indication",
    "fail_if_no_peer_cert",
    "customize_hostname_check",
)
_OTHER_PARAMETERS: Final = (
    "heartbeat",
    "connection_timeout",
    "auth_mechanism",
    "channel_max",
    "frame_max",
)
_PARAMETERS: Final = _TLS_PARAMETERS + _OTHER_PARAMETERS

# RFC 3986, appendix B, with the parts that an AMQP URL must have.
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?"
)
_HOST_AND_PORT: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SPACE_OR_CONTROL: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")
_NOT_IN_A_HOST: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f/?#@:\[\]%]")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")


class InvalidUrl(RabbitmqError, ValueError):
    """The URL, or one of its parameters, cannot be used. The text never quotes the URL."""


@dataclass(frozen=True)
class AmqpUri:
    """What one AMQP URL says, decoded, with defaults for what it leaves out."""

    tls: bool
    """Whether the scheme is ``amqps``."""
    host: str
    """A name or an address; IPv6 without its brackets."""
    port: int | None
    """``None`` where the URL names none: the default depends on whether TLS is used in the end."""
    username: str = field(repr=False)
    password: str = field(repr=False)
    virtual_host: str
    heartbeat: int = DEFAULT_HEARTBEAT
    """Seconds to offer the server; 0 asks for none."""
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    """Seconds for the whole way to an open connection (the URL has milliseconds)."""
    auth_mechanisms: tuple[str, ...] = DEFAULT_AUTH_MECHANISMS
    """SASL mechanisms in order of preference."""
    channel_max: int = 0
    """Most AMQP channels to agree on; 0 leaves it to the server."""
    frame_max: int = 0
    """Most bytes of a frame to agree on; 0 leaves it to the server."""
    tls_parameters: TlsParameters = field(default_factory=TlsParameters)
    """The parameters that build an ``ssl.SSLContext``."""
    tls_parameter_names: tuple[str, ...] = ()
    """Names of all parameters about TLS that the URL has, in its order."""


def parse(url: str) -> AmqpUri:
    """
    Read an AMQP URL, such as ``amqps://user:p%40ss@[::1]:5671/my%2Fvhost?heartbeat=20``.

    Raises `InvalidUrl`, which says what is wrong without quoting the URL.
    """
    if _SPACE_OR_CONTROL.search(url):
        raise InvalidUrl(
            "the URL has a space or a control character, which must be percent-encoded"
        )
    match = _URL.fullmatch(url)
    if match is None:
        raise InvalidUrl(
            "a URL starts with amqp:// or amqps://, such as amqp://user:pass@host/vhost"
        )
    scheme = match["scheme"].lower()
    if scheme not in ("amqp", "amqps"):
        raise InvalidUrl("the URL's scheme must be amqp or amqps")

    authority, path, query = match["authority"], match["path"] or "", match["query"] or ""
    if "@" in path + query + (match["fragment"] or ""):
        raise InvalidUrl(
            "the URL has an '@' after the host; percent-encode '/' (%2F), '?' (%3F) and '#' (%23) "
            "in the user name and password, and '@' (%40) in the virtual host and parameters"
        )
    if match["fragment"] is not None:
        raise InvalidUrl("the URL has a '#', which must be percent-encoded as %23")

    username, password, address = _credentials(authority)
    host, port = _host_and_port(address)
    parameters = _parameters(query)
    # The last value is the only one, but for auth_mechanism.
    one = {name: values[-1] for name, values in parameters.items()}
    _check_ignored(one)
    return AmqpUri(
        tls=scheme == "amqps",
        host=host,
        port=port,
        username=username,
        password=password,
        virtual_host=_virtual_host(path),
        heartbeat=_number(one, "heartbeat", 0, 65535, "seconds", DEFAULT_HEARTBEAT),
        connect_timeout=_number(
            one,
            "connection_timeout",
            1,
            999_999_999,
            "milliseconds",
            DEFAULT_CONNECT_TIMEOUT * 1000,
        )
        / 1000,
        auth_mechanisms=_auth_mechanisms(parameters.get("auth_mechanism", ())),
        channel_max=_number(one, "channel_max", LEAST_CHANNEL_MAX, 65535, "channels", 0),
        frame_max=_number(one, "frame_max", LEAST_FRAME_MAX, 999_999_999, "bytes", 0),
        tls_parameters=TlsParameters(
            cacertfile=one.get("cacertfile"),
            certfile=one.get("certfile"),
            keyfile=one.get("keyfile"),
            password=one.get("password"),
            verify_peer=_choice(one, "verify", ("verify_peer", "verify_none")) != "verify_none",
            server_name_indication=one.get("server_name_indication"),
        ),
        tls_parameter_names=tuple(name for name in parameters if name in _TLS_PARAMETERS),
    )


def _decode(text: str, what: str) -> str:
    """Undo percent-encoding; the octets are UTF-8, and a NUL has no place in any part."""
    if _BAD_ESCAPE.search(text):
        raise InvalidUrl(
            f"the URL's {what} has a '%' that starts no escape such as %2F; a '%' itself is %25"
        )
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeError:
        # The cause holds the text, which may be a password.
        raise InvalidUrl(f"the URL's {what} is not UTF-8 after percent-decoding") from None
    if "\0" in decoded:
        # It ends a field in SASL PLAIN (RFC 4616) and is not allowed in AMQP's short strings.
        raise InvalidUrl(f"the URL's {what} has a NUL character")
    return decoded


def _credentials(authority: str) -> tuple[str, str, str]:
    # A bare '@' or ':' in the password is not ambiguous, and version 4.0.1 took it.
    userinfo, at, address = authority.rpartition("@")
    if not at:
        return "guest", "guest", address
    username, colon, password = userinfo.partition(":")
    return (
        _decode(username, "user name"),
        _decode(password, "password") if colon else "guest",
        address,
    )


def _host_and_port(address: str) -> tuple[str, int | None]:
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None:
        raise InvalidUrl("the URL's host is not valid; an IPv6 address goes in brackets: [::1]")
    port = match["port"]
    if port and not (_NUMBER.fullmatch(port) and 1 <= int(port) <= 65535):
        raise InvalidUrl(
            "the URL's port must be a number from 1 to 65535; "
            "an IPv6 address goes in brackets: [::1]"
        )
    return _host(match["host"]), int(port) if port else None


def _host(text: str) -> str:
    if not text:
        return DEFAULT_ADDRESS
    if text.startswith("["):
        host = _decode(text[1:-1], "host")
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise InvalidUrl("the URL's host in brackets is not an IPv6 address") from None
        return host
    host = _decode(text, "host")
    try:
        # What getaddrinfo() will do, later and far from the one who wrote the URL.
        host.encode("idna")
    except UnicodeError:
        raise InvalidUrl("the URL's host is not a valid name") from None
    if _NOT_IN_A_HOST.search(host):
        raise InvalidUrl("the URL's host is not a valid name")
    return host


def _virtual_host(path: str) -> str:
    name = path[1:]
    if "/" in name:
        raise InvalidUrl("a '/' in the URL's virtual host must be percent-encoded as %2F")
    decoded = _decode(name, "virtual host") or "/"
    # AMQP 0-9-1's "path" domain, and its short strings.
    if len(decoded) > 127 or len(decoded.encode()) > 255:
        raise InvalidUrl("the URL's virtual host is longer than 127 characters or 255 bytes")
    return decoded


def _parameters(query: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    for part in query.split("&"):
        if not part:
            continue
        previous = name
        encoded_name, _, text = part.partition("=")
        name = _decode(encoded_name, "query")
        if name not in _PARAMETERS:
            raise InvalidUrl(_unknown_parameter(name, previous))
        value = _decode(text, f"parameter {name!r}")
        if not value:
            raise InvalidUrl(f"the URL's parameter {name!r} has no value")
        if name in found and name != "auth_mechanism":
            raise InvalidUrl(f"the URL has the parameter {name!r} twice")
        found[name] = (*found.get(name, ()), value)
    return found


def _unknown_parameter(name: str, previous: str) -> str:
    if previous == "password":
        # What looks like a name may be the rest of the passphrase: not to be shown.
        return (
            "the URL's parameter after 'password' is not known; "
            "percent-encode '&' (%26) in the passphrase"
        )
    if name == "depth":
        return (
            "the URL's parameter 'depth' is not supported: Python's ssl module cannot limit the "
            "length of a certificate chain"
        )
    close = difflib.get_close_matches(name, _PARAMETERS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"the URL's parameter {name!r} is not known{hint}; "
        f"the parameters are {', '.join(sorted(_PARAMETERS))}"
    )


def _number(
    parameters: dict[str, str], name: str, least: int, most: int, unit: str, default: float
) -> int:
    text = parameters.get(name)
    if text is None:
        return int(default)
    if not (_NUMBER.fullmatch(text) and least <= int(text) <= most):
        raise InvalidUrl(
            f"the URL's parameter {name!r} must be a whole number of {unit} from {least} to {most}"
        )
    return int(text)


def _choice(parameters: dict[str, str], name: str, choices: tuple[str, ...]) -> str | None:
    text = parameters.get(name)
    if text is not None and text not in choices:
        raise InvalidUrl(f"the URL's parameter {name!r} must be {' or '.join(choices)}")
    return text


def _auth_mechanisms(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        return DEFAULT_AUTH_MECHANISMS
    names = tuple(dict.fromkeys(value.upper() for value in values))
    if not set(names) <= set(_AUTH_MECHANISMS):
        raise InvalidUrl(
            "the URL's parameter 'auth_mechanism' must be "
            + ", ".join(name.lower() for name in _AUTH_MECHANISMS[:-1])
            + f" or {_AUTH_MECHANISMS[-1].lower()}"
        )
    return names


def _check_ignored(parameters: dict[str, str]) -> None:
    """
    Refuse wrong values of the two parameters that change nothing here.

    ``fail_if_no_peer_cert`` is for TLS servers, and ``customize_hostname_check=https`` asks for the
    matching of wildcards that Python does anyway. URLs written for RabbitMQ's own client have them.
    """
    _choice(parameters, "fail_if_no_peer_cert", ("true", "false"))
    _choice(parameters, "customize_hostname_check", ("https",))
