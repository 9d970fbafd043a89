"""Measure the time to the first sample of a dataset with very many samples."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.clock import now
from benchmarks.peers.registry import make
from benchmarks.peers.system import NotOfferedError, System
from benchmarks.processes import anonymous_bytes

__all__ = ["open_first", "write_tiny"]


def write_tiny(system: str, folders: dict[str, int]) -> dict[str, Any]:
    """Write datasets of so many samples each; a folder appears when it is complete."""
    adapter = make(system)
    adapter.prepare()
    begin = now()
    for folder, samples in folders.items():
        target = Path(folder)
        unfinished = target.with_name(target.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        adapter.write_tiny(unfinished, samples)
        unfinished.rename(target)
    took = now().since(begin)
    return {"wall_s": took.wall_s, "cpu_s": took.cpu_s}


def open_first(system: str, folder: str, tried: str) -> dict[str, Any]:
    """Open twice: first a small dataset, which loads what a library loads when it is first used.

    Args:
        system: Name of the system.
        folder: Folder of the dataset with many samples.
        tried: Folder of a small dataset of the same kind.
    """
    adapter = make(system)
    found: dict[str, Any] = {}
    for name, work in (("stored", System.open_tiny), ("shuffled", System.shuffle_tiny)):
        try:
            found[name] = _timed(getattr(adapter, work.__name__), Path(tried), Path(folder))
        except NotOfferedError as error:
            found[name] = {"not_offered": str(error)}
    return found


def _timed(work: Callable[[Path], Any], tried: Path, folder: Path) -> dict[str, Any]:
    work(tried)
    before = anonymous_bytes()
    begin = now()
    work(folder)
    took = now().since(begin)
    return {
        "wall_s": took.wall_s,
        "cpu_s": took.cpu_s,
        "grown_mib": (anonymous_bytes() - before) / 2**20,
    }
