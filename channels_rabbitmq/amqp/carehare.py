"""The one file that imports carehare, an optional requirement (``channels_rabbitmq[carehare]``).

Where carehare is installed, our connection and our errors are also carehare's, so that what was
written for version 4.0.1 (``isinstance(connection, carehare.Connection)``, ``except
carehare.ServerSentNack``) still holds. Where it is not, the same classes stand on their own.
Nothing but these bases is taken from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = [
    "BadBytesFromServer",
    "ChannelClosed",
    "ChannelClosedByServer",
    "Connection",
    "ConnectionClosed",
    "ConnectionClosedByHeartbeatMonitor",
    "ConnectionClosedByServer",
    "ServerSentNack",
]

# Type checkers see carehare's classes either way: its stub is part of the package.
if TYPE_CHECKING:
    from carehare import (
        BadBytesFromServer,
        ChannelClosed,
        ChannelClosedByServer,
        Connection,
        ConnectionClosed,
        ConnectionClosedByHeartbeatMonitor,
        ConnectionClosedByServer,
        ServerSentNack,
    )
else:
    try:
        from carehare import (
            BadBytesFromServer,
            ChannelClosed,
            ChannelClosedByServer,
            Connection,
            ConnectionClosed,
            ConnectionClosedByHeartbeatMonitor,
            ConnectionClosedByServer,
            ServerSentNack,
        )
    except ImportError:
        Connection = object
        BadBytesFromServer = Exception
        ChannelClosed = ChannelClosedByServer = Exception
        ConnectionClosed = ConnectionClosedByServer = Exception
        ConnectionClosedByHeartbeatMonitor = Exception
        ServerSentNack = Exception
