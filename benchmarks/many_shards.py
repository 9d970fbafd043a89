"""What it costs to begin with a dataset of very many shards: time, and memory of each process.

One shard is made and stands for all, by symbolic links: what is measured reads metadata and index,
and of the shards the first few.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from statistics import median

import msgspec

from audiomdb.shards import DatasetWriter, read_metadata
from audiomdb.shards.metadata import IndexEntry, write_metadata
from benchmarks.bench import Bench
from benchmarks.processes import run_python
from benchmarks.results import Figure

__all__ = ["begin_large"]

_IN_SHARD = 720
_SHARDS = 250
"""For each of `tiny_shards`: 50,000 of 720 samples are 36,000,000 in a full run."""

_FIRST_STEP = """
import json, sys, time
from audiomdb.stream import BySeconds, StepStream
start = time.perf_counter()
what = {"number": {}, "max_duration": {"max_duration": 30.0}, "seconds": {}}[sys.argv[2]]
pace = BySeconds(max_batch_seconds=200.0, slots=8) if sys.argv[2] == "seconds" else 64
with StepStream(sys.argv[1], pace, shuffle=True, decode=False, **what) as stream:
    samples = len(next(stream.read()).samples)
print(json.dumps({"wall_s": time.perf_counter() - start, "samples": samples}))
"""


def begin_large(bench: Bench) -> None:
    """Measure the first step of a shuffled epoch, in a new process each."""
    folder = bench.fresh("many-shards")
    shards = _SHARDS * bench.sizes.tiny_shards
    try:
        _make(folder, shards)
        facts = {
            "metadata_mb": (folder / "metadata.json").stat().st_size / 1e6,
            "index_mb": (folder / "index.bin").stat().st_size / 1e6,
        }
        for kind in ("number", "max_duration", "seconds"):
            arguments = (os.fspath(folder), kind)
            times = [
                run_python(_FIRST_STEP, *arguments).result["wall_s"]
                for _ in range(bench.sizes.rounds)
            ]
            watched = run_python(_FIRST_STEP, *arguments, watch=sys.platform == "linux")
            what = {
                "number": "by number",
                "max_duration": "by number, with max_duration",
                "seconds": "by seconds",
            }[kind]
            bench.figure(
                Figure(
                    name=f"large.first.{kind}",
                    title=f"the first shuffled step of {shards * _IN_SHARD:,} samples in "
                    f"{shards:,} shards, {what}",
                    value=median(times),
                    unit="s",
                    facts={
                        "slowest_s": max(times),
                        "memory_mib": watched.peak_anonymous_bytes / 2**20,
                        **facts,
                    },
                )
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(folder: Path, shards: int) -> None:
    one = folder / "one"
    with DatasetWriter(one, samples_per_shard=_IN_SHARD) as writer:
        for number in range(_IN_SHARD):
            sample = {
                "duration": 2.0 + number % 15,
                "text_length": number % 200,
                "speaker": f"speaker {number % 50}",
                "score": number / 7,
            }
            writer.write(f"recording-{number:08d}", sample)
    metadata = read_metadata(one)
    part, digest = (one / "index.bin").read_bytes(), hashlib.sha256()
    with (folder / "index.bin").open("wb") as file:
        for _ in range(shards):
            file.write(part)
            digest.update(part)
    entries = [
        msgspec.structs.replace(metadata.shards[0], path=f"shard_{number:05d}")
        for number in range(shards)
    ]
    for entry in entries:
        (folder / entry.path).symlink_to(one / "shard_00000")
    write_metadata(
        folder,
        msgspec.structs.replace(
            metadata,
            samples=shards * _IN_SHARD,
            bytes=shards * metadata.bytes,
            duration=shards * metadata.duration,
            index=IndexEntry("index.bin", shards * len(part), digest.hexdigest()),
            shards=tuple(entries),
        ),
    )
