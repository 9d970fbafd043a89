"""Load shuffled epochs of padded batches, as training does."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.clock import Reading, now
from benchmarks.corpus import Corpus
from benchmarks.peers.registry import make
from benchmarks.peers.system import Loader, Settings, System, Wish, clip_name, consume

__all__ = ["idle", "load"]


def load(
    system: str,
    corpus: str,
    folder: str,
    settings: dict[str, Any],
    shortest_s: float,
    passes: int = 2,
) -> dict[str, Any]:
    """Load epochs. The clock starts when torch has been imported.

    The first epoch is apart: it holds the start of workers. The others are repeated until they
    have taken as long as asked for, and `passes` times at least.
    """
    import torch  # noqa: F401 (everybody's, and no part of what is compared)

    adapter, source = make(system), Corpus(Path(corpus))
    begin = now()
    loader = adapter.loader(Path(folder), Settings(**settings), Wish())
    first, frames, keys = _first_epoch(loader, adapter, begin)
    first_epoch = now().since(begin)
    if adapter.exact_epochs and keys is not None:
        missing = len({path.stem for path in source.paths} - set(map(clip_name, keys)))
        if missing or len(keys) != len(source.paths):
            raise RuntimeError(
                f"{adapter.name} gave {len(keys)} clips for {len(source.paths)}, {missing} missing"
            )
    walls: list[float] = []
    cpus: list[float] = []
    counts = [frames]
    while len(walls) < passes or sum(walls) < shortest_s:
        before = now()
        counts.append(loader.whole_pass())
        took = now().since(before)
        walls.append(took.wall_s)
        cpus.append(took.cpu_s)
    return {
        "first_batch_s": first and first.wall_s,
        "first_batch_cpu_s": first and first.cpu_s,
        "first_epoch_s": first_epoch.wall_s,
        "wall_s": median(walls),
        "cpu_s": sum(cpus) / len(cpus),
        "walls_s": walls,
        "frames": counts,
        "expected_frames": source.frames,
        "seconds": source.seconds,
        "passes": len(walls),
    }


def _first_epoch(
    loader: Loader, adapter: System, begin: Reading
) -> tuple[Reading | None, int, list[str] | None]:
    """What passed from the beginning to the first batch; the epoch's frames and keys."""
    if adapter.kind == "floor":
        return None, loader.whole_pass(), None
    batches = iter(loader)
    batch = next(batches)
    frames = consume(batch)
    first = now().since(begin)
    keys = list(batch.keys)
    for batch in batches:
        frames += consume(batch)
        keys += batch.keys
    return first, frames, keys


def idle(seconds: float) -> dict[str, Any]:
    """Measure a process that only imports torch."""
    import torch  # noqa: F401

    time.sleep(seconds)
    return {}
