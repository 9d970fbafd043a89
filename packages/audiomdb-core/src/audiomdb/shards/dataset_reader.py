"""Reading a dataset by position or key, across its shards."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import accumulate
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Any

from audiomdb.errors import UnknownKeyError
from audiomdb.sample import Sample
from audiomdb.shards.course import Arrival, Course
from audiomdb.shards.dataset_index import DatasetIndex, IndexFile
from audiomdb.shards.index import ShardIndex
from audiomdb.shards.layout import INDEX_FILE
from audiomdb.shards.mapping import map_file
from audiomdb.shards.metadata import Metadata, read_metadata
from audiomdb.shards.open_shards import OpenShards
from audiomdb.shards.shard_reader import ShardReader
from audiomdb.urls import folder_path

__all__ = ["DatasetReader", "LocalShards", "Shards", "whole_position"]

_open_shards = OpenShards()


class Shards(ABC):
    """Where a reader gets shards from. Picklable; called from several threads."""

    @property
    def max_open(self) -> int:
        """Shards that a reader keeps open at most; see also `OpenShards`."""
        return 128

    @property
    def index_first(self) -> bool:
        """Whether keys are looked up in the index, because opening a shard may take a download."""
        return False

    def follow(
        self,
        reader: DatasetReader,  # noqa: ARG002
        at_once: int,  # noqa: ARG002
        workers: int,  # noqa: ARG002
        ranks: int,  # noqa: ARG002
    ) -> Course | None:
        """Follow an iteration over `reader` that mixes `at_once` shards at a time.

        So do `workers` processes side by side, this one among them, of each of `ranks` that are
        known to be on this machine.

        None: it makes no difference in which order shards are read.
        """
        return None

    @abstractmethod
    def open(self, number: int) -> ShardReader:
        """Open shard `number`."""

    def arrival(self, number: int) -> Arrival | None:  # noqa: ARG002
        """How much of a shard is there; None where shards do not arrive."""
        return None

    def index(self, metadata: Metadata) -> DatasetIndex:
        """The columns of all shards; here gathered from the shards themselves."""
        return DatasetIndex([self.open(number).index for number in range(len(metadata.shards))])


class LocalShards(Shards):
    """Shards of a dataset in a folder, read in place.

    Args:
        path: The folder.
        metadata: What its metadata.json says.
    """

    def __init__(self, path: Path, metadata: Metadata) -> None:
        self.path = path
        self.metadata = metadata

    def open(self, number: int) -> ShardReader:
        """Map shard `number`."""
        entry = self.metadata.shards[number]
        return ShardReader(self.path / entry.path, entry)

    def index(self, metadata: Metadata) -> DatasetIndex:
        """The columns, out of the folder's index file."""
        path = self.path / INDEX_FILE
        return DatasetIndex(IndexFile(map_file(path), metadata, str(path)))


class DatasetReader:
    """All samples of a dataset, in order of shard and key.

        reader = DatasetReader.open("speech")
        reader[0], reader[-1], reader["clip-0"], len(reader), reader.index["duration"]

    A shard is opened when first needed, so that opening a dataset costs one small file whatever
    its size. Threads may share a reader; it may be used on both sides of a fork, and pickled.

    Args:
        metadata: Of the dataset.
        shards: Opens its shards; as many as it says are kept open.
    """

    def __init__(self, metadata: Metadata, shards: Shards) -> None:
        self.metadata = metadata
        self._source = shards
        *self._starts, self._size = accumulate(self.counts, initial=0)
        # A plain dict and no lock: a lock held by some thread during a fork stays locked for ever
        # in the child, while two threads opening one shard at once do no harm.
        self._open: dict[int, ShardReader] = {}
        _open_shards.enter(self)
        self._kept: dict[int, list[ShardReader]] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> DatasetReader:
        """Open a dataset in a folder.

        Raises:
            DatasetNotFoundError: when there is none.
            MetadataError: when its metadata is damaged.
            FormatVersionError: when a newer library wrote it.
            InvalidURLError: when the path is a URL.
        """
        folder = folder_path(path, instead="audiomdb.stream.open_dataset takes URLs")
        metadata = read_metadata(folder)
        return cls(metadata, LocalShards(folder, metadata))

    def __repr__(self) -> str:
        shards = len(self.metadata.shards)
        return f"<DatasetReader {self.metadata.name!r}: {self._size} samples, {shards} shards>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.metadata, self._source)

    def __enter__(self) -> DatasetReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sample]:
        return self.scan()

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    def __getitem__(self, which: int | str) -> Sample:
        return self.read(which)

    @cached_property
    def index(self) -> DatasetIndex:
        """Per-sample columns, without audio."""
        return self._source.index(self.metadata)

    @property
    def counts(self) -> list[int]:
        """Samples of each shard."""
        return [shard.samples for shard in self.metadata.shards]

    def read(
        self,
        which: int | str,
        *,
        fields: Collection[str] | None = None,
        copy: bool = True,
        verify: bool = True,
    ) -> Sample:
        """Read one sample; its key is in the field `__key__`.

        Args:
            which: Position, negative from the end, or key.
            fields: Only these (and the key); audio is not touched unless it is among them.
            copy: Return `bytes` and writable arrays. False: read-only views, which stay valid
                whatever happens to reader and file.
            verify: Check payload checksums. The checksum of small fields is always checked.

        Raises:
            IndexError: for a position outside the dataset.
            UnknownKeyError: for a key that is not in it.
            CorruptShardError: when the shard is missing, incomplete or damaged.
            CorruptRecordError: when the record is damaged.
        """
        # What `locate` would say, spelled out where it is nearly always the same: a call less.
        if type(which) is int and 0 <= which < self._size:
            number = bisect_right(self._starts, which) - 1
            place = which - self._starts[number]
        else:
            number, place = self.locate(self.position(which) if isinstance(which, str) else which)
        shard = self._open.get(number)
        if shard is None:
            shard = self.shard(number)
        if fields is None:
            return shard.whole(place, copy, verify)
        return shard.read(place, fields=fields, copy=copy, verify=verify)

    def scan(
        self,
        *,
        fields: Collection[str] | None = None,
        copy: bool = True,
        verify: bool = True,
    ) -> Iterator[Sample]:
        """Read all samples in order, faster than one by one. Arguments as for `read`."""
        for number in range(len(self._starts)):
            yield from self.shard(number).scan(fields=fields, copy=copy, verify=verify)

    def locate(self, position: int) -> tuple[int, int]:
        """Shard and place in the shard of a position.

        Raises:
            IndexError: for a position outside the dataset.
        """
        if type(position) is not int:
            position = whole_position(position)
        at = position + self._size if position < 0 else position
        if not 0 <= at < self._size:
            raise IndexError(f"position {position} is outside a dataset of {self._size} samples")
        shard = bisect_right(self._starts, at) - 1
        return shard, at - self._starts[shard]

    def position(self, key: str) -> int:
        """Position of a key.

        Raises:
            UnknownKeyError: when no sample has it.
        """
        found = self._find(key)
        if found is None:
            raise UnknownKeyError(
                f"no sample {key!r} in dataset {self.metadata.name!r} of {len(self)} samples"
            )
        return found

    def key(self, position: int) -> str:
        """Key of a position, without reading the sample."""
        shard, place = self.locate(position)
        return self._index_of(shard).key(place)

    def keys(self) -> Iterator[str]:
        """All keys, in order of position."""
        for number in range(len(self._starts)):
            yield from self._index_of(number).all_keys()

    def shard(self, number: int) -> ShardReader:
        """The reader of a shard."""
        reader = self.opened(number)
        if reader is None:
            # Before opening: a shard that is let go of may make room for the next.
            while len(self._open) >= self._source.max_open:
                self.let_one_go()
            _open_shards.make_way()
            reader = self._open[number] = self._source.open(number)
        return reader

    def opened(self, number: int) -> ShardReader | None:
        """The reader of a shard if it is open."""
        kept = self._kept.get(number)
        if kept:
            # A slice, because another thread may drop the last one meanwhile.
            for shard in kept[-1:]:
                return shard
        return self._open.get(number)

    def keep(self, number: int, shard: ShardReader) -> None:
        """Keep a shard open, whatever else is opened, until `drop` was called as often."""
        self._kept.setdefault(number, []).append(shard)

    def drop(self, number: int) -> None:
        """Keep a shard once less."""
        if kept := self._kept.get(number):
            kept.pop()

    @property
    def follows(self) -> bool:
        """Whether `follow` has an effect."""
        return type(self._source).follow is not Shards.follow

    def follow(self, at_once: int, *, workers: int = 1, ranks: int = 1) -> Course | None:
        """Begin an iteration that mixes `at_once` shards at a time; see `Course`.

        So do `workers` processes side by side, this one among them, of each of `ranks` that are
        known to be on this machine.

        None: it makes no difference in which order shards are read.
        """
        return self._source.follow(self, at_once, workers, ranks)

    def arrival(self, number: int) -> Arrival | None:
        """How much of a shard is there, while it is waited for; None where shards do not arrive."""
        return self._source.arrival(number)

    @property
    def open_shards(self) -> int:
        """How many shards are open only for the next read to be faster."""
        return len(self._open)

    def let_one_go(self) -> None:
        """Let go of the one of those that was opened first."""
        self._open.pop(next(iter(tuple(self._open)), -1), None)

    def relent(self) -> None:
        """Let go of all of those."""
        self._open.clear()

    def close(self) -> None:
        """Let go of all shards. Views handed out stay valid; reading opens shards again."""
        self._open.clear()
        self._kept.clear()

    def _find(self, key: str) -> int | None:
        for number, entry in enumerate(self.metadata.shards):
            if entry.samples and entry.first_key <= key <= entry.last_key:
                place = self._index_of(number).find(key)
                if place is not None:
                    return place + self._starts[number]
        return None

    def _index_of(self, number: int) -> ShardIndex:
        opened = self.opened(number)
        if opened is None and self._source.index_first:
            return self.index.parts[number]
        return self.shard(number).index if opened is None else opened.index


def whole_position(position: Any) -> int:  # noqa: ANN401
    """A position as an int, whatever class of whole number it is of.

    Raises:
        TypeError: it is no whole number.
    """
    try:
        return index(position)
    except TypeError:
        raise TypeError(
            f"{position!r} is neither a position nor a key; samples are read one by one"
        ) from None
