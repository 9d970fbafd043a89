"""A training process, as far as a loader can tell: batches, a step that takes its time, again.

`python -m benchmarks.remote_reader JSON` imports what it needs, says so, and begins each epoch when
it is told to. Everything it finds out goes to stdout as JSON lines. It runs in the environment of
the library that it uses, so it imports nothing else that has to be installed.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np

from benchmarks.clock import Reading, now

__all__ = ["Batch", "Reads", "Task"]

Batch = list[tuple[str, np.ndarray]]
"""Keys, and float32 audio."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a process is to read, and how.

    Attributes:
        adapter: The module that reads.
        url: URL of the S3 endpoint.
        bucket: Bucket that holds the dataset.
        prefix: Prefix of the dataset in the bucket.
        cache: Folder of the cache on this machine.
        budget: Bytes the cache may hold; None: no limit.
        shuffle: Whether to shuffle, anew in each epoch.
        epochs: Number of epochs to read.
        batch: Samples in a batch.
        step_s: Seconds that a training step takes, without using the processor.
        rank: Number of this process among `world` processes, from 0.
        world: Number of processes that share the work.
        expected: JSON file of the crc32 of each clip's float32 samples, by key; then each clip is
            compared. None: no clip is.
        say_keys: Whether to report the order in which the clips came.
        options: Options that only some adapters have.
    """

    adapter: str
    url: str
    bucket: str
    prefix: str
    cache: str
    budget: int | None = None
    shuffle: bool = True
    epochs: int = 1
    batch: int = 16
    step_s: float = 0.0
    rank: int = 0
    world: int = 1
    expected: str | None = None
    say_keys: bool = False
    options: dict[str, Any] = field(default_factory=dict)


class Reads(Protocol):
    """What an adapter's `read` is: a module's function. Imports happen with the module."""

    def __call__(self, task: Task) -> Iterator[Iterable[Batch]]:
        """For each epoch, its batches."""


def main() -> None:
    """Do one task."""
    task = Task(**json.loads(sys.argv[1]))
    adapter = importlib.import_module(task.adapter)
    expected = None
    if task.expected is not None:
        expected = json.loads(Path(task.expected).read_text(encoding="utf-8"))
    _say("ready")
    _wait()
    counts = {"samples": 0, "damaged": 0}
    try:
        start = now()
        for number, batches in enumerate(adapter.read(task)):
            if number:
                _wait()
                start = now()
            _say("epoch", **_epoch(task, batches, start, expected, counts))
        stats: dict[str, Any] = getattr(adapter, "stats", dict)()
    except Exception as error:  # noqa: BLE001 (what becomes of damage and faults is a result)
        _say("error", type=type(error).__name__, message=_said(error), **counts)
    else:
        _say("end", stats=stats)


def _epoch(
    task: Task,
    batches: Iterable[Batch],
    start: Reading,
    expected: dict[str, int] | None,
    counts: dict[str, int],
) -> dict[str, Any]:
    """Read an epoch, and say how long it took and what was waited for."""
    order: list[str] = []
    frames = samples = steps = 0
    first_s, wait_s = 0.0, 0.0
    waits_from = start.wall_s
    for batch in batches:
        waited = time.perf_counter() - waits_from
        if steps:
            wait_s += waited
        else:
            first_s = waited
        for key, audio in batch:
            order.append(key)
            frames += len(audio)
            if expected is not None and crc32(audio.data) != expected[key]:
                counts["damaged"] += 1
        samples += len(batch)
        counts["samples"] += len(batch)
        steps += 1
        time.sleep(task.step_s)
        waits_from = time.perf_counter()
    took = now().since(start)
    return {
        "wall_s": took.wall_s,
        "first_s": first_s,
        "wait_s": wait_s,
        "cpu_s": took.cpu_s,
        "steps": steps,
        "samples": samples,
        "keys": len(set(order)),
        "frames": frames,
        "damaged": counts["damaged"],
        "order": order if task.say_keys else [],
    }


def _said(error: Exception) -> str:
    """An error's text."""
    try:
        return str(error)
    except TypeError:
        # torch makes errors of workers anew with a text; soundfile's take it for a number.
        return str(error.args[0])


def _say(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def _wait() -> None:
    if not sys.stdin.readline():
        raise SystemExit("nobody waits for the result")


if __name__ == "__main__":
    main()
