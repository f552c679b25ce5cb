"""Fixtures of the tests of clusters: one of three nodes, for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devtools.broker import BrokerError, find_scripts
from devtools.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A private cluster. Whoever stops one of its nodes must bring it back."""
    try:
        find_scripts()
    except BrokerError as error:
        pytest.skip(f"needs a private cluster: {error}")
    # What is recommended for three: a node that the others took for dead comes back by itself.
    config = {"cluster_partition_handling": "pause_minority"}
    with Cluster.start(config=config) as made:
        yield made
