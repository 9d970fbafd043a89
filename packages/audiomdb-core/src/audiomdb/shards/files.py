"""Writing files so that a crash leaves the old one, the new one, or none, never half of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from audiomdb.shards.packing import Buffer

__all__ = ["bytes_below", "sha256_file", "sha256_hex", "sync", "sync_data", "write_atomically"]

_CHUNK_BYTES = 256 * 1024


def write_atomically(path: Path, chunks: Iterable[Buffer]) -> tuple[int, str]:
    """Write `chunks` to `path` through a temporary file beside it; return size and sha256.

    Raises:
        OSError: it cannot be written. At `path` is what was there before, or all that is new.
    """
    import hashlib

    temporary = path.with_name(f".{path.name}.tmp")
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
    """Hex digest of bytes."""
    import hashlib

    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    import hashlib

    digest = hashlib.sha256()
    # One buffer that stays in the processor's cache; a new one for each piece costs page faults.
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder and those below it, as they are while somebody writes them."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(where, name).stat().st_size
            except FileNotFoundError:  # renamed meanwhile
                continue
    return total


def sync(path: Path) -> None:
    """Return once what a file holds, or the names in a folder, are on the disk."""
    _sync(path, os.fsync)


def sync_data(path: Path) -> None:
    """As `sync`, but for the file's times, which change with every write."""
    _sync(path, getattr(os, "fdatasync", os.fsync))  # macOS has no such call


def _sync(path: Path, call: Callable[[int], None]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        call(descriptor)
    finally:
        os.close(descriptor)
