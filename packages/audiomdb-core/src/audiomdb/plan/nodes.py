"""What nodes read of an epoch.

With n nodes dividing the partitions, and equally many ranks on each, a node reads its own
partitions only: S shards are read S + n - 1 times at most, a shard on a cut by both neighbours.
Otherwise partitions that lie across two nodes are read by both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiomdb.plan.checks import whole_number

if TYPE_CHECKING:
    from audiomdb.plan.turns import Turns

__all__ = ["read_twice"]


def read_twice(plan: Turns, nodes: int) -> int:
    """Return how many shards are read by one more node than need be, each counted as often.

    Args:
        plan: Of the epoch.
        nodes: That read it, with equally many ranks each.
    """
    nodes = whole_number("nodes", nodes, low=1)
    partitions = plan.partitions
    datasets = range(len(plan.datasets))
    met = [
        np.concatenate([plan.shards_from(one, at, 0) for one in datasets])
        for at in range(partitions)
    ]
    readings = 0
    for node in range(nodes):
        own = slice(node * partitions // nodes, -(-(node + 1) * partitions // nodes))
        readings += len(np.unique(np.concatenate(met[own])))
    return readings - len(np.unique(np.concatenate(met)))
