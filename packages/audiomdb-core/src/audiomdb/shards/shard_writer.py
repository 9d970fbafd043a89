"""Write one shard as an LMDB environment whose bytes are a pure function of its records."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
import numpy as np

from audiomdb.errors import DuplicateKeyError
from audiomdb.shards.codec import EncodedRecord, pack_head
from audiomdb.shards.index import encode_index
from audiomdb.shards.layout import (
    ALIGNMENT,
    BLOCK_BYTES,
    BLOCKS_DB,
    DATA_FILE,
    INDEX_KEY,
    LOCK_FILE,
    SAMPLES_DB,
)
from audiomdb.shards.mapping import map_file
from audiomdb.shards.packing import Buffer
from audiomdb.shards.pages import places

__all__ = ["ShardWriter"]

# Commits affect the file's bytes, so they must depend on the data only, never on memory or time.
# LMDB keeps a copy of all data until it is committed (docs/decisions/0019).
_COMMIT_BYTES = 4 * 1024 * 1024
_MAP_BYTES = 1024 * 1024 * 1024
_ENTRY_OVERHEAD = 64
_SLACK_BYTES = 4 * 1024 * 1024


class ShardWriter:
    """Writes the records of one shard into a new directory.

    Payloads are written as they come, in blocks; heads are kept in memory (some hundred bytes per
    record) and written in key order by `finish`. Must be used by one thread at a time.

    If the disk is full or fails, the methods raise the original OSError or lmdb.Error.

    Args:
        directory: Created here; must not exist.
        map_size: Initial LMDB map size in bytes; it is doubled when it fills up.
        on_commit: Called with the path of the file after each commit of some MiB.
    """

    def __init__(
        self,
        directory: Path,
        *,
        map_size: int | None = None,
        on_commit: Callable[[Path], object] | None = None,
    ) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._on_commit = on_commit
        self._map_bytes = max(map_size or _MAP_BYTES, _SLACK_BYTES)
        self._env = _open(directory, self._map_bytes)
        self._blocks_db = self._env.open_db(BLOCKS_DB)
        self._samples_db = self._env.open_db(SAMPLES_DB)
        self._transaction: lmdb.Transaction | None = None
        self._uncommitted = 0
        self._block: list[Buffer] = []
        self._block_bytes = 0
        self._blocks = 0
        self._records: dict[bytes, tuple[bytes, int, int, int]] = {}

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, record: EncodedRecord) -> None:
        """Add one record.

        Raises:
            DuplicateKeyError: when the shard already holds the key.
        """
        if record.key in self._records:
            raise DuplicateKeyError(f"key {record.key.decode()!r} occurs twice")
        place = (0, 0)
        if record.payloads:
            place = self._place(record)
        self._records[record.key] = (record.body, *place, record.payload_bytes)

    def drop(self, key: bytes) -> None:
        """Remove a record; its payloads remain in their block as unused bytes."""
        del self._records[key]

    def finish(
        self,
        *,
        columns: Mapping[str, Any],
        left_out: Mapping[str, str],
        features: Mapping[str, Any],
        journal: Mapping[str, Any],
    ) -> None:
        """Write heads and index, and close the file. `columns` must be in key order."""
        self._end_block()
        keys = sorted(self._records)
        for key in keys:
            body, block, offset, _ = self._records[key]
            self._put(self._samples_db, key, pack_head(body, block, offset))
        self._commit()
        heads, payloads = self._find(keys)
        index = encode_index(
            keys=keys,
            heads=heads,
            payloads=payloads,
            columns=columns,
            left_out=left_out,
            features=features,
            journal=journal,
        )
        self._put(None, INDEX_KEY, index)
        self._commit()
        self.close()
        # Part of the format, for other LMDB tools; LMDB needs none and our readers never use it.
        (self._directory / LOCK_FILE).touch()

    def close(self) -> None:
        """Close the file without finishing the shard. Harmless after `finish`."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None
        self._env.close()

    def _place(self, record: EncodedRecord) -> tuple[int, int]:
        gap = -self._block_bytes % ALIGNMENT
        if self._block and self._block_bytes + gap + record.payload_bytes > BLOCK_BYTES:
            self._end_block()
            gap = 0
        if gap:
            self._block.append(bytes(gap))
        offset = self._block_bytes + gap
        self._block.extend(record.payloads)
        self._block_bytes = offset + record.payload_bytes
        return self._blocks, offset

    def _end_block(self) -> None:
        if not self._block:
            return
        # A payload that is alone in its block is passed to LMDB without a copy.
        data = self._block[0] if len(self._block) == 1 else b"".join(self._block)
        self._put(self._blocks_db, self._blocks.to_bytes(4, "big"), data)
        self._blocks += 1
        self._block, self._block_bytes = [], 0

    def _put(self, database: Any, key: bytes, value: Buffer) -> None:  # noqa: ANN401
        size = len(value) + _ENTRY_OVERHEAD
        if self._uncommitted and self._uncommitted + size > _COMMIT_BYTES:
            self._commit()
            if self._on_commit is not None:
                self._on_commit(self._directory / DATA_FILE)
        if self._transaction is None:
            self._make_room(size)
            self._transaction = self._env.begin(write=True)
        if database is None:
            self._transaction.put(key, value)
        else:
            self._transaction.put(key, value, append=True, db=database)
        self._uncommitted += size

    def _make_room(self, size: int) -> None:
        used = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        while used + max(size, _COMMIT_BYTES) * 2 + _SLACK_BYTES > self._map_bytes:
            self._map_bytes *= 2
            self._env.set_mapsize(self._map_bytes)

    def _commit(self) -> None:
        if self._transaction is not None:
            self._transaction.commit()
            self._transaction = None
            self._uncommitted = 0

    def _find(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return offset and size of all heads and payloads, which later commits never move."""
        heads = np.zeros((len(keys), 2), np.uint64)
        payloads = np.zeros((len(keys), 2), np.uint64)
        file = map_file(self._directory / DATA_FILE)
        blocks = [place.offset for place in places(file, BLOCKS_DB)]
        for i, place in enumerate(places(file, SAMPLES_DB)):
            heads[i] = place.offset, place.length
        for i, key in enumerate(keys):
            _, block, offset, length = self._records[key]
            if length:
                payloads[i] = blocks[block] + offset, length
        return heads, payloads


def _open(directory: Path, map_bytes: int) -> lmdb.Environment:
    options: dict[str, Any] = {
        "map_size": map_bytes,
        "max_dbs": 4,
        "lock": False,  # no other process uses the directory yet
        "sync": False,  # the whole directory is synced once, before it gets its final name
        "metasync": False,
        "meminit": True,  # unused bytes are zero, not whatever memory held
        "writemap": False,  # so that a full disk raises an error, not SIGBUS
    }
    # Since 3.0 py-lmdb bundles two engines, and an environment variable can select one. Datasets
    # always use the 0.9 format, which every release reads.
    if int(lmdb.__version__.split(".")[0]) >= 3:
        options["lib_version"] = 0
    return lmdb.open(os.fsencode(directory), **options)  # a path may have no UTF-8 form
