"""Is RabbitMQ there for this process? A message through its own queue tells."""

from __future__ import annotations

import asyncio
import secrets
import sys

from ..broker.recovery import Recovery
from ..broker.topology import Topology
from ..errors import MessageReturned, ServerSentNack
from ..wire.messages import GROUP_KEY, Message
from ..wire.requests import PROBE
from ..wire.serializers import Codec


class HealthChecks:
    """Publishes to the process's own queue, and waits for what comes back. On one event loop.

    Each check has a message of its own, with an id that nobody else knows, which nobody receives.
    """

    def __init__(self, codec: Codec, recovery: Recovery) -> None:
        self._codec = codec
        self._recovery = recovery
        #: Done when the message with that id is back.
        self._under_way: dict[str, asyncio.Future[None]] = {}

    async def check(self, timeout: float) -> bool:
        """Whether a message came back within ``timeout`` seconds, or waits behind a backlog.

        Raises what :meth:`.Recovery.wait_topology` raises, and what ends an AMQP channel.
        """
        topology: Topology | None = None
        delivered_before: int | None = None
        key = secrets.token_hex(16)
        body = self._codec.encode(GROUP_KEY, PROBE, {"id": key}, sys.maxsize)
        arrived = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                topology = await self._recovery.wait_topology()
                if topology.blocked is not None:
                    return False
                await topology.wait_writable()
                await topology.publish_to_itself(body)
                delivered_before = topology.delivered
                waited = {arrived, topology.ended}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                return arrived.done()  # or the connection ended, and the message with it
        except MessageReturned:
            return False  # the queue is gone
        except ServerSentNack:
            return True  # the queue is there, and full
        except TimeoutError:
            if topology is None or delivered_before is None or topology.ended.done():
                return False
            # It waits behind what this process has yet to read.
            return topology.window_full or topology.delivered > delivered_before
        finally:
            del self._under_way[key]

    def arrived(self, message: Message) -> None:
        """Note that a message came back; a stranger's, or one that is late, does nothing."""
        key = message.get("id")
        waiter = self._under_way.get(key) if isinstance(key, str) else None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
