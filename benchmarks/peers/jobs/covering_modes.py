"""Ask the questions of `covering` of every mode in which AudioMDB reads an epoch."""

from __future__ import annotations

import os
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.corpus import Corpus
from benchmarks.peers.jobs.covering import each_rank
from benchmarks.peers.jobs.modes import MODES, keys_of, opened

__all__ = ["cover", "rank"]

_EACH = 4


def cover(
    system: str,
    datasets: list[dict[str, str]],
    workers: list[int],
    ranks: int,
) -> dict[str, Any]:
    """Run an epoch of each mode, dataset and number of workers; the ranks are the same for all.

    Args:
        system: Name of the system.
        datasets: `corpus` and `folder` of each.
        workers: Numbers of workers.
        ranks: Number of processes.
    """
    given = {"system": system, "datasets": datasets, "workers": workers}
    found = each_rank("covering_modes:rank", given, ranks, longest_s=500)
    if found is None:
        return {"hung": True}
    cases = []
    for parts in zip(*(each["cases"] for each in found), strict=True):
        counts = Counter(key for part in parts for key in part["keys"])
        case = {name: parts[0][name] for name in ("mode", "workers", "clips")}
        batches = [part["batches"] for part in parts]
        cases.append(
            {
                **case,
                "lost": case["clips"] - len(counts),
                "repeated": sum(count - 1 for count in counts.values()),
                "fewest_batches": min(batches),
                "most_batches": max(batches),
            }
        )
    return {"cases": cases}


def rank(system: str, datasets: list[dict[str, str]], workers: list[int]) -> dict[str, Any]:  # noqa: ARG001
    """Read one rank's part of all of these epochs."""
    import torch

    ranks = int(os.environ["WORLD_SIZE"])
    if ranks > 1:
        torch.distributed.init_process_group("gloo")
    cases = []
    for dataset, mode, number in product(datasets, MODES, workers):
        # Torch's batches are one rank's, the others' all ranks'.
        step = _EACH if mode.startswith("DataLoader") else _EACH * ranks
        loader = opened(mode, Path(dataset["folder"]), workers=number, step=step)
        batches = list(keys_of(loader))
        cases.append(
            {
                "mode": mode,
                "workers": number,
                "clips": len(Corpus(Path(dataset["corpus"])).paths),
                "keys": [key for batch in batches for key in batch],
                "batches": len(batches),
            }
        )
    return {"cases": cases}
