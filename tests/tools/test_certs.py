"""``ssl/prepare-certs.sh``: what it makes is good for both ends of a TLS connection."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from devtools.certs import make_certs
from tests.helpers.tls import handshake


@pytest.fixture
def server(certs: Path) -> ssl.SSLContext:
    """A server that insists on a client certificate of the same authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certs / "ca.cert")
    context.load_cert_chain(certs / "server.cert", certs / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("hostname", ["localhost", "127.0.0.1", "::1"])
def test_both_ends_verify_each_other(certs: Path, server: ssl.SSLContext, hostname: str) -> None:
    """Server and client certificate verify against the authority, by every name of this machine."""
    client = ssl.create_default_context(cafile=certs / "ca.cert")
    client.load_cert_chain(certs / "client.cert", certs / "client.key")

    server_end = handshake(client, server, hostname)

    peer = server_end.getpeercert()
    assert peer is not None
    assert (("commonName", "client"),) in peer["subject"]


def test_certchain_holds_certificate_and_key(certs: Path, server: ssl.SSLContext) -> None:
    """``client.certchain`` alone is enough for a client."""
    client = ssl.create_default_context(cafile=certs / "ca.cert")
    client.load_cert_chain(certs / "client.certchain")

    handshake(client, server, "localhost")


def test_other_name_is_refused(certs: Path, server: ssl.SSLContext) -> None:
    """The server's certificate does not stand for a name that it does not have."""
    client = ssl.create_default_context(cafile=certs / "ca.cert")

    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, server, "example.org")


def test_strict_verification_accepts_them(certs: Path, server: ssl.SSLContext) -> None:
    """They satisfy RFC 5280 to the letter, which Python checks by default from 3.13 on."""
    client = ssl.create_default_context(cafile=certs / "ca.cert")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_cert_chain(certs / "client.certchain")

    handshake(client, server, "localhost")


def test_files_are_private_and_complete(certs: Path) -> None:
    """Exactly the documented files are there, none of them readable by other users."""
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in certs.iterdir()}

    assert set(files) == {
        "ca.cert",
        "server.cert",
        "server.key",
        "client.cert",
        "client.key",
        "client.certchain",
    }
    assert set(files.values()) == {0o600}


def test_missing_openssl_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without openssl the error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(RuntimeError, match="install the package 'openssl'"):
        make_certs(tmp_path / "certs")
