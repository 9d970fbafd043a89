"""Write files atomically, sync them to disk, and compute their SHA-256 digests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from audiomdb.shards.packing import Buffer

__all__ = [
    "FileVersion",
    "bytes_below",
    "sha256_file",
    "sha256_hex",
    "sync",
    "sync_data",
    "temporary_name",
    "version_of",
    "write_atomically",
]

_CHUNK_BYTES = 256 * 1024


def temporary_name(name: str) -> str:
    """Return the name of the file that `write_atomically` writes first, which a crash may leave."""
    return f".{name}.tmp"


def write_atomically(path: Path, chunks: Iterable[Buffer]) -> tuple[int, str]:
    """Write `chunks` to `path` through a temporary file beside it; return size and SHA-256.

    Raises:
        OSError: when it cannot be written. Then, as after a crash, `path` is unchanged or holds the
            complete new file.
    """
    import hashlib

    temporary = path.with_name(temporary_name(path.name))
    digest, size = hashlib.sha256(), 0
    try:
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)
    return size, digest.hexdigest()


def sha256_hex(data: Buffer) -> str:
    """Return the SHA-256 of some bytes as a hex digest."""
    import hashlib

    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in chunks, as a hex digest."""
    import hashlib

    digest = hashlib.sha256()
    # One buffer, which stays in the CPU cache; a new one for each chunk would cost page faults.
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


class FileVersion(NamedTuple):
    """What changes when a file is replaced or written to."""

    inode: int
    size: int
    mtime_ns: int


def version_of(path: Path) -> FileVersion | None:
    """Return the version of the file at a path; None if there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FileVersion(status.st_ino, status.st_size, status.st_mtime_ns)


def bytes_below(folder: Path) -> int:
    """Return the total size of all files below a folder, which may be written to meanwhile."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(where, name).stat().st_size
            except FileNotFoundError:  # renamed meanwhile
                continue
    return total


def sync(path: Path) -> None:
    """Sync a file's contents and metadata, or the entries of a folder, to the disk."""
    _sync(path, os.fsync)


def sync_data(path: Path) -> None:
    """Sync a file as `sync` does, but without its timestamps, which change with every write."""
    _sync(path, getattr(os, "fdatasync", os.fsync))  # macOS has no fdatasync


def _sync(path: Path, call: Callable[[int], None]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        call(descriptor)
    finally:
        os.close(descriptor)
