"""Write, read and verify datasets in the AudioMDB format, which docs/format.md specifies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.lazy import lazily
from audiomdb.shards.course import Arrival, Course
from audiomdb.shards.dataset_index import DatasetIndex
from audiomdb.shards.dataset_reader import DatasetReader, LocalShards, Shards
from audiomdb.shards.metadata import Feature, Metadata, ShardEntry, read_metadata
from audiomdb.shards.shard_reader import ShardReader

if TYPE_CHECKING:
    from audiomdb.shards.dataset_writer import DatasetWriter
    from audiomdb.shards.verify import Problem, verify_dataset
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "DatasetWriter": "dataset_writer",
            "Problem": "verify",
            "verify_dataset": "verify",
        },
    )

__all__ = [
    "Arrival",
    "Course",
    "DatasetIndex",
    "DatasetReader",
    "DatasetWriter",
    "Feature",
    "LocalShards",
    "Metadata",
    "Problem",
    "ShardEntry",
    "ShardReader",
    "Shards",
    "read_metadata",
    "verify_dataset",
]
