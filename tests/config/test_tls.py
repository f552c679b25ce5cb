"""TLS contexts from a URL's parameters, with real certificates and real handshakes in memory."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from channels_rabbitmq.config.tls import (
    InvalidTls,
    TlsParameters,
    build_context,
    check_client,
)
from devtools.certs import make_certs
from tests.helpers.tls import handshake

PASSPHRASE = "open sésame"


class Files:
    """What the tests name: PEM files that are good, of others, and none."""

    def __init__(self, certs: Path, other_certs: Path, folder: Path) -> None:
        self.ca = str(certs / "ca.cert")
        self.cert = str(certs / "client.cert")
        self.key = str(certs / "client.key")
        self.cert_and_key = str(certs / "client.certchain")
        self.other_ca = str(other_certs / "ca.cert")
        self.other_key = str(other_certs / "client.key")
        self.encrypted_key = str(folder / "encrypted.key")
        self.text = str(folder / "notes.txt")
        self.missing = str(folder / "missing.pem")
        self.folder = str(folder)

        encrypted = load_pem_private_key(Path(self.key).read_bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE.encode())
        )
        Path(self.encrypted_key).write_bytes(encrypted)
        Path(self.text).write_text("not a certificate")

        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        self.server.load_cert_chain(certs / "server.cert", certs / "server.key")


@pytest.fixture(scope="module")
def files(certs: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Make the files once, for they never change."""
    others = make_certs(tmp_path_factory.mktemp("others"))
    return Files(certs, others, tmp_path_factory.mktemp("files"))


def test_server_of_the_trusted_authority_is_accepted(files: Files) -> None:
    """With cacertfile, a server that this authority vouches for is accepted, by name or IP."""
    context = build_context(TlsParameters(cacertfile=files.ca))
    for name in ("localhost", "127.0.0.1"):
        assert handshake(context, files.server, name).version() is not None


def test_system_store_is_the_default(files: Files) -> None:
    """Without parameters the certificate must be from an authority that the system trusts."""
    context = build_context(TlsParameters())
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, files.server, "localhost")


def test_server_of_another_authority_is_refused(files: Files) -> None:
    """With cacertfile no other authority is trusted."""
    context = build_context(TlsParameters(cacertfile=files.other_ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, files.server, "localhost")


def test_server_of_another_name_is_refused(files: Files) -> None:
    """A good certificate for another host is not good enough."""
    context = build_context(TlsParameters(cacertfile=files.ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, files.server, "other.example")


def test_verify_none_accepts_any_server(files: Files) -> None:
    """With verify_none neither authority nor name is checked."""
    context = build_context(TlsParameters(verify_peer=False))
    assert handshake(context, files.server, "other.example").version() is not None


def test_disabled_name_still_checks_the_authority(files: Files) -> None:
    """With server_name_indication=disable the name is not checked, the authority is."""
    good = TlsParameters(cacertfile=files.ca, server_name_indication="disable")
    assert handshake(build_context(good), files.server, None).version() is not None
    bad = TlsParameters(cacertfile=files.other_ca, server_name_indication="disable")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(build_context(bad), files.server, None)


@pytest.mark.parametrize("how", ["two files", "one file", "encrypted key"])
def test_client_certificate_is_presented(files: Files, how: str) -> None:
    """A server that asks for a client certificate gets ours, wherever its key is."""
    parameters = {
        "two files": TlsParameters(files.ca, files.cert, files.key),
        "one file": TlsParameters(files.ca, files.cert_and_key),
        "encrypted key": TlsParameters(files.ca, files.cert, files.encrypted_key, PASSPHRASE),
    }[how]
    files.server.verify_mode = ssl.CERT_REQUIRED
    try:
        server_side = handshake(build_context(parameters), files.server, "localhost")
    finally:
        files.server.verify_mode = ssl.CERT_NONE
    assert server_side.getpeercert(binary_form=True)


@pytest.mark.parametrize(
    ("cacertfile", "certfile", "keyfile", "password", "says"),
    [
        ("missing", None, None, None, "'cacertfile' cannot be read: {} (No such file"),
        ("folder", None, None, None, "'cacertfile' cannot be read: {} (Is a directory"),
        ("text", None, None, None, "'cacertfile' has no usable PEM certificate: {}"),
        ("key", None, None, None, "'cacertfile' has no usable PEM certificate: {}"),
        (None, "missing", "key", None, "'certfile' cannot be read: {} (No such file"),
        (None, "text", "key", None, "'certfile' has no usable PEM certificate: {}"),
        (None, "cert", "missing", None, "'keyfile' cannot be read: {} (No such file"),
        (
            None,
            "cert",
            "text",
            None,
            "is in 'keyfile': {}, which is no usable PEM private key",
        ),
        (
            None,
            "cert",
            None,
            None,
            "is in 'certfile': {}, which is no usable PEM private key",
        ),
        (None, "cert", "other_key", None, "does not belong to the certificate"),
        (None, "cert", "encrypted_key", None, "is encrypted and needs the parameter 'password'"),
        (None, "cert", "encrypted_key", "Zw9", "'password' does not decrypt"),
        (None, "cert", "encrypted_key", "Zw9" * 999, "'password' does not decrypt"),
        (None, None, "key", None, "'keyfile' needs 'certfile' beside it"),
        (None, None, None, "Zw9", "'password' needs 'certfile' beside it"),
    ],
)
def test_unusable_files_are_named(
    files: Files,
    cacertfile: str | None,
    certfile: str | None,
    keyfile: str | None,
    password: str | None,
    says: str,
) -> None:
    """A file that cannot be used is refused by parameter and path, without the passphrase."""
    paths: list[str | None] = [
        getattr(files, name) if name else None for name in (cacertfile, certfile, keyfile)
    ]
    with pytest.raises(InvalidTls) as raised:
        build_context(TlsParameters(paths[0], paths[1], paths[2], password))
    assert all(part in str(raised.value) for part in says.split("{}"))
    assert any(path in str(raised.value) for path in paths if path) or not any(paths[:2])
    assert "Zw9" not in str(raised.value)


def test_a_path_that_is_none(files: Files) -> None:
    """A path that no file system takes is refused like a missing file."""
    with pytest.raises(InvalidTls, match="'cacertfile' cannot be read"):
        build_context(TlsParameters(cacertfile="a\0b"))


def test_context_for_servers_is_refused() -> None:
    """A context that can only serve is recognised before the first connection."""
    with pytest.raises(InvalidTls, match="create_default_context"):
        check_client(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    check_client(ssl.create_default_context())


@pytest.mark.parametrize("name", [".example", "a" * 64, ""])
def test_names_that_tls_cannot_send_are_refused(name: str) -> None:
    """A server name that the TLS library refuses is found before the first connection."""
    with pytest.raises(InvalidTls, match="not valid in TLS"):
        check_client(ssl.create_default_context(), name)


def test_no_name_needs_a_context_that_checks_none() -> None:
    """A context that checks names cannot be used where the URL disables the name."""
    context = ssl.create_default_context()
    with pytest.raises(InvalidTls, match="check_hostname is False"):
        check_client(context, None)
    context.check_hostname = False
    check_client(context, None)


def test_repr_hides_the_passphrase() -> None:
    """The parameters can be printed without giving away the passphrase."""
    assert PASSPHRASE not in repr(TlsParameters(password=PASSPHRASE))
