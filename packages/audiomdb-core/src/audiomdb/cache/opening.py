"""Opening a cache directory: what all processes that use it have to agree on."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import msgspec

from audiomdb.cache.counters import Counters
from audiomdb.cache.failures import Failures
from audiomdb.cache.full_disk import full_disk_error, is_full_disk
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import Held, try_exclusive, try_shared
from audiomdb.cache.patience import Patience
from audiomdb.cache.place import check_place
from audiomdb.cache.source import Source
from audiomdb.errors import CachePlaceError, MetadataError
from audiomdb.shards.files import write_atomically
from audiomdb.shards.layout import METADATA_FILE
from audiomdb.shards.metadata import Metadata, parse_metadata, write_metadata

__all__ = ["Limits", "Opened", "make_again", "metadata_lock", "open_cache"]


class Limits(msgspec.Struct, frozen=True):
    """What holds for a directory, whoever uses it.

    Attributes:
        max_bytes: Its budget; None has no limit.
        workers: Transfers at once.
    """

    max_bytes: int | None
    workers: int


class Opened(msgspec.Struct, frozen=True):
    """A cache directory in use.

    Attributes:
        metadata: Of the dataset.
        limits: That hold now.
        in_use: Held while this process uses the directory.
    """

    metadata: Metadata
    limits: Limits
    in_use: Held


def open_cache(
    layout: CacheLayout, source: Source, limits: Limits, failures: Failures, counters: Counters
) -> Opened:
    """Make the directory and get the dataset's metadata.

    As long as any process uses the directory, metadata and limits are those of the first of them,
    so all see the same dataset and none waits for room that another one takes for its own. The
    next first one fetches metadata anew and so notices a dataset that has changed; shards that it
    shares with the old version stay.

    Raises:
        CachePlaceError: the directory cannot be written, or is on a network file system.
        CacheFullError: the disk is full.
        DownloadError, Exception: as the source.
        DatasetError: the metadata is damaged.
    """
    _make(layout)
    known = failures.attempt(METADATA_FILE)
    with metadata_lock(layout):
        failures.raise_newer(METADATA_FILE, known)
        alone = try_exclusive(layout.in_use_lock, create=True)
        try:
            if alone is not None:
                _sweep(layout)
            metadata = None if alone is not None else _kept_metadata(layout)
            if metadata is None:
                metadata = _fetch(layout, source, failures, counters)
            holding = None if alone is not None else _kept_limits(layout)
            if holding is None:
                holding = limits
                _write(layout.options, msgspec.json.encode(limits))
        finally:
            if alone is not None:
                alone.release()
        in_use = try_shared(layout.in_use_lock)
        assert in_use is not None, "only who has metadata.lock takes in_use.lock exclusively"
    if holding != limits:
        _say_so(layout, limits, holding)
    return Opened(metadata, holding, in_use)


def make_again(layout: CacheLayout, metadata: Metadata, limits: Limits) -> None:
    """Make a directory again that somebody has deleted while it is used."""
    _make(layout)
    with metadata_lock(layout):
        if not layout.metadata.exists():
            write_metadata(layout.root, metadata)
        if not layout.options.exists():
            _write(layout.options, msgspec.json.encode(limits))


def metadata_lock(layout: CacheLayout) -> Held:
    """Wait for the right to fetch metadata or index."""
    patience = Patience(lambda: None)
    while (held := try_exclusive(layout.metadata_lock, create=True)) is None:
        if not layout.root.is_dir():
            _make(layout)
        patience.say(lambda: f"waiting for another process to fetch the metadata of {layout.root}")
        patience.wait()
    return held


def _make(layout: CacheLayout) -> None:
    try:
        layout.make()
        check_place(layout.root)
        # Where locks do not work at all, it shows here and not in the middle of a training run.
        probe = try_exclusive(layout.budget_lock, create=True)
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


def _kept_metadata(layout: CacheLayout) -> Metadata | None:
    """What the first process fetched; None where it is gone or damaged."""
    try:
        return parse_metadata(layout.metadata.read_bytes(), str(layout.metadata))
    except (OSError, MetadataError):
        return None


def _kept_limits(layout: CacheLayout) -> Limits | None:
    try:
        return msgspec.json.decode(layout.options.read_bytes(), type=Limits)
    except (OSError, msgspec.DecodeError):
        return None


def _fetch(layout: CacheLayout, source: Source, failures: Failures, counters: Counters) -> Metadata:
    try:
        raw = source.metadata(layout, counters)
        metadata = parse_metadata(raw, METADATA_FILE)
    except Exception as error:
        failures.record(METADATA_FILE, error)
        raise
    _write(layout.metadata, raw)
    failures.forget(METADATA_FILE)
    return metadata


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, [content])
    except OSError as exc:
        if is_full_disk(exc):
            raise full_disk_error(exc) from exc
        raise


def _sweep(layout: CacheLayout) -> None:
    """Clear away what killed processes have left and nothing else would ever come across.

    Parts stay, to be resumed or to go when room is needed, unless their shard is there: then they
    are what was not cleared away at the very end.
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


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _say_so(layout: CacheLayout, wanted: Limits, holding: Limits) -> None:
    import logging

    logging.getLogger("audiomdb.cache").warning(
        "%s is in use with max_cache_bytes=%s and workers=%d, which hold for process %d too, "
        "though it was given %s and %d; the next to open the directory when nobody uses it decides",
        layout.root,
        holding.max_bytes,
        holding.workers,
        os.getpid(),
        wanted.max_bytes,
        wanted.workers,
    )
