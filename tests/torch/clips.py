"""What tests of the datasets for torch share: clips, and views of what a loop gave and left."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np

from audiomdb.shards import DatasetWriter

__all__ = ["CLIPS", "NAMES", "by_batch", "frames", "keys", "left_behind", "write_clips"]

CLIPS = 70
NAMES = [f"{i:02d}" for i in range(CLIPS)]
"""Keys of the clips, and their texts."""


def frames(number: int) -> int:
    return 800 + 3 * number


def write_clips(path: Path) -> Path:
    """A dataset of clips in four shards, each of which has one value all over."""
    with DatasetWriter(path, samples_per_shard=20) as writer:
        for i, name in enumerate(NAMES):
            audio = np.full(frames(i), (i - 35) / 64, np.float32)
            writer.write(name, {"audio": audio, "sample_rate": 8000, "text": name})
    return path


def by_batch(batches: Any) -> list[list[str]]:
    """The keys of each batch."""
    return [batch["__key__"] for batch in batches]


def keys(batches: Any) -> list[str]:
    return [key for batch in by_batch(batches) for key in batch]


def left_behind() -> list[str]:
    """Threads of the library and worker processes that are there."""
    threads = [one.name for one in threading.enumerate() if one.name.startswith("audiomdb")]
    return threads + [one.name for one in multiprocessing.active_children()]
