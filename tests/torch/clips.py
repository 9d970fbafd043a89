"""What tests of the datasets for torch share: clips, and views of what a loop gave and left."""

from __future__ import annotations

import gc
import multiprocessing
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from audiomdb.shards import DatasetWriter

__all__ = [
    "CLIPS",
    "NAMES",
    "NUMBERED",
    "by_batch",
    "frames",
    "keys",
    "left_behind",
    "write_clips",
    "write_numbered",
]

CLIPS = 70
NAMES = [f"{i:02d}" for i in range(CLIPS)]
"""Keys of the clips, and their texts."""

NUMBERED = 43
"""Clips of `write_numbered`."""


def frames(number: int) -> int:
    return 800 + 3 * number


def write_clips(path: Path) -> Path:
    """A dataset of clips in four shards, each of which has one value all over."""
    with DatasetWriter(path, samples_per_shard=20) as writer:
        for i, name in enumerate(NAMES):
            audio = np.full(frames(i), (i - 35) / 64, np.float32)
            writer.write(name, {"audio": audio, "sample_rate": 8000, "text": name})
    return path


def write_numbered(path: Path, audio: Callable[[int], np.ndarray]) -> Path:
    """A dataset in five shards of clips with a number, of which a function makes the audio."""
    with DatasetWriter(path, samples_per_shard=10) as writer:
        for i in range(NUMBERED):
            sample = {"audio": audio(i), "sample_rate": 8000, "number": i}
            writer.write(f"{i:02d}", sample)
    return path


def by_batch(batches: Any) -> list[list[str]]:
    """The keys of each batch."""
    return [batch["__key__"] for batch in batches]


def keys(batches: Any) -> list[str]:
    return [key for batch in by_batch(batches) for key in batch]


def left_behind() -> list[str]:
    """Threads of the library and worker processes that are there."""
    if sys.version_info < (3, 11):
        gc.collect()  # contextlib of Python 3.10 leaves a cycle with the frames of an exception
    threads = [one.name for one in threading.enumerate() if one.name.startswith("audiomdb")]
    return threads + [one.name for one in multiprocessing.active_children()]
