"""A corpus in another format: what is stored, and how much of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.corpus import Corpus
from benchmarks.peers.systems.ours import AudioMDB

__all__ = ["write"]


def write(system: str, corpus: str, folder: str, audio_format: str | None) -> dict[str, Any]:  # noqa: ARG001
    """Convert a corpus, in a format if one is given. Returns bytes and seconds of audio."""
    source, target = Corpus(Path(corpus)), Path(folder)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    adapter = AudioMDB(audio_format=audio_format)
    adapter.write(source, target)
    size = sum(path.stat().st_size for path in adapter.files(target))
    return {"bytes": size, "seconds": source.seconds, "source_bytes": source.bytes}
