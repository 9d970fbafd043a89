"""What the disk holds should the power fail: contents before names, and metadata last."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from audiomdb.shards import DatasetWriter, verify_dataset
from audiomdb.shards.files import sha256_file


class Synced(NamedTuple):
    """A file or folder that was synced: its path then, and its SHA-256 or the names in it."""

    path: Path
    held: str | frozenset[str]


def write(folder: Path, samples: int) -> None:
    with DatasetWriter(folder, samples_per_shard=2, on_error="skip") as writer:
        writer.write("bad", {"text": object()})
        for number in range(samples - 1):
            writer.write(f"k{number}", {"text": f"number {number}"})


def state(path: Path) -> Synced:
    if path.is_dir():
        return Synced(path, frozenset(entry.name for entry in path.iterdir()) - {".partial"})
    return Synced(path, sha256_file(path))


def below(folder: Path) -> Iterator[Path]:
    """A folder and all that is in it."""
    yield folder
    for inner, folders, files in os.walk(folder):
        yield from (Path(inner, name) for name in (*folders, *files))


def lies_at(path: Path, facts: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), facts)
    except FileNotFoundError:  # another thread has just given it another name
        return False


@pytest.fixture
def syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Synced]:
    """All that is synced below `tmp_path`, in order."""
    noted: list[Synced] = []

    def noting(sync: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            facts = os.fstat(descriptor)
            noted.append(state(next(path for path in below(tmp_path) if lies_at(path, facts))))
            sync(descriptor)

        return call

    for name in ("fsync", "fdatasync"):
        if hasattr(os, name):
            monkeypatch.setattr(os, name, noting(getattr(os, name)))
    return noted


def named(syncs: list[Synced], folder: Path, name: str) -> int:
    """Where a folder was synced for the first time with this name in it."""
    return next(i for i, (path, held) in enumerate(syncs) if path == folder and name in held)


def test_contents_are_on_the_disk_before_their_names_and_metadata_comes_last(
    tmp_path: Path, syncs: list[Synced]
) -> None:
    out = tmp_path / "out"
    write(out, 4)
    metadata = syncs.index(Synced(out / ".metadata.json.tmp", sha256_file(out / "metadata.json")))
    assert metadata < named(syncs, out, "metadata.json")
    for name in ("index.bin", "rejected.jsonl"):
        written = syncs.index(Synced(out / f".{name}.tmp", sha256_file(out / name)))
        assert written < named(syncs, out, name) < metadata
    index = syncs.index(Synced(out / ".index.bin.tmp", sha256_file(out / "index.bin")))
    for shard in sorted(out.glob("shard_*")):
        staged = out / ".partial" / shard.name
        for path in (shard, *shard.iterdir()):
            written = syncs.index(Synced(staged / path.relative_to(shard), state(path).held))
            assert written < named(syncs, out, shard.name) < index


def test_metadata_of_fewer_shards_is_off_the_disk_before_the_index_is_written(
    tmp_path: Path, syncs: list[Synced]
) -> None:
    out = tmp_path / "out"
    write(out, 4)
    syncs.clear()
    write(out, 6)
    index = syncs.index(Synced(out / ".index.bin.tmp", sha256_file(out / "index.bin")))
    folder = [held for path, held in syncs[:index] if path == out]
    assert "metadata.json" in folder[0]
    assert "metadata.json" not in folder[-1]
    assert verify_dataset(out) == []
