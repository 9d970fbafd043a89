"""From the files of a corpus to a dataset that is on the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from benchmarks.clock import now
from benchmarks.corpus import Corpus
from benchmarks.peers.registry import make

__all__ = ["few_beside", "write"]


def write(system: str, corpus: str, folder: str, few: str | None) -> dict[str, Any]:
    """Write a dataset and sync its files; what was in the folder is deleted first.

    A corpus of few clips is written first, beside it: what a library imports when it is first
    used does not count. Starting processes of its own does. Without one, the library is imported.
    """
    source, target = Corpus(Path(corpus)), Path(folder)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    adapter = make(system)
    beside = few_beside(target)
    shutil.rmtree(beside, ignore_errors=True)
    if few is None:
        adapter.prepare()
    else:
        adapter.write(Corpus(Path(few)), beside)
    for path in source.paths:
        path.read_bytes()  # into the page cache: what is measured is writing
    source.entries  # noqa: B018 (reads the manifest, once)
    os.sync()
    begin = now()
    adapter.write(source, target)
    written = now()
    files = adapter.files(target)
    for path in files:
        _sync(path)
    end = now().since(begin)
    stats = [path.stat() for path in files]
    return {
        "wall_s": end.wall_s,
        "cpu_s": end.cpu_s,
        "before_sync_s": written.since(begin).wall_s,
        "clips": len(source.paths),
        "bytes": sum(stat.st_size for stat in stats),
        "disk_bytes": sum(stat.st_blocks * 512 for stat in stats),
        "source_bytes": source.bytes,
        "files": len(files),
    }


def few_beside(folder: Path) -> Path:
    """Folder of the small dataset that is written before this one."""
    return folder.with_name(f"few-{folder.name}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
