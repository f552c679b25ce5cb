"""Reads an AMQP URL; no I/O.

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
import unicodedata
from urllib.parse import SplitResult, unquote_to_bytes

from ..amqp.endpoint import (
    DEFAULT_AUTH_MECHANISMS,
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_HEARTBEAT,
    Endpoint,
)
from ..errors import RabbitmqError
from .tls import SNI_DISABLE, TlsParameters

DEFAULT_ADDRESS = "127.0.0.1"
DEFAULT_PORT = 5672
DEFAULT_TLS_PORT = 5671

# Parameters that a ready-made context leaves no room for.
_CONTEXT_PARAMETERS = ("cacertfile", "certfile", "keyfile", "password", "verify")
# Parameters that say something about TLS, so that a URL without TLS must not have them.
_TLS_PARAMETERS = (
    *_CONTEXT_PARAMETERS,
    "server_name_indication",
    "fail_if_no_peer_cert",
    "customize_hostname_check",
)
# Parameters that are whole numbers: the least, the most, and the unit.
_NUMBERS = {
    "heartbeat": (0, 65535, "seconds"),
    "connection_timeout": (1, 999_999_999, "milliseconds"),
    # Fewer could not hold the layer's own AMQP channels beside a few for the user's publishes.
    "channel_max": (16, 65535, "channels"),
    # AMQP 0-9-1's frame-min-size.
    "frame_max": (4096, 999_999_999, "bytes"),
}
# Parameters that are one of a few words. Two of them change nothing here, but URLs written for
# RabbitMQ's own client have them: fail_if_no_peer_cert is for TLS servers, and
# customize_hostname_check=https asks for the matching of wildcards that Python does anyway.
_CHOICES = {
    "verify": ("verify_peer", "verify_none"),
    "fail_if_no_peer_cert": ("true", "false"),
    "customize_hostname_check": ("https",),
    "auth_mechanism": ("plain", "amqplain", "external"),
}
PARAMETERS = (*_TLS_PARAMETERS, *_NUMBERS, "auth_mechanism")

#: What users may have at hand instead.
_OTHER_SCHEMES = ("http", "https", "mysql", "nats", "postgres", "postgresql", "redis", "rediss")

_ADDRESS = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]*)(:.*)?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SPACE_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")
_NOT_IN_A_HOST = re.compile(r"[\s\x00-\x1f\x7f-\x9f/?#@:\[\]%]")
_BRACKET = re.compile(r"[\[\]]")
_NOT_IN_AN_ADDRESS = re.compile(r"[/?#@]")
_NUMBER = re.compile(r"[0-9]{1,9}")


class InvalidUrl(RabbitmqError, ValueError):
    """The URL, or one of its parameters, cannot be used. The text never quotes the URL."""


def parse(url: str, *, has_context: bool = False) -> tuple[Endpoint, TlsParameters | None]:
    """Read an AMQP URL, such as ``amqps://user:p%40ss@[::1]:5671/my%2Fvhost?heartbeat=20``.

    Gives the endpoint, whose ``tls`` is still to be set, and what to make its context of: None
    where there is no TLS, and with ``has_context``, which says that one is there already and that
    TLS is used whichever scheme the URL has.

    Raises :class:`InvalidUrl`, which says what is wrong without quoting the URL.
    """
    parts = _split(url)
    given = _parameters(parts.query)
    # The last value is the only one, but for auth_mechanism.
    one = {name: values[-1] for name, values in given.items()}
    mechanisms = tuple(dict.fromkeys(name.upper() for name in given.get("auth_mechanism", ())))
    has_tls = has_context or parts.scheme == "amqps"
    parameters = None
    if has_context:
        _refuse_two_sources(one)
    else:
        parameters = _tls_parameters(one, has_tls, mechanisms)
    host = _host(parts)
    server_name = one.get("server_name_indication")
    endpoint = Endpoint(
        host=host,
        port=_port(parts) or (DEFAULT_TLS_PORT if has_tls else DEFAULT_PORT),
        username="guest" if parts.username is None else _decode(parts.username, "user name"),
        password="guest" if parts.password is None else _decode(parts.password, "password"),
        virtual_host=_virtual_host(parts.path),
        tls=None,
        server_hostname=(
            None
            if not has_tls or server_name == SNI_DISABLE
            # A scope (fe80::1%eth0) is for routing and is in no certificate.
            else server_name or host.partition("%")[0]
        ),
        heartbeat=int(one.get("heartbeat", DEFAULT_HEARTBEAT)),
        connect_timeout=(
            int(one["connection_timeout"]) / 1000
            if "connection_timeout" in one
            else DEFAULT_CONNECT_TIMEOUT
        ),
        auth_mechanisms=mechanisms or DEFAULT_AUTH_MECHANISMS,
        channel_max=int(one.get("channel_max", 0)),
        frame_max=int(one.get("frame_max", 0)),
    )
    return endpoint, parameters


def _split(url: str) -> SplitResult:
    if _SPACE_OR_CONTROL.search(url):
        raise InvalidUrl(
            "the URL has a space or a control character, which must be percent-encoded"
        )
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise InvalidUrl(
            "a URL starts with amqp:// or amqps://, such as amqp://user:pass@host/vhost"
        )
    if scheme.lower() not in ("amqp", "amqps"):
        # Anything else may be a part of a password.
        other = f"; {scheme}:// is for another server" if scheme.lower() in _OTHER_SCHEMES else ""
        raise InvalidUrl(f"the URL's scheme must be amqp or amqps{other}")
    parts = _split_valid(url)
    user_info, _, address = parts.netloc.rpartition("@")
    if (
        not _ADDRESS.fullmatch(address)
        or _BRACKET.search(user_info)
        # What IDNA makes of it must not be another URL.
        or _NOT_IN_AN_ADDRESS.search(unicodedata.normalize("NFKC", address))
    ):
        raise InvalidUrl(
            "the URL's host is not a name or an IPv4 address, and not an IPv6 address in brackets, "
            "such as [::1]; brackets in the user name and password must be percent-encoded"
        )
    if "@" in parts.path + parts.query + parts.fragment:
        raise InvalidUrl(
            "the URL has an '@' after the host; percent-encode '/' (%2F), '?' (%3F) and '#' (%23) "
            "in the user name and password, and '@' (%40) in the virtual host and parameters"
        )
    if "#" in url:
        raise InvalidUrl("the URL has a '#', which must be percent-encoded as %23")
    return parts


def _split_valid(url: str) -> SplitResult:
    """Split by RFC 3986, appendix B.

    Not by ``urlsplit()``, which keeps the URLs that it was given, and the passwords in them, in a
    cache for the life of the process.
    """
    scheme, _, rest = url.partition("://")
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    return SplitResult(scheme.lower(), authority, slash + path, query, fragment)


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


def _host(parts: SplitResult) -> str:
    if not parts.hostname:
        return DEFAULT_ADDRESS
    host = _decode(parts.hostname, "host")
    if parts.netloc.rpartition("@")[2].startswith("["):
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise InvalidUrl("the URL's host in brackets is not an IPv6 address") from None
        return host
    try:
        # What getaddrinfo() will do, later and far from the one who wrote the URL.
        host.encode("idna")
    except UnicodeError:
        raise InvalidUrl("the URL's host is not a valid name") from None
    if _NOT_IN_A_HOST.search(host) or not host.isprintable():
        raise InvalidUrl("the URL's host is not a valid name")
    return host


def _port(parts: SplitResult) -> int | None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise InvalidUrl(
            "the URL's port must be a number from 1 to 65535; "
            "an IPv6 address goes in brackets: [::1]"
        )
    return port


def _virtual_host(path: str) -> str:
    name = path[1:]
    if "/" in name:
        raise InvalidUrl("a '/' in the URL's virtual host must be percent-encoded as %2F")
    decoded = _decode(name, "virtual host") or "/"
    # AMQP 0-9-1's "path" domain, and its short strings.
    if len(decoded) > 127 or len(decoded.encode()) > 255:
        raise InvalidUrl("the URL's virtual host is longer than 127 characters or 255 bytes")
    return decoded


# Parameters


def _parameters(query: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    # Not parse_qsl(), to which a plus sign is a space.
    for part in filter(None, query.split("&")):
        previous = name
        encoded_name, _, text = part.partition("=")
        name = _decode(encoded_name, "query")
        if name not in PARAMETERS:
            raise InvalidUrl(_unknown_parameter(name, previous))
        value = _decode(text, f"parameter {name!r}")
        _check_value(name, value)
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
    close = difflib.get_close_matches(name, PARAMETERS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"the URL's parameter {name!r} is not known{hint}; "
        f"the parameters are {', '.join(sorted(PARAMETERS))}"
    )


def _check_value(name: str, value: str) -> None:
    if not value:
        raise InvalidUrl(f"the URL's parameter {name!r} has no value")
    if name in _NUMBERS:
        least, most, unit = _NUMBERS[name]
        if not (_NUMBER.fullmatch(value) and least <= int(value) <= most):
            raise InvalidUrl(
                f"the URL's parameter {name!r} must be a whole number of {unit} "
                f"from {least} to {most}"
            )
    *others, last = _CHOICES.get(name, (value,))
    # RabbitMQ writes the names of mechanisms in either case.
    if (value.lower() if name == "auth_mechanism" else value) not in (*others, last):
        allowed = f"{', '.join(others)} or {last}" if others else last
        raise InvalidUrl(f"the URL's parameter {name!r} must be {allowed}")


def _refuse_two_sources(one: dict[str, str]) -> None:
    # Whichever won, somebody would trust the wrong certificates.
    clash = ", ".join(repr(name) for name in one if name in _CONTEXT_PARAMETERS)
    if clash:
        raise InvalidUrl(
            f"the URL has {clash} although the option 'ssl_context' is given; use one of them, "
            "or load the files into the context"
        )


def _tls_parameters(
    one: dict[str, str], has_tls: bool, mechanisms: tuple[str, ...]
) -> TlsParameters | None:
    """What to make a context of; None without TLS."""
    names = ", ".join(repr(name) for name in one if name in _TLS_PARAMETERS)
    if names and not has_tls:
        # Left unsaid, the connection would be in clear text, against the writer's intention.
        raise InvalidUrl(f"the URL has {names} but no TLS; write amqps:// instead of amqp://")
    if mechanisms == ("EXTERNAL",) and "certfile" not in one:
        raise InvalidUrl(
            "auth_mechanism=external needs TLS with a client certificate: an amqps:// URL with the "
            "parameters 'certfile' and 'keyfile', or the option 'ssl_context'"
        )
    if not has_tls:
        return None
    return TlsParameters(
        cacertfile=one.get("cacertfile"),
        certfile=one.get("certfile"),
        keyfile=one.get("keyfile"),
        password=one.get("password"),
        verify_peer=one.get("verify") != "verify_none",
        server_name_indication=one.get("server_name_indication"),
    )
