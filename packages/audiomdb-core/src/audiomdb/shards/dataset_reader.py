"""Read the samples of a dataset by position or key, across its shards."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Iterator
from itertools import accumulate
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from audiomdb.errors import CorruptShardError, UnknownKeyError
from audiomdb.lazy import cached_property
from audiomdb.sample import Sample
from audiomdb.shards.course import Arrival, Course
from audiomdb.shards.dataset_index import DatasetIndex, IndexFile
from audiomdb.shards.files import FileVersion, version_of
from audiomdb.shards.index import ShardIndex
from audiomdb.shards.layout import INDEX_FILE, METADATA_FILE
from audiomdb.shards.mapping import map_file
from audiomdb.shards.metadata import Metadata, read_metadata
from audiomdb.shards.open_shards import OpenShards
from audiomdb.shards.shard_reader import ShardReader
from audiomdb.urls import folder_path

__all__ = ["DatasetReader", "LocalShards", "Shards", "whole_position"]

_open_shards = OpenShards()


class Shards(ABC):
    """The source of a reader's shards. Picklable; called from several threads."""

    cached: ClassVar[bool] = False
    """Whether the shards come through a cache."""

    def close(self) -> None:  # noqa: B027
        """Release what all readers of these shards share; by default nothing."""

    def attach(self, reader: DatasetReader) -> None:  # noqa: B027
        """Note that a reader of these shards has been made; by default nothing is done."""

    @property
    def max_open(self) -> int:
        """Maximum number of shards that a reader keeps open; see also `OpenShards`."""
        return 128

    @property
    def index_first(self) -> bool:
        """Whether to look up keys in the index file, because opening a shard costs more."""
        return False

    def follow(
        self,
        reader: DatasetReader,  # noqa: ARG002
        at_once: int,  # noqa: ARG002
        workers: int,  # noqa: ARG002
    ) -> Course | None:
        """Begin to follow an iteration over `reader` that mixes `at_once` shards at a time.

        It is one of `workers` processes that iterate in this way.

        Returns None if the order in which shards are read makes no difference.
        """
        return None

    @abstractmethod
    def open(self, number: int) -> ShardReader:
        """Open shard `number`."""

    def arrival(self, number: int) -> Arrival | None:  # noqa: ARG002
        """Return how much of a shard has arrived; None if shards are not downloaded."""
        return None

    def index(self, metadata: Metadata) -> DatasetIndex:
        """Return the columns of all shards; by default gathered from the shards themselves."""
        return DatasetIndex([self.open(number).index for number in range(len(metadata.shards))])


class LocalShards(Shards):
    """The shards of a dataset in a local folder, read in place.

    Args:
        path: Folder of the dataset.
        metadata: Contents of its metadata.json.
        version: Version of that file before it was read. None: it is read again when the first
            shard is opened.
    """

    def __init__(
        self, path: Path, metadata: Metadata, *, version: FileVersion | None = None
    ) -> None:
        self.path = path
        self.metadata = metadata
        self._version = version

    @property
    def index_first(self) -> bool:
        """Whether the shards are more than stay open: a key may be in any of them."""
        return len(self.metadata.shards) > self.max_open

    def open(self, number: int) -> ShardReader:
        """Map shard `number`.

        Raises:
            CorruptShardError: the shard is damaged, or another dataset is in the folder now.
        """
        entry = self.metadata.shards[number]
        shard = ShardReader(self.path / entry.path, entry)
        self._refuse_another()
        return shard

    def index(self, metadata: Metadata) -> DatasetIndex:
        """Return the columns from the folder's index file."""
        path = self.path / INDEX_FILE
        file = map_file(path)
        self._refuse_another()
        return DatasetIndex(IndexFile(file, metadata, str(path)))

    def _refuse_another(self) -> None:
        """Refuse a file if a dataset other than the opened one may have been there by then.

        Called once the file is mapped: replacing a dataset begins with deleting metadata.json and
        ends with writing the new one, and never changes a file in place.
        """
        path = self.path / METADATA_FILE
        version = version_of(path)
        if version == self._version is not None:
            return
        if version is None or read_metadata(self.path) != self.metadata:
            raise CorruptShardError(
                f"the dataset in {self.path} is being replaced, or was replaced or deleted since "
                "it was opened: open it again"
            )
        self._version = version


class DatasetReader:
    """The samples of a dataset, ordered by shard and, within a shard, by key.

        reader = DatasetReader.open("speech")
        reader[0], reader[-1], reader["clip-0"], len(reader), reader.index["duration"]

    A shard is opened when first needed, so that opening a dataset reads one small file, whatever
    the size of the dataset. A reader is thread-safe and picklable, and may be used on both sides of
    a fork.

    Args:
        metadata: Metadata of the dataset.
        shards: Opens its shards; at most `shards.max_open` are kept open.
    """

    def __init__(self, metadata: Metadata, shards: Shards) -> None:
        self.metadata = metadata
        self._source = shards
        *self._starts, self._size = accumulate(self.counts, initial=0)
        # A plain dict without a lock: a lock that a thread holds during a fork stays locked for
        # ever in the child, while two threads that open the same shard at once do no harm.
        self._open: dict[int, ShardReader] = {}
        _open_shards.enter(self)
        self._kept: dict[int, list[ShardReader]] = {}
        shards.attach(self)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> DatasetReader:
        """Open a dataset in a local folder.

        Raises:
            DatasetNotFoundError: when there is no dataset.
            MetadataError: when its metadata is damaged.
            FormatVersionError: when a newer library wrote it.
            InvalidURLError: when the path is a URL.
        """
        # Absolute, because shards are opened later: the working directory may be another by then.
        folder = folder_path(path, instead="audiomdb.stream.open_dataset takes URLs").absolute()
        version = version_of(folder / METADATA_FILE)
        metadata = read_metadata(folder)
        return cls(metadata, LocalShards(folder, metadata, version=version))

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
        """Per-sample columns, read without any audio."""
        return self._source.index(self.metadata)

    @property
    def source(self) -> Shards:
        """The source of its shards."""
        return self._source

    @property
    def counts(self) -> list[int]:
        """Number of samples in each shard."""
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
            which: Position (negative: from the end) or key.
            fields: Read only these and the key; audio is not touched unless it is among them.
            copy: Return `bytes` and writable arrays. False: read-only views, which stay valid
                even if the reader is closed or the file deleted.
            verify: Check payload checksums. The checksum of small fields is always checked.

        Raises:
            IndexError: for a position outside the dataset.
            UnknownKeyError: for a key that is not in the dataset.
            UnknownColumnError: for a field that no sample has.
            CorruptShardError: when the shard is missing, incomplete or damaged.
            CorruptRecordError: when the record is damaged.
        """
        # `locate`, inlined for the usual case to save a call.
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
        sample = shard.read(place, fields=fields, copy=copy, verify=verify)
        if len(sample) <= len(fields):  # a field is missing: here, or in all samples
            self.metadata.check_fields(fields)
        return sample

    def scan(
        self,
        *,
        fields: Collection[str] | None = None,
        copy: bool = True,
        verify: bool = True,
    ) -> Iterator[Sample]:
        """Read all samples in order, faster than by `read`, which has the same arguments."""
        for number in range(len(self._starts)):
            samples = self.shard(number).scan(fields=fields, copy=copy, verify=verify)
            if number == 0 and fields is not None:
                self.metadata.check_fields(fields)
            yield from samples

    def locate(self, position: int) -> tuple[int, int]:
        """Return the shard number of a position, and the place within that shard.

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
        """Return the position of a key.

        Raises:
            UnknownKeyError: when no sample has this key.
            TypeError: when it is not text.
        """
        if not isinstance(key, str):
            raise TypeError(f"a key is text, not {key!r:.80}; positions are read as they are")
        found = self._find(key)
        if found is None:
            raise UnknownKeyError(
                f"no sample {key!r} in dataset {self.metadata.name!r} of {len(self)} samples"
            )
        return found

    def key(self, position: int) -> str:
        """Return the key at a position, without reading the sample."""
        shard, place = self.locate(position)
        return self._index_of(shard).key(place)

    def keys(self) -> Iterator[str]:
        """Yield all keys, in order of position."""
        for number in range(len(self._starts)):
            yield from self._index_of(number).all_keys()

    def shard(self, number: int) -> ShardReader:
        """Return the reader of a shard, which is opened if necessary.

        Raises:
            IndexError: there is no such shard.
        """
        reader = self.opened(number)
        if reader is None:
            if not 0 <= number < len(self._starts):
                raise IndexError(f"shard {number} is outside of {len(self._starts)} shards")
            # Close shards first: a closed shard can be evicted to make room for the next one.
            while len(self._open) >= self._source.max_open:
                self.close_oldest()
            _open_shards.make_room()
            reader = self._open[number] = self._source.open(number)
        return reader

    def opened(self, number: int) -> ShardReader | None:
        """Return the reader of a shard if it is open, otherwise None."""
        kept = self._kept.get(number)
        if kept:
            # A slice, because another thread may drop the last one in the meantime.
            for shard in kept[-1:]:
                return shard
        return self._open.get(number)

    def keep(self, number: int, shard: ShardReader) -> None:
        """Keep a shard open regardless of `max_open`, until `drop` has been called as often."""
        self._kept.setdefault(number, []).append(shard)

    def drop(self, number: int) -> None:
        """Undo one call of `keep`."""
        if kept := self._kept.get(number):
            kept.pop()

    @property
    def follows(self) -> bool:
        """Whether `follow` has an effect."""
        return type(self._source).follow is not Shards.follow

    def follow(self, at_once: int, *, workers: int = 1) -> Course | None:
        """Begin to follow an iteration that mixes `at_once` shards at a time; see `Course`.

        It is one of `workers` processes that iterate in this way.

        Returns None if the order in which shards are read makes no difference.
        """
        return self._source.follow(self, at_once, workers)

    def arrival(self, number: int) -> Arrival | None:
        """Return how much of a shard has arrived; None if shards are not downloaded."""
        return self._source.arrival(number)

    @property
    def open_shards(self) -> int:
        """Number of shards kept open only to make later reads faster (those of `keep` excluded)."""
        return len(self._open)

    def close_oldest(self) -> None:
        """Close the shard of `open_shards` that was opened first."""
        self._open.pop(next(iter(tuple(self._open)), -1), None)

    def close_idle(self) -> None:
        """Close all shards of `open_shards`."""
        self._open.clear()

    def close(self) -> None:
        """Close all shards. Existing views stay valid, and a later read opens shards again."""
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
    """Convert a position of any integer type to int.

    Raises:
        TypeError: when it is not an integer.
    """
    try:
        return index(position)
    except TypeError:
        raise TypeError(
            f"{position!r} is neither a position nor a key; samples are read one by one"
        ) from None
