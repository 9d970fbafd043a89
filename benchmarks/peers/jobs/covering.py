"""One epoch over ranks and workers: does each clip come once, and do all ranks keep step?"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.corpus import Corpus
from benchmarks.peers.registry import make
from benchmarks.peers.running import Started, result_of
from benchmarks.peers.system import Settings, Wish, clip_name
from benchmarks.processes import free_port

__all__ = ["cover", "each_rank", "rank"]

_BATCH_SIZE = 4


def cover(
    system: str, corpus: str, folder: str, settings: dict[str, Any], ranks: int
) -> dict[str, Any]:
    """Run an epoch in as many processes as ranks, with torch.distributed as in training.

    Returns:
        Clips that never came, that came again, and the least and most batches of a rank: where
        these differ, training in lockstep hangs at the end of the epoch.
    """
    given = {"system": system, "folder": folder, "settings": settings}
    found = each_rank("covering:rank", given, ranks)
    if found is None:
        return {"hung": True}
    if "not_offered" in found[0]:
        return dict(found[0])
    counts = Counter(key for each in found for key in each["keys"])
    all_keys = {path.stem for path in Corpus(Path(corpus)).paths}
    return {
        "lost": len(all_keys - set(counts)),
        "repeated": sum(count - 1 for count in counts.values()),
        "fewest_batches": min(each["batches"] for each in found),
        "most_batches": max(each["batches"] for each in found),
        "clips": len(all_keys),
    }


def each_rank(
    job: str, given: Mapping[str, Any], ranks: int, longest_s: float = 120
) -> list[dict[str, Any]] | None:
    """Run a job in as many processes as ranks, set up as torchrun does.

    Returns:
        What each found; None where one of them does not end.
    """
    command = [sys.executable, "-m", "benchmarks.peers.child", job, json.dumps(given)]
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    end = time.monotonic() + longest_s
    with ExitStack() as stack:
        started = [
            stack.enter_context(Started(command, {**environment, **_launched(number, ranks, port)}))
            for number in range(ranks)
        ]
        if not all(each.ended_within(end - time.monotonic()) for each in started):
            return None
    found = []
    for each in started:
        result = result_of(each.out)
        if result is None:
            raise RuntimeError(f"a rank of {job} ended without a result:\n{each.err[-2000:]}")
        found.append(result)
    return found


def rank(system: str, folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One rank's epoch."""
    import torch

    if os.environ["WORLD_SIZE"] != "1":
        torch.distributed.init_process_group("gloo")
    wish = Wish(batch_size=_BATCH_SIZE)
    loader = make(system).loader(Path(folder), Settings(**settings), wish)
    keys: list[str] = []
    batches = 0
    for batch in loader:
        batches += 1
        keys += map(clip_name, batch.keys)
    return {"keys": keys, "batches": batches}


def _launched(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun would set."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
