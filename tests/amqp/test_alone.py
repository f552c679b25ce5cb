"""The engine stands alone: without a framework, and without carehare where that is missing."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

from channels_rabbitmq import amqp
from channels_rabbitmq.connection import Connection

_CODE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(" ".join(sorted(sys.modules)))
"""


def test_engine_imports_no_framework() -> None:
    """Importing every module of ``amqp`` loads neither Django nor Channels, nor our own layers."""
    engine = ["channels_rabbitmq.amqp"]
    engine += [module.name for module in pkgutil.iter_modules(amqp.__path__, f"{engine[0]}.")]
    assert len(engine) > 8

    done = subprocess.run(
        [sys.executable, "-c", _CODE, *engine], check=True, capture_output=True, text=True
    )

    loaded = set(done.stdout.split())
    assert not loaded & {"asgiref", "channels", "django", "msgpack"}
    ours = {name for name in loaded if name.partition(".")[0] == "channels_rabbitmq"}
    assert ours == {"channels_rabbitmq", *engine}


_WITHOUT_CAREHARE = """
import sys
sys.modules["carehare"] = None  # as if it were not installed
from channels_rabbitmq import connection, errors
assert connection.Connection.__mro__ == (connection.Connection, object)
assert errors.NotFound.__mro__[1:] == (
    errors.ChannelClosedByServer, errors.AmqpError, errors.RabbitmqError, Exception, BaseException,
    object,
)
assert str(errors.NotFound(404, "NOT_FOUND")) == "RabbitMQ closed the channel: 404 NOT_FOUND"
"""


def test_without_carehare() -> None:
    """Where carehare is not installed, the same classes stand on their own."""
    subprocess.run([sys.executable, "-c", _WITHOUT_CAREHARE], check=True)


def test_with_carehare() -> None:
    """Where carehare is installed, the connection is one of its own."""
    carehare = pytest.importorskip("carehare")

    assert issubclass(Connection, carehare.Connection)
