"""Open a cache directory, whose users must agree on the dataset's metadata and on limits."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from audiomdb.cache.counters import Counters
from audiomdb.cache.eviction import (
    despite_full_disk,
    evicted,
    full_disk_error,
    is_full_disk,
    oldest_first,
)
from audiomdb.cache.failures import Failures
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import Held, exclusive, is_at, try_exclusive, try_shared
from audiomdb.cache.options import CacheOptions
from audiomdb.cache.place import check_place
from audiomdb.cache.source import Source
from audiomdb.cache.waiting import WaitLoop
from audiomdb.errors import CacheError, CachePlaceError, MetadataError
from audiomdb.log import logger
from audiomdb.shards.files import write_atomically
from audiomdb.shards.layout import METADATA_FILE
from audiomdb.shards.metadata import Metadata, parse_metadata, write_metadata

__all__ = [
    "PAUSE_S",
    "TRIES",
    "Limits",
    "Opened",
    "deleted_error",
    "index_lock",
    "make_again",
    "metadata_lock",
    "open_cache",
]

TRIES = 20
PAUSE_S = 0.02
"""Creating a directory again is retried, as its deletion may still be going on for a moment."""

_SHOWN_BYTES = 60
"""Bytes quoted in errors of what was received instead of metadata."""

T = TypeVar("T")


class Limits(msgspec.Struct, frozen=True):
    """Limits of a cache directory that hold for all processes that use it.

    Attributes:
        max_bytes: Budget in bytes. None: no limit.
        workers: Maximum number of concurrent transfers.
    """

    max_bytes: int | None
    workers: int

    def __post_init__(self) -> None:
        # Validates what is read from the file, where invalid values mean a damaged disk.
        CacheOptions(max_bytes=self.max_bytes, workers=self.workers)


class Opened(msgspec.Struct, frozen=True):
    """A cache directory in use.

    Attributes:
        metadata: Metadata of the dataset.
        limits: Limits now in force.
        in_use: Lock held while this process uses the directory.
    """

    metadata: Metadata
    limits: Limits
    in_use: Held


def open_cache(
    layout: CacheLayout, source: Source, limits: Limits, failures: Failures, counters: Counters
) -> Opened:
    """Create the directory and get the dataset's metadata.

    As long as any process uses the directory, metadata and limits are those of the first of them,
    so that all see the same dataset and the same budget. The first process to open an unused
    directory fetches the metadata again, which detects a changed dataset; shards that are the same
    in both versions are kept.

    Raises:
        CachePlaceError: the directory cannot be written, or is on a network file system.
        CacheFullError: the disk is full.
        CacheError: the directory is deleted over and over.
        DownloadError, Exception: as the source.
        DatasetError: the metadata is damaged.
    """
    for _ in range(TRIES):
        opened = _try_to_open(layout, source, limits, failures, counters)
        if opened is not None:
            if opened.limits != limits:
                _log_limits(layout, limits, opened.limits)
            return opened
        time.sleep(PAUSE_S)
    raise deleted_error(layout.root)


def make_again(layout: CacheLayout, opened: Opened) -> Opened:
    """Create a directory again that was deleted, in whole or in part, while it is used.

    Its users share it again: the first of them writes metadata and limits, which are the same for
    all, and all share the lock that says it is in use. If a new process opened the directory
    earlier, the limits of that process hold, because a directory must not have two budgets. This
    process keeps its own metadata, which may be older. Shards of two versions can coexist, because
    their names contain their digests.

    Args:
        layout: The directory.
        opened: The directory as it was in use. Its lock is not changed.

    Returns:
        The directory as it is in use now.

    Raises:
        CachePlaceError: it cannot be created.
        CacheFullError: the disk is full.
        FileNotFoundError: it is being deleted at this moment.
    """
    _make(layout)
    loop = WaitLoop(lambda: None)
    while True:
        with metadata_lock(layout):
            if not layout.metadata.exists():
                _despite_full_disk(layout, lambda: write_metadata(layout.root, opened.metadata))
            limits = _kept_limits(layout)
            if limits is None:
                limits = opened.limits
                _write(layout, layout.options, msgspec.json.encode(limits))
            in_use = try_shared(layout.in_use_lock, create=True)
        if in_use is not None:
            break
        loop.step()  # for a process that is opening it, whose metadata.lock was deleted
    if limits != opened.limits:
        _log_limits(layout, opened.limits, limits)
    return Opened(opened.metadata, limits, in_use)


def metadata_lock(layout: CacheLayout) -> Held:
    """Wait for the right to fetch the metadata."""
    return _waited_for(layout, layout.metadata_lock, "metadata")


def index_lock(layout: CacheLayout) -> Held:
    """Wait for the right to fetch the index."""
    return _waited_for(layout, layout.index_lock, "index")


def deleted_error(root: Path) -> CacheError:
    """Return the error to raise when a directory is deleted over and over."""
    return CacheError(
        f"the cache directory {root}, or a part of it, is deleted as often as it is made again; "
        "find out who clears it away, or give cache_dir= a directory that is left alone"
    )


def _waited_for(layout: CacheLayout, lock: Path, what: str) -> Held:
    loop = WaitLoop(lambda: None)
    while True:
        try:
            held = try_exclusive(lock, create=True)
        except FileNotFoundError:
            _make(layout)
            continue
        if held is not None:
            return held
        loop.log(lambda: f"waiting for another process to fetch the {what} of {layout.root}")
        loop.step()


def _try_to_open(
    layout: CacheLayout, source: Source, limits: Limits, failures: Failures, counters: Counters
) -> Opened | None:
    """Open a directory; return None if a part of it is deleted meanwhile, or turns out damaged."""
    _make(layout)
    known = failures.attempt(METADATA_FILE)
    with metadata_lock(layout) as lock:
        failures.raise_newer(METADATA_FILE, known)
        try:
            found, holding = _agreed(layout, source, limits, failures, counters)
            in_use = try_shared(layout.in_use_lock)
        except FileNotFoundError:
            if layout.has_folders() and is_at(lock.fd, layout.metadata_lock):
                raise  # raised by the source
            return None
        if in_use is not None and not is_at(lock.fd, layout.metadata_lock):
            # Others may have created it again by now, and agreed without this process.
            in_use.release()
            return None
    if in_use is None:
        return None
    if isinstance(found, Metadata):
        return Opened(found, holding, in_use)
    try:
        # Without the lock, for which others wait: with very many shards, it takes a second.
        return Opened(parse_metadata(found, str(layout.metadata)), holding, in_use)
    except MetadataError:
        in_use.release()
        with metadata_lock(layout):
            if _kept_metadata(layout) == found:
                _remove(layout.metadata)
        return None


def _agreed(
    layout: CacheLayout, source: Source, limits: Limits, failures: Failures, counters: Counters
) -> tuple[Metadata | bytes, Limits]:
    """Return metadata and limits of the directory's first user. Call under `metadata.lock`.

    The metadata is not parsed if another process has fetched it.
    """
    alone = try_exclusive(layout.in_use_lock, create=True)
    try:
        if alone is not None:
            _sweep(layout)
        metadata: Metadata | bytes | None = None if alone is not None else _kept_metadata(layout)
        if metadata is None:
            metadata = _fetch(layout, source, failures, counters)
            _remove_index_of_another(layout, metadata)
        holding = None if alone is not None else _kept_limits(layout)
        if holding is None:
            holding = limits
            _write(layout, layout.options, msgspec.json.encode(limits))
    finally:
        if alone is not None:
            alone.release()
    return metadata, holding


def _make(layout: CacheLayout) -> None:
    try:
        probe = _made(layout)
    except CachePlaceError:
        raise
    except OSError as exc:
        if is_full_disk(exc):
            raise full_disk_error(exc) from exc
        raise CachePlaceError(
            f"there can be no cache at {layout.root}: {exc}; give cache_dir= a directory on a "
            "local disk that this process may write to"
        ) from exc
    if probe is not None:
        probe.release()


def _made(layout: CacheLayout) -> Held | None:
    tries = 0
    while True:
        try:
            layout.make()
            check_place(layout.root)
            # If locks do not work at all, this fails here and not in the middle of a training run.
            return try_exclusive(layout.budget_lock, create=True)
        except (FileNotFoundError, FileExistsError):
            # The directory is being deleted: a folder that existed a moment ago is gone.
            tries += 1
            if tries >= TRIES:
                raise
            time.sleep(PAUSE_S)


def _kept_metadata(layout: CacheLayout) -> bytes | None:
    """Return the metadata that the first process fetched; None if it is gone."""
    try:
        return layout.metadata.read_bytes()
    except OSError:
        return None


def _kept_limits(layout: CacheLayout) -> Limits | None:
    try:
        return msgspec.json.decode(layout.options.read_bytes(), type=Limits)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _fetch(layout: CacheLayout, source: Source, failures: Failures, counters: Counters) -> Metadata:
    try:
        raw = _despite_full_disk(layout, lambda: source.metadata(layout, counters))
        name = f"{METADATA_FILE} of {source.place}"
        if not raw.lstrip().startswith(b"{"):  # such as the HTML of a login page
            name += f", which begins with {raw[:_SHOWN_BYTES]!r},"
        metadata = parse_metadata(raw, name)
    except Exception as error:
        failures.record(METADATA_FILE, error)
        raise
    _write(layout, layout.metadata, raw)
    failures.forget(METADATA_FILE)
    return metadata


def _write(layout: CacheLayout, path: Path, content: bytes) -> None:
    _despite_full_disk(layout, lambda: write_atomically(path, [content]))


def _despite_full_disk(layout: CacheLayout, action: Callable[[], T]) -> T:
    """Call a function that writes little; while the disk is full, evict the least recently used.

    The disk may be full only of what an earlier run has left.

    Raises:
        CacheFullError: the disk is full and nothing can be evicted.
    """

    def make_room() -> bool:
        with exclusive(layout.budget_lock):
            return any(evicted(layout, oldest_first(layout), 1))

    return despite_full_disk(action, make_room)


def _sweep(layout: CacheLayout) -> None:
    """Remove files of killed processes that would otherwise never be removed.

    Parts are kept, to be resumed or evicted, unless their shard is complete: then the process was
    killed before it removed them.
    """
    for path in layout.parts.iterdir():
        if layout.is_part(path.name) and (layout.shards / path.name).exists():
            _remove(path)
    parts = {path.name for path in layout.parts.iterdir() if layout.is_part(path.name)}
    for folder in layout.staging.iterdir():
        if folder.name not in parts:
            shutil.rmtree(folder, ignore_errors=True)
    for path in layout.parts.iterdir():
        if path.name.partition(".")[0] not in parts:
            _remove(path)
    for path in layout.failed.iterdir():
        if path.name.startswith("."):
            _remove(path)


def _remove_index_of_another(layout: CacheLayout, metadata: Metadata) -> None:
    """Remove the index of an older dataset: the budget counts it with the size of the new one."""
    with contextlib.suppress(FileNotFoundError):
        if layout.index.stat().st_size != metadata.index.bytes:
            _remove(layout.index)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _log_limits(layout: CacheLayout, wanted: Limits, holding: Limits) -> None:
    logger("cache").warning(
        "%s is in use with max_cache_bytes=%s and workers=%d, which hold for process %d too, "
        "though it was given %s and %d; the next to open the directory when nobody uses it decides",
        layout.root,
        holding.max_bytes,
        holding.workers,
        os.getpid(),
        wanted.max_bytes,
        wanted.workers,
    )
