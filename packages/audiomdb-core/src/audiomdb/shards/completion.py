"""Complete a dataset whose shards are all there: write its index and, last, its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audiomdb.shards.columns import add_up
from audiomdb.shards.dataset_index import index_file_parts
from audiomdb.shards.files import write_atomically
from audiomdb.shards.journal import Rejection, write_rejected
from audiomdb.shards.layout import FORMAT_NAME, FORMAT_VERSION, INDEX_FILE
from audiomdb.shards.metadata import Feature, IndexEntry, Metadata, ShardEntry, write_metadata
from audiomdb.shards.output import OutputFolder

__all__ = ["complete_dataset"]


def complete_dataset(
    folder: OutputFolder,
    shards: Sequence[ShardEntry],
    *,
    name: str,
    features: Mapping[str, Feature],
    processors: Sequence[str],
    rejected: Sequence[Rejection],
) -> Metadata:
    """Write the index, the rejections and, last, the metadata, which completes the dataset.

    Args:
        folder: The folder, where the shards are in their final places.
        shards: Their entries, in order.
        name: Name of the dataset.
        features: Features of all shards.
        processors: Names of the processors that were applied.
        rejected: Source samples that were not stored, in the order of the shards.

    Raises:
        OSError: when a file cannot be written. Then the folder holds no dataset, or the same one as
            before.
    """
    folder.withdraw_metadata(shards)
    parts = index_file_parts(folder.path, shards)
    size, digest = write_atomically(folder.path / INDEX_FILE, parts)
    write_rejected(folder.path, rejected)
    metadata = Metadata(
        format=FORMAT_NAME,
        format_version=FORMAT_VERSION,
        name=name,
        samples=sum(shard.samples for shard in shards),
        bytes=sum(shard.bytes for shard in shards),
        duration=add_up(shard.duration for shard in shards),
        features=dict(features),
        processors=tuple(processors),
        rejected=len(rejected),
        index=IndexEntry(INDEX_FILE, size, digest),
        shards=tuple(shards),
    )
    write_metadata(folder.path, metadata)
    return metadata
