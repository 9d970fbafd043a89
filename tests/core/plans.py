"""What tests ask of plans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiomdb.plan import MixPlan, Order, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray


def shards_alive(plan: Order, turn: int) -> list[int]:
    """The shards over which samples are shuffled at a turn."""
    place = Split(len(plan), plan.partitions).places(turn, turn + 1)
    alive: list[int] = plan.shards_mixed(int(place.partitions[0]), int(place.elements[0])).tolist()
    return alive


def located(
    plan: MixPlan, positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The dataset of each position, and the position in it."""
    ends = np.cumsum([0, *(counts.sum() for counts in plan.datasets)])
    datasets = np.searchsorted(ends, positions, side="right") - 1
    return datasets, positions - ends[datasets]
