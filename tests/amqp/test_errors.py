"""What the engine raises: one base, reply codes as classes, one line about each."""

from __future__ import annotations

import pickle
import ssl

import pytest

from channels_rabbitmq.amqp import errors
from channels_rabbitmq.amqp.errors import (
    AccessRefused,
    AmqpError,
    ChannelClosedByServer,
    ConnectionClosed,
    ConnectionClosedByServer,
    IllegalTransition,
    MessageReturned,
    NotFound,
    PreconditionFailed,
    RabbitmqError,
    ResourceLocked,
    ServerSentNack,
    channel_closed_by_server,
    describe,
)

BOTH_HAVE = [
    "BadBytesFromServer",
    "ChannelClosed",
    "ChannelClosedByServer",
    "ConnectionClosed",
    "ConnectionClosedByHeartbeatMonitor",
    "ConnectionClosedByServer",
    "ServerSentNack",
]


def test_all_have_one_base() -> None:
    """One handler is enough for whatever an AMQP connection fails with."""
    raised = [getattr(errors, name) for name in errors.__all__]
    for kind in raised:
        if isinstance(kind, type):
            assert issubclass(kind, RabbitmqError)
    assert issubclass(MessageReturned, AmqpError)
    assert not issubclass(IllegalTransition, AmqpError)


@pytest.mark.parametrize("name", BOTH_HAVE)
def test_is_also_a_carehare_error(name: str) -> None:
    """Where carehare is installed, handlers of its exceptions catch ours."""
    carehare = pytest.importorskip("carehare")

    assert issubclass(getattr(errors, name), getattr(carehare, name))


@pytest.mark.parametrize("name", BOTH_HAVE)
def test_widens_no_carehare_handler(name: str) -> None:
    """A handler of one of carehare's exceptions does not catch another of ours."""
    carehare = pytest.importorskip("carehare")
    theirs = {getattr(carehare, other) for other in BOTH_HAVE}

    assert theirs & set(getattr(errors, name).__mro__) == {getattr(carehare, name)}


@pytest.mark.parametrize(
    ("reply_code", "kind"),
    [
        (403, AccessRefused),
        (404, NotFound),
        (405, ResourceLocked),
        (406, PreconditionFailed),
        (540, ChannelClosedByServer),
    ],
)
def test_reply_code_chooses_class(reply_code: int, kind: type[ChannelClosedByServer]) -> None:
    """What a channel was closed for can be caught by its class."""
    error = channel_closed_by_server(reply_code, "why")

    assert type(error) is kind
    assert (error.reply_code, error.reply_text) == (reply_code, "why")


@pytest.mark.parametrize("kind", [ChannelClosedByServer, ConnectionClosedByServer, NotFound])
def test_errors_with_reply_code_can_be_pickled(kind: type[ChannelClosedByServer]) -> None:
    """Task queues and process pools carry them to another process."""
    error = pickle.loads(pickle.dumps(kind(404, "NOT_FOUND")))

    assert type(error) is kind
    assert (error.reply_code, error.reply_text) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConnectionRefusedError(111, "Connect call failed"), "[Errno 111] Connect call failed"),
        (TimeoutError(), "no answer in time"),
        (ConnectionClosed(), "ConnectionClosed"),
        (OSError("two\n  lines"), "two lines"),
        (ServerSentNack("full"), "full"),
        (
            ConnectionClosedByServer(320, "CONNECTION_FORCED - bye"),
            "RabbitMQ closed the connection: 320 CONNECTION_FORCED - bye",
        ),
        (NotFound(404, "NOT_FOUND"), "RabbitMQ closed the channel: 404 NOT_FOUND"),
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
