"""Write, read, merge and verify datasets in the AudioMDB format, which docs/format.md specifies."""

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
    from audiomdb.shards.merging import merge_datasets
    from audiomdb.shards.verify import Problem, verify_dataset
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "DatasetWriter": "dataset_writer",
            "Problem": "verify",
            "merge_datasets": "merging",
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
    "merge_datasets",
    "read_metadata",
    "verify_dataset",
]
