"""The layer's numbers at one moment, read on whichever thread asks."""

from __future__ import annotations

from ..broker.topology import Topology
from ..config.options import Options
from ..local.counts import CAUSES, LOCAL_EXPIRY
from ..local.queue_names import QueueNames
from ..local.state import LocalState
from ..statistics import Statistics
from .loop_layer import LoopLayer


def take_snapshot(
    options: Options,
    names: QueueNames,
    local: LocalState,
    loop_layer: LoopLayer | None,
    *,
    closed: bool,
) -> Statistics:
    """Read the numbers. ``loop_layer`` is the owner's, if there is one and it is not closed.

    Other threads may be at work: nothing is iterated over here that they change, but for copies
    that are made in one step.
    """
    counts = local.counts
    topology = _live_topology(loop_layer)
    dropped = dict.fromkeys(CAUSES, 0) | dict(counts.dropped)
    publishes = counts.publishes
    confirmed, refused, unconfirmed = publishes.confirmed, publishes.refused, publishes.unconfirmed
    published = publishes.published
    return Statistics(
        connected=topology is not None,
        receiving=topology is not None and topology is _receiving_topology(loop_layer),
        connected_since=None if topology is None else counts.connected_since,
        disconnected_since=None if loop_layer is None else counts.disconnected_since,
        reconnections=max(counts.connections - 1, 0),
        failed_connections=counts.failed_connections,
        closed=closed,
        blocked=topology is not None and topology.blocked is not None,
        blocked_reason=None if topology is None else topology.blocked,
        connection_name=str(options.connection_name),
        queue_name=names.newest,
        address=None if topology is None else str(topology.protocol.endpoint),
        published=published,
        confirmed=confirmed,
        refused=refused,
        unconfirmed=unconfirmed,
        under_way=published - confirmed - refused - unconfirmed,
        unsent=counts.unsent,
        received=counts.received,
        copies=counts.copies,
        delivered=counts.delivered,
        expired=dropped.pop(LOCAL_EXPIRY, 0),
        dropped=dropped,
        given_back=counts.given_back,
        waiting=len(local.mailboxes) + local.normal.unread,
        unread=local.mailboxes.unread + local.normal.unread,
        oldest_waiting=_age_of_oldest(local, loop_layer),
        local_capacity=options.local_capacity,
        channels=len(local.channels_in_use),
        groups=len({*local.memberships.groups, *local.normal_memberships.groups}),
        bindings=0 if topology is None else topology.bindings.confirmed,
        bindings_pending=0 if topology is None else topology.bindings.unconfirmed,
        bindings_lingering=0 if topology is None else topology.bindings.lingering,
        calls_waiting=0 if loop_layer is None else loop_layer.recovery.waiting,
        bytes_in=counts.bytes.received,
        bytes_out=counts.bytes.sent,
    )


def _live_topology(loop_layer: LoopLayer | None) -> Topology | None:
    topology = None if loop_layer is None else loop_layer.recovery.publishing
    return None if topology is None or topology.ended.done() else topology


def _receiving_topology(loop_layer: LoopLayer | None) -> Topology | None:
    return None if loop_layer is None else loop_layer.recovery.topology


def _age_of_oldest(local: LocalState, loop_layer: LoopLayer | None) -> float:
    try:
        oldest = local.mailboxes.oldest
    except RuntimeError:  # another thread took it, or put one, just now
        return 0.0
    if oldest is None or loop_layer is None:
        return 0.0
    return max(loop_layer.loop.time() - oldest, 0.0)
