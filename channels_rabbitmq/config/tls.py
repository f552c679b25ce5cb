"""
Builds the ``ssl.SSLContext`` that an AMQP URL's query parameters ask for.

The parameters are those of RabbitMQ's `URI query parameters
<https://www.rabbitmq.com/docs/uri-query-parameters>`_. Left out, they mean the safe choice: the
server's certificate is verified (``verify=verify_peer``) against the system's certificate store,
and must be for the host that the URL names. RabbitMQ's documents urge to ask for both.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..errors import RabbitmqError

SNI_DISABLE: Final = "disable"
"""The ``server_name_indication`` that sends no name and checks none, as in Erlang's client."""

CONTEXT_PARAMETERS: Final = ("cacertfile", "certfile", "keyfile", "password", "verify")
"""Parameters that a ready-made context leaves no room for."""


class InvalidTls(RabbitmqError, ValueError):
    """TLS cannot be set up as asked. The text names parameter and file, never a passphrase."""


@dataclass(frozen=True)
class TlsParameters:
    """The query parameters that shape a TLS connection."""

    cacertfile: str | None = None
    """PEM file of the authorities to trust, instead of the system's store."""
    certfile: str | None = None
    """PEM file of the client's certificate, followed by its chain."""
    keyfile: str | None = None
    """PEM file of the client's private key; without it the key is in ``certfile``."""
    password: str | None = field(default=None, repr=False)
    """Passphrase of the private key."""
    verify_peer: bool = True
    """Whether the server's certificate must be good: ``verify=verify_peer``."""
    server_name_indication: str | None = None
    """Name to send and to find in the server's certificate, instead of the host; or ``disable``."""


def build_context(parameters: TlsParameters) -> ssl.SSLContext:
    """
    Make the client's context that ``parameters`` describe.

    Raises `InvalidTls` for a file that is missing, not readable or not what it should be, a key
    that is not the certificate's, and a passphrase that is missing or wrong.
    """
    if parameters.certfile is None:
        for name in ("keyfile", "password"):
            if getattr(parameters, name) is not None:
                raise InvalidTls(f"the parameter {name!r} needs 'certfile' beside it")
    if parameters.cacertfile is not None:
        _check_readable("cacertfile", parameters.cacertfile)
    try:
        # Without a file this trusts the system's store.
        context = ssl.create_default_context(cafile=parameters.cacertfile)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidTls(
            f"the file of 'cacertfile' has no usable PEM certificate: {parameters.cacertfile}"
        ) from error
    if not parameters.verify_peer:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif parameters.server_name_indication == SNI_DISABLE:
        context.check_hostname = False
    if parameters.certfile is not None:
        _load_certificate(context, parameters.certfile, parameters.keyfile, parameters.password)
    return context


def check_client(context: ssl.SSLContext) -> None:
    """Raise `InvalidTls` if ``context`` is made for servers, before Python does at a connection."""
    try:
        _open(context, "localhost")
    except ssl.SSLError as error:
        raise InvalidTls(
            "it cannot be used by a client; make it with ssl.create_default_context()"
        ) from error


def check_server_name(context: ssl.SSLContext, server_name: str | None) -> None:
    """
    Raise `InvalidTls` if ``context`` cannot open a connection to a server of this name.

    Finds a name that is none, and a context that checks names where there is no name to check. Both
    would otherwise appear at the first connection, and at every later one.
    """
    if server_name is None and context.check_hostname:
        raise InvalidTls(
            "server_name_indication=disable needs an ssl_context whose check_hostname is False"
        )
    try:
        _open(context, server_name)
    except ValueError as error:
        raise InvalidTls("the server's name is not valid in TLS") from error


def _open(context: ssl.SSLContext, server_name: str | None) -> None:
    # As asyncio does it when a connection is made; nothing is sent.
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=server_name)


def _check_readable(name: str, path: str) -> None:
    # OpenSSL's own errors do not tell which of the files it is.
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise InvalidTls(
            f"the file of {name!r} cannot be read: {path} ({reason or 'not a valid path'})"
        ) from error


def _load_certificate(
    context: ssl.SSLContext, certfile: str, keyfile: str | None, password: str | None
) -> None:
    _check_readable("certfile", certfile)
    if keyfile is not None:
        _check_readable("keyfile", keyfile)
    asked = False

    def passphrase() -> str:
        # Always given, because OpenSSL would otherwise ask at the terminal, and wait.
        nonlocal asked
        asked = True
        return password or ""

    try:
        context.load_cert_chain(certfile, keyfile, passphrase)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidTls(_why_not_loaded(error, certfile, keyfile, password, asked)) from error


def _why_not_loaded(
    error: Exception, certfile: str, keyfile: str | None, password: str | None, asked: bool
) -> str:
    key = f"'keyfile': {keyfile}" if keyfile is not None else f"'certfile': {certfile}"
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return f"the private key does not belong to the certificate in {certfile}; key in {key}"
    if asked and password is None:
        return f"the private key is encrypted and needs the parameter 'password'; key in {key}"
    if asked:
        return f"the parameter 'password' does not decrypt the private key; key in {key}"
    if not _loads_as_certificate(certfile):
        return f"the file of 'certfile' has no usable PEM certificate: {certfile}"
    return f"there is no usable PEM private key; key in {key}"


def _loads_as_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (ssl.SSLError, ValueError):
        return False
    return True
