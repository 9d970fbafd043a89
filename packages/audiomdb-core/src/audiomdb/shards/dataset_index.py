"""The index columns of a whole dataset, read without its audio."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np

from audiomdb.errors import MetadataError, UnknownColumnError
from audiomdb.lazy import cached_property
from audiomdb.sample import KEY
from audiomdb.shards.columns import Column, join_column
from audiomdb.shards.index import ShardIndex, parse_index
from audiomdb.shards.layout import ALIGNMENT, DATA_FILE
from audiomdb.shards.mapping import release_pages
from audiomdb.shards.metadata import Metadata, ShardEntry

__all__ = ["DatasetIndex", "IndexFile", "index_file_parts"]


class DatasetIndex(Mapping[str, np.ndarray]):
    """Per-sample columns over all shards, by name; joined on first access, then kept, read-only.

    A numeric column is a numeric array, with NaN where a sample has no value; a text column is an
    object array of str and None, and so is one of integers that no numeric dtype holds together
    (such as 2**60 + 1 where another shard has no value). `"__key__"` gives the keys. Columns that
    the library adds: `duration` (seconds), `sample_rate` (Hz), `channels`, `frames`, `audio_bytes`,
    `text_length` (characters).

    Looking up a column raises CorruptShardError if a shard's index is damaged.

    Args:
        parts: The indexes of the shards, in order.
    """

    def __init__(self, parts: Sequence[ShardIndex]) -> None:
        self.parts = parts
        self._columns: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if not isinstance(name, str):
            raise TypeError(f"{name!r} names no column: index['duration'][0:2] are values of one")
        column = self._columns.get(name)
        if column is None:
            column = self._join(name)
            column.flags.writeable = False  # filters and plans are made from the same array
            self._columns[name] = column
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        return f"<DatasetIndex of {', '.join(self)}>"

    def apart(self) -> DatasetIndex:
        """Return the same index without its cache: columns joined there are freed along with it."""
        return DatasetIndex(self.parts)

    @cached_property
    def _names(self) -> list[str]:
        names, left_out = set[str](), set[str]()
        for part in self.parts:
            names.update(part.column_names)
            left_out.update(part.left_out)
        return [KEY, *sorted(names - left_out)]

    def _join(self, name: str) -> np.ndarray:
        if name == KEY:
            return np.array([key for part in self.parts for key in part.all_keys()], dtype=object)
        known = False

        def pieces() -> Iterator[tuple[Column | None, int]]:
            nonlocal known
            for part in self.parts:
                if name in part.left_out:
                    raise UnknownColumnError(
                        f"the index has no column {name!r}: {part.left_out[name]}. "
                        "Read the field out of the samples instead"
                    )
                column = part.column(name)
                known = known or column is not None
                yield column, part.samples

        joined = join_column(pieces())
        if isinstance(self.parts, IndexFile):
            self.parts.release()
        if not known:
            raise UnknownColumnError(
                f"the index has no column {name!r}; it has {', '.join(self._names)}"
            )
        return joined


def index_file_parts(dataset: Path, shards: Sequence[ShardEntry]) -> Iterator[bytes]:
    """Yield the contents of a dataset's index file: each shard's index, padded to the alignment."""
    for shard in shards:
        with (dataset / shard.path / DATA_FILE).open("rb") as file:
            index = os.pread(file.fileno(), shard.index_bytes, shard.index_offset)
        yield index + bytes(-len(index) % ALIGNMENT)


class IndexFile(Sequence[ShardIndex]):
    """A dataset's index file; each shard's index is parsed on access and not kept.

    The index of tens of thousands of shards therefore takes no memory beyond that of its columns. A
    part is checked on first access. Thread-safe.

    Args:
        data: The whole file; the parsed indexes keep views into it.
        metadata: Metadata of the dataset.
        name: Name of the file in error messages.

    Raises:
        MetadataError: when the size of the file differs from the metadata.
        CorruptShardError: on access to a part, when it is damaged or has another number of samples.
    """

    def __init__(self, data: memoryview, metadata: Metadata, name: str) -> None:
        if len(data) != metadata.index.bytes:
            raise MetadataError(
                f"{name} has {len(data)} bytes, metadata says {metadata.index.bytes}; "
                "it is incomplete or another file"
            )
        self._data, self._name = data, name
        self._shards = metadata.shards
        sizes = [shard.index_bytes for shard in self._shards[:-1]]
        self._starts = list(accumulate((size + -size % ALIGNMENT for size in sizes), initial=0))
        self._checked = bytearray(len(self._shards))

    def __len__(self) -> int:
        return len(self._shards)

    @overload
    def __getitem__(self, number: int) -> ShardIndex: ...

    @overload
    def __getitem__(self, number: slice) -> list[ShardIndex]: ...

    def __getitem__(self, number: int | slice) -> ShardIndex | list[ShardIndex]:
        if isinstance(number, slice):
            return [self[at] for at in range(len(self))[number]]
        shard, begin = self._shards[number], self._starts[number]
        name = f"{self._name}, part {shard.path}"
        data = self._data[begin : begin + shard.index_bytes]
        check = not self._checked[number]
        part = parse_index(data, name, shard.bytes, samples=shard.samples, check=check)
        self._checked[number] = 1
        return part

    def release(self) -> None:
        """Drop the file's pages from this process's resident memory, see `release_pages`."""
        release_pages(self._data)
