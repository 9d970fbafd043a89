"""Opening a cache directory: the metadata, fetched once for all processes that use it."""

from __future__ import annotations

import shutil
import time

import msgspec

from audiomdb.cache.counters import Counters
from audiomdb.cache.failures import Failures
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import Held, try_exclusive, try_shared
from audiomdb.cache.place import check_place
from audiomdb.cache.source import Source
from audiomdb.shards.files import write_atomically
from audiomdb.shards.layout import METADATA_FILE
from audiomdb.shards.metadata import Metadata, parse_metadata

__all__ = ["Opened", "open_metadata"]

_WAIT_S = 0.01


class Opened(msgspec.Struct, frozen=True):
    """A cache directory in use.

    Attributes:
        metadata: Of the dataset.
        in_use: Held while this process uses the directory.
    """

    metadata: Metadata
    in_use: Held


def open_metadata(
    layout: CacheLayout, source: Source, failures: Failures, counters: Counters
) -> Opened:
    """Make the directory and get the dataset's metadata.

    As long as any process uses the directory, the metadata is the one that the first of them
    fetched, so all see the same dataset. The next first one fetches it anew and so notices a
    dataset that has changed; shards that it shares with the old version stay.

    Raises:
        CachePlaceError: the directory is on a network file system.
        DownloadError, Exception: as the source.
        DatasetError: the metadata is damaged.
    """
    layout.make()
    check_place(layout.root)
    known = failures.attempt(METADATA_FILE)
    while (lock := try_exclusive(layout.metadata_lock, create=True)) is None:
        time.sleep(_WAIT_S)
    with lock:
        failures.raise_newer(METADATA_FILE, known)
        alone = try_exclusive(layout.in_use_lock, create=True)
        try:
            if alone is not None or not layout.metadata.exists():
                _fetch(layout, source, failures, counters)
        finally:
            if alone is not None:
                alone.release()
        metadata = parse_metadata(layout.metadata.read_bytes(), str(layout.metadata))
        in_use = try_shared(layout.in_use_lock)
        assert in_use is not None, "only who has metadata.lock takes in_use.lock exclusively"
    return Opened(metadata, in_use)


def _fetch(layout: CacheLayout, source: Source, failures: Failures, counters: Counters) -> None:
    try:
        for left in layout.staging.glob("metadata-*"):
            shutil.rmtree(left, ignore_errors=True)
        raw = source.metadata(layout, counters)
        parse_metadata(raw, METADATA_FILE)
    except Exception as error:
        failures.record(METADATA_FILE, error)
        raise
    write_atomically(layout.metadata, [raw])
    failures.forget(METADATA_FILE)
