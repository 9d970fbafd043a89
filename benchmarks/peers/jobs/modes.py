"""The modes in which AudioMDB reads an epoch, all of which must have the same outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.system import clip_name

__all__ = ["MODES", "STEPWISE", "Opened", "keys_of", "opened"]

MODES = (
    "DataLoader",
    "DataLoader, tail='pad'",
    "StreamingLoader by number",
    "StreamingLoader by seconds",
    "CombinedDataset",
)
STEPWISE = MODES[2:]
"""Modes whose batches the plan makes, the same for any number of ranks and workers."""

Opened = Any
"""A loader; what torch makes and what AudioMDB makes have no type in common."""


def opened(
    mode: str,
    folder: Path,
    *,
    workers: int = 0,
    threads: int = 1,
    step: int = 4,
    ranks: int | None = None,
    rank: int | None = None,
) -> Opened:
    """Open a dataset in one of `MODES`.

    Args:
        mode: Name of the mode.
        folder: The dataset.
        workers: Worker processes.
        threads: Threads that decode; 0 decodes in the loop or the worker itself.
        step: Clips of a step over all ranks, where torch makes batches those of one rank; by
            seconds as many slots as this, each for the seconds of four clips.
        ranks: Number of ranks. None: torch.distributed is asked.
        rank: Number of this rank.
    """
    from torch.utils.data import DataLoader

    from audiomdb.data.base import StreamingDataset
    from audiomdb.data.combined import CombinedDataset
    from audiomdb.data.loader import StreamingLoader
    from audiomdb.retrievers.local import LocalRetriever

    place: dict[str, Any] = {"rank": rank, "world_size": ranks}

    def dataset(**options: Any) -> StreamingDataset:  # noqa: ANN401
        return StreamingDataset(LocalRetriever(folder), threads, shuffle=True, **options)

    if mode.startswith("DataLoader"):
        tail = "pad" if "pad" in mode else None
        return DataLoader(dataset(**place, tail=tail), batch_size=step, num_workers=workers)
    staying: dict[str, Any] = {"num_workers": workers, "persistent_workers": False}
    if mode == "StreamingLoader by number":
        return StreamingLoader(dataset(**place), step, tail="pad", **staying)
    if mode == "StreamingLoader by seconds":
        seconds = _seconds(folder)
        return StreamingLoader(dataset(**place), max_batch_seconds=seconds, slots=step, **staying)
    halves = [dataset(where=_every_other(first)) for first in (0, 1)]
    return StreamingLoader(CombinedDataset(halves, **place), step, tail="pad", **staying)


def keys_of(loader: Opened) -> Iterator[list[str]]:
    """Names of the clips of each batch, without those that only fill it up."""
    for batch in loader:
        keys = [clip_name(str(key)) for key in batch["__key__"]]
        mask = batch.get("__mask__")
        yield keys if mask is None else [key for key, real in zip(keys, mask, strict=True) if real]


def _seconds(folder: Path) -> float:
    from audiomdb.shards import DatasetReader

    with DatasetReader.open(folder) as reader:
        durations = np.asarray(reader.index["duration"])
    return max(4 * float(durations.mean()), float(durations.max()))


def _every_other(first: int) -> Callable[[Mapping[str, Any]], np.ndarray]:
    def chosen(columns: Mapping[str, Any]) -> np.ndarray:
        wanted: np.ndarray = np.arange(len(columns["duration"])) % 2 == first
        return wanted

    return chosen
