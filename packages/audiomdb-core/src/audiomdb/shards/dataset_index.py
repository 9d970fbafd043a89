"""The columns of a whole dataset, without its audio."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from audiomdb.errors import MetadataError, UnknownColumnError
from audiomdb.sample import KEY
from audiomdb.shards.columns import join_column
from audiomdb.shards.index import ShardIndex, parse_index
from audiomdb.shards.layout import ALIGNMENT, DATA_FILE
from audiomdb.shards.metadata import Metadata, ShardEntry

__all__ = ["DatasetIndex", "index_file_parts", "split_index_file"]


class DatasetIndex(Mapping[str, np.ndarray]):
    """Per-sample columns over all shards, by name; joined when first asked for, then kept.

    Numbers come as arrays of numbers, NaN where a sample has none; text comes as an object array
    of str and None. `"__key__"` gives the keys. Columns the library knows: `duration` (seconds),
    `sample_rate` (Hz), `channels`, `frames`, `audio_bytes`, `text_length` (characters).

    Args:
        parts: The shards' indexes, in order.
    """

    def __init__(self, parts: Sequence[ShardIndex]) -> None:
        self.parts = parts
        self._columns: dict[str, np.ndarray] = {}
        self._names = [KEY, *sorted({name for part in parts for name in part.columns})]
        self._left_out = {name: why for part in parts for name, why in part.left_out.items()}
        self._names = [name for name in self._names if name not in self._left_out]

    def __getitem__(self, name: str) -> np.ndarray:
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = self._join(name)
        return column

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def _join(self, name: str) -> np.ndarray:
        if name in self._left_out:
            raise UnknownColumnError(
                f"the index has no column {name!r}: {self._left_out[name]}. "
                "Read the field out of the samples instead"
            )
        if name not in self._names:
            raise UnknownColumnError(
                f"the index has no column {name!r}; it has {', '.join(self._names)}"
            )
        if name == KEY:
            return np.array([key for part in self.parts for key in part.all_keys()], dtype=object)
        return join_column(name, ((part.columns.get(name), part.samples) for part in self.parts))


def index_file_parts(dataset: Path, shards: Sequence[ShardEntry]) -> Iterator[bytes]:
    """What a dataset's index file holds: the index of each shard, each padded to start aligned."""
    for shard in shards:
        with (dataset / shard.path / DATA_FILE).open("rb") as file:
            index = os.pread(file.fileno(), shard.index_bytes, shard.index_offset)
        yield index + bytes(-len(index) % ALIGNMENT)


def split_index_file(data: memoryview, metadata: Metadata, name: str) -> list[ShardIndex]:
    """Parse a dataset's index file.

    Args:
        data: All of it; the results keep views.
        metadata: Of the dataset.
        name: What errors call the file.

    Raises:
        MetadataError: when the file is of another size than metadata says.
        CorruptShardError: when a part is damaged.
    """
    if len(data) != metadata.index.bytes:
        raise MetadataError(
            f"{name} has {len(data)} bytes, metadata says {metadata.index.bytes}; "
            "it is incomplete or another file"
        )
    parts, at = [], 0
    for shard in metadata.shards:
        part = parse_index(data[at : at + shard.index_bytes], f"{name}, part {shard.path}")
        if part.samples != shard.samples:
            raise MetadataError(
                f"{name}: part {shard.path} has {part.samples} samples, "
                f"metadata says {shard.samples}"
            )
        parts.append(part)
        at += shard.index_bytes + -shard.index_bytes % ALIGNMENT
    return parts
