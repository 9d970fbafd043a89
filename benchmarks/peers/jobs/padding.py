# mypy: disable-error-code="import-not-found, import-untyped"
"""How much of batches by seconds is padding. Durations are all that is needed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import Corpus

__all__ = ["lhotse", "ours", "synthetic"]

_SHARD = 1000
"""Clips in a shard, as far as a plan needs to know."""


def ours(
    system: str,  # noqa: ARG001 (says in which environment this runs)
    durations: str | int,
    max_seconds: float,
    buckets: list[int],
    slots: list[int],
    seeds: int,
) -> dict[str, Any]:
    """Batches of `SecondsPlan`, made as `StreamingLoader(max_batch_seconds=...)` makes them."""
    from audiomdb.plan import EpochPlan, SecondsPlan, even_borders

    seconds = _durations(durations)
    counts = [min(_SHARD, len(seconds) - first) for first in range(0, len(seconds), _SHARD)]

    def batches(number: int, each: int, seed: int) -> Iterator[list[float]]:
        plan = SecondsPlan(
            EpochPlan(counts, seed=seed, shuffle=True),
            seconds,
            max_batch_seconds=max_seconds,
            slots=each,
            borders=even_borders(seconds, number),
        )
        for chapter in range(plan.chapters):
            for step in range(plan.steps(chapter)):
                for slot in plan.step(chapter, step):
                    yield seconds[slot.positions[slot.mask]].tolist()

    cases = []
    for number, each in product(buckets, slots):
        epochs = (batches(number, each, seed) for seed in range(seeds))
        found = _measured(epochs, max_seconds, len(seconds))
        cases.append({"buckets": number, "slots": each, **found})
    return {"cases": cases, "clips": len(seconds), "max_seconds": max_seconds}


def lhotse(
    system: str,  # noqa: ARG001
    durations: str | int,
    max_seconds: float,
    buckets: list[int],
    seeds: int,
) -> dict[str, Any]:
    """Batches of `DynamicBucketingSampler`, its buffer of 20,000 cuts as it comes.

    One rank: of a step's batches each is drawn by itself, so several have the same padding.
    """
    from lhotse import CutSet, MonoCut
    from lhotse.dataset import DynamicBucketingSampler

    warnings.simplefilter("ignore")
    seconds = _durations(durations).tolist()
    cuts = CutSet.from_cuts(
        MonoCut(f"{number:07d}", 0, duration, 0) for number, duration in enumerate(seconds)
    )

    def batches(number: int, seed: int) -> Iterator[list[float]]:
        sampler = DynamicBucketingSampler(
            cuts,
            max_duration=max_seconds,
            num_buckets=number,
            shuffle=True,
            seed=seed,
            rank=0,
            world_size=1,
        )
        for batch in sampler:
            yield [cut.duration for cut in batch]

    cases = []
    for number in buckets:
        epochs = (batches(number, seed) for seed in range(seeds))
        cases.append({"buckets": number, **_measured(epochs, max_seconds, len(seconds))})
    return {"cases": cases, "clips": len(seconds), "max_seconds": max_seconds}


def synthetic(clips: int) -> np.ndarray:
    """Durations of 1 to 20 s, any as often as another."""
    drawn: np.ndarray = np.random.default_rng(1).uniform(1, 20, clips).round(3)
    return drawn


def _durations(what: str | int) -> np.ndarray:
    """Of a corpus, or so many synthetic ones."""
    if isinstance(what, int):
        return synthetic(what)
    return np.array([entry["duration"] for entry in Corpus(Path(what)).entries])


def _measured(
    epochs: Iterable[Iterable[list[float]]], max_seconds: float, clips: int
) -> dict[str, Any]:
    """Batches of an epoch, and what of their seconds is padding; the mean over epochs."""
    found = []
    for epoch in epochs:
        batches = came = empty = over = 0
        seconds = padded = 0.0
        for batch in epoch:
            batches += 1
            came += len(batch)
            empty += not batch
            held = len(batch) * max(batch, default=0.0)
            over += held > max_seconds * (1 + 1e-9)
            padded += held
            seconds += sum(batch)
        if came != clips:
            raise RuntimeError(f"{came} clips of {clips}")
        fill = padded / (batches * max_seconds)
        found.append((batches, empty, over, 1 - seconds / padded, fill))
    names = ("batches", "empty", "over", "padding", "fill")
    means = np.mean(found, axis=0).tolist()
    return dict(zip(names, means, strict=True))
