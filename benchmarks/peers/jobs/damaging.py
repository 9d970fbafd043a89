"""Damage a dataset, and see what a reader reports."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.corpus import Corpus
from benchmarks.peers.decoders import DECODERS
from benchmarks.peers.registry import make
from benchmarks.peers.system import Settings, System, Wish, clip_name

__all__ = ["damage", "judge", "write_again"]


def damage(adapter: System, corpus: Corpus, folder: Path, copy: Path, how: str) -> dict[str, Any]:
    """Make a copy of a dataset and damage it: "flip", "truncate" or "delete"."""
    shutil.copytree(folder, copy)
    file, at = _audio_of_one_clip(adapter, corpus, copy)
    _HOW[how](file, at)
    return {"file": str(file.relative_to(copy)), "at": at}


def judge(system: str, corpus: str, folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Load an epoch and compare what comes with the corpus, clip by clip."""
    source = Corpus(Path(corpus))
    truth = {path.stem: _digest(DECODERS["soundfile"](path.read_bytes())) for path in source.paths}
    found: dict[str, Any] = {"clips": len(truth)}
    right = wrong = 0
    try:
        loader = make(system).loader(
            Path(folder), Settings(**settings), Wish(batch_size=1, shuffle=False)
        )
        for batch in loader:
            for row, length, key in zip(batch.audio, batch.lengths, batch.keys, strict=True):
                same = truth.get(clip_name(key)) == _digest(row[: int(length)].numpy())
                right += same
                wrong += not same
    except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
        found["error"] = _said(error, folder)
    return {**found, "right": right, "wrong": wrong}


def write_again(system: str, corpus: str, folder: str) -> dict[str, Any]:
    """Write into the folder of a run that was killed, as a user would who starts it again."""
    adapter = make(system)
    try:
        adapter.write(Corpus(Path(corpus)), Path(folder))
    except Exception as error:  # noqa: BLE001
        return {"error": _said(error, folder)}
    return {}


def _said(error: Exception, folder: str) -> str:
    """What an error is and says, without where the folder lies on this machine."""
    lines = [line.strip() for line in str(error).replace(folder, "DATASET").splitlines()]
    first = next(filter(None, lines), "")
    return f"{type(error).__name__}: {first[:200]}"


def _digest(audio: Any) -> int:  # noqa: ANN401
    return zlib.crc32(audio.tobytes())


def _audio_of_one_clip(adapter: System, corpus: Corpus, folder: Path) -> tuple[Path, int]:
    """A file and a place in it, in the middle of some clip's audio."""
    files = sorted(adapter.files(folder), key=lambda path: path.stat().st_size)
    largest = files[-1]
    data = largest.read_bytes()
    for path in corpus.paths[len(corpus.paths) // 3 :]:
        clip = path.read_bytes()
        middle = len(clip) // 2
        at = data.find(clip[middle : middle + 48])
        if at >= 0:
            return largest, at
    return largest, len(data) // 2  # encoded anew: the middle is in some clip's audio too


def _flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        value = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([value ^ 0x10]))


def _truncate(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.truncate(at)


def _delete(file: Path, _: int) -> None:
    file.unlink()


_HOW: dict[str, Callable[[Path, int], None]] = {
    "flip": _flip,
    "truncate": _truncate,
    "delete": _delete,
}
