"""Cache the shards of remote datasets on a local disk, shared by all processes of a machine.

There is no server and no state but the directory, see `layout`: what a process may do is the flock
it holds on a file, see `lock`, and ends with the process. The life of a shard, by modules:

1. A process opens the directory (`opening`, on a disk that `place` approves) and agrees with its
   other users on metadata and limits. While it uses the directory, `directory_use` restores what
   somebody deletes there. The index is kept beside the shards (`index_copy`).
2. Each iteration is a reader: it is admitted if the budget suffices for all (`admission`), and
   publishes which shards it will visit, in order (`readers`).
3. A `course` visits them, and a `prefetch` thread requests the next ones; both go through the
   `manager`, which leases a shard that is there and has `fetching` bring one that is not.
4. To fetch a shard, one process claims its part (`part_file`) and the space for it (`room`): what
   is there (`contents`) and what fits (`budget`) decide which others go (`eviction`). Then it takes
   a slot (`slots`), and others wait (`waiting`) for the shard, or for its failure (`failures`).
5. The `source` is given functions that fetch, of a retriever, and checks their `answers`. A
   `transfer` resumes and retries (`retry`); a large shard arrives in pieces (`spans`, `streams`),
   metadata in memory (`small_file`).
6. If size and sha256 are right, the part becomes a shard, otherwise it goes to quarantine. A lease
   is a shared lock, which ends with the last view of the mapped file; from then on the shard can be
   evicted, and is when `room` is needed and no shard is needed later.

`counters` count all this, and `options` limit it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.cache.answers import RemoteFile
from audiomdb.cache.counters import CacheStats
from audiomdb.cache.options import CacheOptions
from audiomdb.lazy import lazily

if TYPE_CHECKING:
    from audiomdb.cache.manager import ShardCache
    from audiomdb.cache.source import DirectorySource, RangeSource, Source
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "DirectorySource": "source",
            "RangeSource": "source",
            "ShardCache": "manager",
            "Source": "source",
        },
    )

__all__ = [
    "CacheOptions",
    "CacheStats",
    "DirectorySource",
    "RangeSource",
    "RemoteFile",
    "ShardCache",
    "Source",
]
