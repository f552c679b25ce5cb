"""Builds the ``ssl.SSLContext`` that an AMQP URL's query parameters ask for.

The parameters are those of RabbitMQ's `URI query parameters
<https://www.rabbitmq.com/docs/uri-query-parameters>`_. Left out, they mean the safe choice: the
server's certificate is verified (``verify=verify_peer``) against the system's certificate store,
and must be for the host that the URL names. RabbitMQ's documents urge to ask for both.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import RabbitmqError

#: The ``server_name_indication`` that sends no name and checks none, as in Erlang's client.
SNI_DISABLE = "disable"


class InvalidTls(RabbitmqError, ValueError):
    """TLS cannot be set up as asked. The text names parameter and file, never a passphrase."""


@dataclass(frozen=True)
class TlsParameters:
    """The query parameters that an ``ssl.SSLContext`` is made of."""

    #: PEM file of the authorities to trust, instead of the system's store.
    cacertfile: str | None = None
    #: PEM file of the client's certificate, followed by its chain.
    certfile: str | None = None
    #: PEM file of the client's private key; without it the key is in ``certfile``.
    keyfile: str | None = None
    #: Passphrase of the private key.
    password: str | None = field(default=None, repr=False)
    #: Whether the server's certificate must be good: ``verify=verify_peer``.
    verify_peer: bool = True
    #: Name to find in the server's certificate, instead of the host; or :data:`SNI_DISABLE`.
    server_name_indication: str | None = None

    def __reduce__(self) -> str:
        raise TypeError("TlsParameters hold a passphrase and cannot be pickled or copied")


def build_context(parameters: TlsParameters) -> ssl.SSLContext:
    """Make the client's context that the parameters describe.

    Raises :class:`InvalidTls` for a file that is missing, not readable or not what it should be, a
    key that is not the certificate's, and a passphrase that is missing or wrong.
    """
    context = _trusting("cacertfile", parameters.cacertfile)
    if not parameters.verify_peer:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif parameters.server_name_indication == SNI_DISABLE:
        context.check_hostname = False
    if parameters.certfile is not None:
        _load_certificate(context, parameters.certfile, parameters.keyfile, parameters.password)
    elif parameters.keyfile is not None:
        raise InvalidTls("the parameter 'keyfile' needs 'certfile' beside it")
    elif parameters.password is not None:
        raise InvalidTls("the parameter 'password' needs 'certfile' beside it")
    return context


def check_client(context: ssl.SSLContext, server_name: str | None = "localhost") -> None:
    """Raise :class:`InvalidTls` if the context cannot connect to a server of this name.

    Finds a context for servers, a name that is none, and a context that checks names where there is
    no name to check. They would otherwise appear at the first connection, and at every later one.
    """
    if server_name is None and context.check_hostname:
        raise InvalidTls(
            "server_name_indication=disable needs an ssl_context whose check_hostname is False"
        )
    try:
        # As asyncio does it when a connection is made; nothing is sent.
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=server_name)
    except ssl.SSLError as err:
        raise InvalidTls(
            "it cannot be used by a client; make it with ssl.create_default_context()"
        ) from err
    except ValueError as err:
        raise InvalidTls("the server's name is not valid in TLS") from err


def _trusting(name: str, path: str | None) -> ssl.SSLContext:
    """A context that trusts the certificates in a file; without one, those of the system."""
    if path is not None:
        _check_readable(name, path)
    try:
        return ssl.create_default_context(cafile=path)
    except (ssl.SSLError, ValueError) as err:
        raise InvalidTls(f"the file of {name!r} has no usable PEM certificate: {path}") from err


def _check_readable(name: str, path: str) -> None:
    # OpenSSL's own errors do not tell which of the files it is.
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or "not a valid path"
        raise InvalidTls(f"the file of {name!r} cannot be read: {path} ({reason})") from err


def _load_certificate(
    context: ssl.SSLContext, certfile: str, keyfile: str | None, password: str | None
) -> None:
    name, path = ("certfile", certfile) if keyfile is None else ("keyfile", keyfile)
    _check_readable(name, path)
    # What is wrong from here on is the key.
    _trusting("certfile", certfile)
    encrypted = False

    def passphrase() -> str:
        # Always given, because OpenSSL would otherwise ask at the terminal, and wait.
        nonlocal encrypted
        encrypted = True
        return password or ""

    try:
        context.load_cert_chain(certfile, keyfile, passphrase)
    except (ssl.SSLError, ValueError) as err:
        if getattr(err, "reason", None) == "KEY_VALUES_MISMATCH":
            problem = f"which does not belong to the certificate in {certfile}"
        elif encrypted and password is None:
            problem = "which is encrypted and needs the parameter 'password'"
        elif encrypted:
            problem = "which the parameter 'password' does not decrypt"
        else:
            problem = "which is no usable PEM private key"
        raise InvalidTls(f"the private key is in {name!r}: {path}, {problem}") from err
