"""Read the records of one shard, by position or key, through a mapping of its file."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from audiomdb.errors import CorruptRecordError, CorruptShardError, UnknownKeyError
from audiomdb.sample import KEY, Sample
from audiomdb.shards.codec import (
    RecordDecoder,
    decode_head,
    payload_span,
    record_decoder,
    resolve_fields,
)
from audiomdb.shards.heap import keep_memory_of_copies
from audiomdb.shards.index import parse_index
from audiomdb.shards.layout import DATA_FILE, INDEX_KEY
from audiomdb.shards.mapping import map_file, read_apart, release_pages
from audiomdb.shards.metadata import ShardEntry
from audiomdb.shards.pages import places

__all__ = ["ShardReader"]


class ShardReader:
    """The records of one shard in key order.

    Holds only a mapping: no lock, no LMDB environment. A process may have any number of readers of
    the same shard. A reader is thread-safe and works after a fork. Views that it returns keep the
    mapping alive.

    Args:
        directory: The shard's folder.
        entry: The shard's entry in the metadata, against which size and number of samples are
            checked. None: they are not checked.
        file: The shard's data.mdb, if it is elsewhere; `directory` is then only used in messages.

    Raises:
        CorruptShardError: when the file is missing, of the wrong size, or damaged.
    """

    __slots__ = ("_decoders", "_file", "_name", "directory", "index", "index_place")

    def __init__(
        self,
        directory: str | os.PathLike[str],
        entry: ShardEntry | None = None,
        *,
        file: memoryview | None = None,
    ) -> None:
        keep_memory_of_copies()
        self.directory = Path(directory)
        path = self.directory / DATA_FILE
        self._name = str(self.directory)
        self._file = map_file(path) if file is None else file
        self._decoders: tuple[list[RecordDecoder], ...] = ([], [], [], [])
        if entry is None:
            offset, length = _find_index(self._file, self._name)
        else:
            if len(self._file) != entry.bytes:
                raise CorruptShardError(
                    f"{path} has {len(self._file)} bytes, metadata says {entry.bytes}; "
                    "it is incomplete or another file: copy or download it again"
                )
            offset, length = entry.index_offset, entry.index_bytes
        self.index_place = (offset, length)
        """Offset and size of the index in the file."""
        data = self._file[offset : offset + length]
        samples = None if entry is None else entry.samples
        self.index = parse_index(data, self._name, len(self._file), samples=samples)
        """Locations of the records, and the shard's columns."""

    def __len__(self) -> int:
        return self.index.samples

    def __iter__(self) -> Iterator[Sample]:
        return self.scan()

    def find(self, key: str) -> int:
        """Return the place of a key in key order.

        Raises:
            UnknownKeyError: when the shard does not hold the key.
        """
        i = self.index.find(key)
        if i is None:
            raise UnknownKeyError(f"{self._name} has no sample {key!r}")
        return i

    def read(
        self,
        i: int,
        *,
        fields: Collection[str] | None = None,
        copy: bool = True,
        verify: bool = True,
        apart: bool = False,
    ) -> Sample:
        """Read record `i`, `0 <= i < len(self)`.

        Args:
            i: Its place in key order.
            fields: Read only these and the key; payloads of others are not touched. None: all.
            copy: Return `bytes` and writable arrays. False: read-only views into the mapping.
            verify: Check payload checksums too. The head's is always checked.
            apart: Read payloads from the file instead of through the mapping, see `read_apart`.
                Views are then into memory of their own.

        Raises:
            CorruptRecordError: names shard, place and, if it can be read, the key.
            TypeError: when `fields` is not a collection of names.
        """
        if fields is None:
            return self.whole(i, copy, verify, apart)
        if type(fields) is not frozenset:  # which loaders pass, for every sample
            _check_names(fields)
        index = self.index
        at, length = index.head_offset[i], index.head_bytes[i]
        start, size = index.payload_offset[i], index.payload_bytes[i]
        held_by = self._file
        try:
            sample = _some(held_by[at : at + length], fields)
            if apart:
                first, end = payload_span(sample, size)
                held_by, start = read_apart(held_by, start + first, end - first), -first
            resolve_fields(sample, held_by, start, size, copy, verify)
        except (CorruptRecordError, ValueError, OSError) as exc:
            raise self._damaged(i, exc) from exc
        return sample

    def whole(self, i: int, copy: bool, verify: bool, apart: bool = False) -> Sample:
        """Read all fields of record `i` as `read` does, with less overhead per call."""
        index = self.index
        start, size = index.payload_offset[i], index.payload_bytes[i]
        held_by = self._file
        decoders = self._decoders[2 * copy + verify]
        try:
            # Removed while in use, because a decoder serves one thread at a time.
            decoder = decoders.pop()
        except IndexError:
            decoder = record_decoder(held_by, copy=copy, verify=verify)
        try:
            if apart:
                held_by, start = read_apart(held_by, start, size), 0
            sample = decoder.one(index.head_offset[i], index.head_bytes[i], held_by, start, size)
        except (CorruptRecordError, ValueError, OSError) as exc:
            raise self._damaged(i, exc) from exc
        decoders.append(decoder)
        return sample

    def scan(
        self,
        *,
        fields: Collection[str] | None = None,
        copy: bool = True,
        verify: bool = True,
    ) -> Iterator[Sample]:
        """Read all records in order, faster than by `read`, with the same arguments and errors."""
        if fields is not None:
            _check_names(fields)
            return (self.read(i, fields=fields, copy=copy, verify=verify) for i in range(len(self)))
        index = self.index
        heads = index.head_offset
        places = zip(
            heads, index.head_bytes, index.payload_offset, index.payload_bytes, strict=True
        )
        return record_decoder(self._file, copy=copy, verify=verify).several(
            places, lambda at, exc: self._damaged(heads.tolist().index(at), exc)
        )

    def release_pages(self) -> None:
        """Drop the file's pages from this process's memory, see `mapping.release_pages`."""
        release_pages(self._file)

    def _damaged(self, i: int, exc: Exception) -> CorruptRecordError:
        return CorruptRecordError(f"{self._name}: record {i} {self._key(i)}: {exc}")

    def _key(self, i: int) -> str:
        try:
            return repr(self.index.key(i))
        except CorruptShardError:
            return "(its key is damaged too)"


def _find_index(file: memoryview, name: str) -> tuple[int, int]:
    """Find the offset and size of the index through LMDB's pages, without metadata."""
    try:
        for place in places(file):
            if place.key == INDEX_KEY:
                return place.offset, place.length
    except CorruptShardError as exc:
        raise CorruptShardError(f"{name}: {exc}") from exc
    raise CorruptShardError(f"{name}: an LMDB file, but it holds no AudioMDB index")


def _check_names(fields: Collection[str]) -> None:
    """Refuse a text, any part of which would count as a name, and what can be iterated only once.

    Raises:
        TypeError: it is one of these.
    """
    if isinstance(fields, str) or not hasattr(fields, "__contains__"):
        raise TypeError(f"fields is {fields!r}, expected a list of names")


def _some(head: memoryview, fields: Collection[str]) -> Sample:
    """Decode the key and the given fields of a record; payloads are not resolved yet."""
    sample = decode_head(head)
    return {name: v for name, v in sample.items() if name in fields or name == KEY}
