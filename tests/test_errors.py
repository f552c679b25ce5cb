"""The family tree of errors, and the one line that tells about each."""

from __future__ import annotations

import asyncio
import socket
import ssl

import carehare
import pytest
from channels.exceptions import ChannelFull

from channels_rabbitmq.errors import CONNECTION_ERRORS, MessageReturned, NotConnected, describe


def test_not_connected_is_channel_full() -> None:
    """Handlers of ChannelFull serve when RabbitMQ is away."""
    assert issubclass(NotConnected, ChannelFull)


def test_message_returned_is_a_nack() -> None:
    """Handlers of carehare's ServerSentNack serve for a message that came back."""
    assert issubclass(MessageReturned, carehare.ServerSentNack)


def test_nack_is_no_connection_error() -> None:
    """A message that was not stored is no reason to connect again; a bug is none either."""
    assert not issubclass(carehare.ServerSentNack, CONNECTION_ERRORS)
    assert not issubclass(TypeError, CONNECTION_ERRORS)
    assert issubclass(ssl.SSLError, CONNECTION_ERRORS)
    assert issubclass(socket.gaierror, CONNECTION_ERRORS)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConnectionRefusedError(111, "Connect call failed"), "[Errno 111] Connect call failed"),
        (asyncio.TimeoutError(), "no answer in time"),
        (TimeoutError(), "no answer in time"),
        (carehare.ConnectionClosed(), "ConnectionClosed"),
        (OSError("two\n  lines"), "two lines"),
        (
            carehare.ConnectionClosedByServer(320, "CONNECTION_FORCED - bye"),
            "RabbitMQ closed the connection: 320 CONNECTION_FORCED - bye",
        ),
        (
            carehare.ChannelClosedByServer(404, "NOT_FOUND"),
            "RabbitMQ closed the channel: 404 NOT_FOUND",
        ),
    ],
)
def test_describe(error: Exception, line: str) -> None:
    """Each connection error is told in one line."""
    assert describe(error) == line


def test_describe_certificate_error() -> None:
    """An error about a certificate tells what is wrong with it, not where in OpenSSL's source."""
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] (_ssl.c:992)")
    error.verify_message = "self-signed certificate"

    assert describe(error) == "TLS: self-signed certificate"
