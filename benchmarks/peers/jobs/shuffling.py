"""How well an order is shuffled that keeps a number of shards at hand. No data is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["mosaic", "ours", "quality"]

_BATCH = 64


def ours(system: str, alive: list[int], shards: int, each: int, seeds: int) -> dict[str, Any]:  # noqa: ARG001
    """The order of `EpochPlan`: `window` shards beside the one that is entered."""
    from audiomdb.plan import EpochPlan

    def order(mixed: int, seed: int) -> np.ndarray:
        plan = EpochPlan([each] * shards, seed=seed, shuffle=True, window=mixed - 1)
        return plan.positions(0, len(plan))

    return {"cases": [_mean(partial(order, mixed), mixed, each, seeds) for mixed in alive]}


def mosaic(system: str, alive: list[int], shards: int, each: int, seeds: int) -> dict[str, Any]:  # noqa: ARG001
    """The order of py1e, its block as many samples as lie in the shards at hand."""
    from benchmarks.peers.systems.mosaic import library

    library()  # its submodules cannot be imported before it
    shuffled = import_module("streaming.base.shuffle.py1e").get_shuffle_py1e
    sizes = np.full(shards, each, np.int64)

    def order(mixed: int, seed: int) -> np.ndarray:
        found: np.ndarray = shuffled(sizes, 1, seed, 0, mixed * each)
        return found

    return {"cases": [_mean(partial(order, mixed), mixed, each, seeds) for mixed in alive]}


def quality(order: np.ndarray, each: int) -> dict[str, float]:
    """What an order is like, of shards with `each` samples.

    The order in which shards are met is no merit of the mixing, and any is as good as another: a
    shard's number is its rank by the mean place of its samples, and shifts are counted from there.
    """
    total = len(order)
    shards = total // each
    places = np.empty(total, np.int64)
    places[order] = np.arange(total)
    of_shard = places.reshape(shards, each)
    met = np.empty(shards, np.int64)
    met[np.argsort(of_shard.mean(axis=1), kind="stable")] = np.arange(shards)
    # Where each sample would be if the shards came one after another, each as it is stored.
    stored = (met[:, None] * each + np.arange(each)).ravel()
    first, last = of_shard.min(axis=1), of_shard.max(axis=1)
    changes = np.zeros(total + 1, np.int64)
    np.add.at(changes, first, 1)
    np.add.at(changes, last + 1, -1)
    alive = np.cumsum(changes)[:total]
    batches = (order // each)[: total // _BATCH * _BATCH].reshape(-1, _BATCH)
    largest = [np.bincount(batch).max() for batch in batches]
    return {
        "shift": float(np.sqrt(np.mean((places - stored) ** 2.0)) / each),
        "correlation": float(np.corrcoef(places, stored)[0, 1]),
        "largest_share": float(np.mean(largest)) / _BATCH,
        "mean_alive": float(alive.mean()),
        "most_alive": int(alive.max()),
    }


def _mean(
    order: Callable[[int], np.ndarray], alive: int, each: int, seeds: int
) -> dict[str, float]:
    """Over seeds; of the shards alive at once, the most of any."""
    found = []
    for seed in range(seeds):
        made = order(seed)
        if not np.array_equal(np.sort(made), np.arange(len(made))):
            raise RuntimeError("the order is no permutation")
        found.append(quality(made, each))
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    return {"alive": alive, **means, "most_alive": max(one["most_alive"] for one in found)}
