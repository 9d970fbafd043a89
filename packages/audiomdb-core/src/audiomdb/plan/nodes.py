"""Count the shards that are read by more than one node in an epoch.

If the number of nodes n divides the number of partitions, and every node has equally many ranks, a
node reads only its own partitions: S shards are read at most S + n - 1 times, because a shard on a
cut is read by both neighbours. Otherwise, a partition that spans two nodes is read by both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiomdb.plan.checks import whole_number

if TYPE_CHECKING:
    from audiomdb.plan.turns import Turns

__all__ = ["read_twice"]


def read_twice(plan: Turns, nodes: int) -> int:
    """Return the number of redundant shard reads: those beyond one read per shard.

    Args:
        plan: Plan of the epoch.
        nodes: Number of nodes that read it, with equally many ranks each.
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
