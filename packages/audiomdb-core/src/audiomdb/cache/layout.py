"""Where things lie in a cache directory.

    metadata.json  index.bin    of the dataset, whole or absent
    shards/00007-1a2b3c4d5e6f   whole, verified, never changed: a shared flock on it is a lease
    parts/00007-1a2b3c4d5e6f    being fetched: the exclusive flock on it is the right to fetch;
                                counts with the shard's full size from its creation
    parts/00007-....validator   what the store called the version that the part is of
    parts/00007-....spans       which bytes of it are there, where it came in several pieces
    staging/00007-1a2b3c4d5e6f/ with the folder where a `download_shard` writes; belongs to the
                                part's owner
    quarantine/00007-...        arrived damaged; kept to be looked at while there is room
    failed/00007-...            the last failure, for those who waited
    failed/store                the store has failed somebody for good, lately
    readers/1234-deadbeef       flocked by its process: what it needs at once and reads next
    slots/0 .. k-1              flocked during a transfer, so that k is the node's limit
    slots/lacking.*             flocked by somebody who lacks a slot: nobody takes a second one
    options.json                of the first process that uses the directory, for all who join it
    budget.lock  metadata.lock  index.lock  in_use.lock  demand.lock

The directory is all the state there is; `tenancy` has what becomes of those who use it when
somebody deletes it. Rights are flocks, which the kernel takes back when a process dies, however it
dies. Names carry the content's digest, so that shards of an older version
of the dataset are never taken for the new ones.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from audiomdb.shards.layout import INDEX_FILE, METADATA_FILE
from audiomdb.shards.metadata import ShardEntry

__all__ = ["CacheLayout", "entry_name"]

_DIGEST_DIGITS = 12
_VALIDATOR, _SPANS = ".validator", ".spans"
_FOLDERS = ("shards", "parts", "staging", "quarantine", "failed", "readers", "slots")
_OPTIONS, _IN_USE = "options.json", "in_use.lock"


def entry_name(number: int, entry: ShardEntry) -> str:
    """Name of a shard in the cache."""
    return f"{number:05d}-{entry.sha256[:_DIGEST_DIGITS]}"


class CacheLayout(msgspec.Struct, frozen=True):
    """The paths of one cache directory."""

    root: Path

    def make(self) -> None:
        """Make the directory and its folders."""
        for folder in _FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def has_folders(self) -> bool:
        """Whether the directory and its folders are there."""
        return self._names().issuperset(_FOLDERS)

    def is_whole(self) -> bool:
        """Whether all is there that is there from the opening of the directory on."""
        return self._names().issuperset((*_FOLDERS, METADATA_FILE, _OPTIONS, _IN_USE))

    def _names(self) -> set[str]:
        try:
            with os.scandir(self.root) as entries:
                return {entry.name for entry in entries}
        except FileNotFoundError:
            return set()

    @property
    def metadata(self) -> Path:
        """The dataset's metadata."""
        return self.root / METADATA_FILE

    @property
    def index(self) -> Path:
        """The dataset's index file."""
        return self.root / INDEX_FILE

    @property
    def options(self) -> Path:
        """The limits that hold while any process uses the directory."""
        return self.root / _OPTIONS

    @property
    def budget_lock(self) -> Path:
        """Exclusive, for milliseconds, around every change of what counts."""
        return self.root / "budget.lock"

    @property
    def metadata_lock(self) -> Path:
        """Exclusive while the metadata is fetched."""
        return self.root / "metadata.lock"

    @property
    def index_lock(self) -> Path:
        """Exclusive while the index is fetched, which may take as long as a shard."""
        return self.root / "index.lock"

    @property
    def in_use_lock(self) -> Path:
        """Shared by every process that uses the directory."""
        return self.root / _IN_USE

    @property
    def demand_lock(self) -> Path:
        """Shared by readers that wait for room: prefetching stands back."""
        return self.root / "demand.lock"

    @property
    def shards(self) -> Path:
        """Folder of whole shards."""
        return self.root / "shards"

    @property
    def parts(self) -> Path:
        """Folder of shards on their way."""
        return self.root / "parts"

    @property
    def staging(self) -> Path:
        """Folder of private folders for `download_*` methods."""
        return self.root / "staging"

    @property
    def quarantine(self) -> Path:
        """Folder of what arrived damaged."""
        return self.root / "quarantine"

    @property
    def failed(self) -> Path:
        """Folder of notes about failures."""
        return self.root / "failed"

    @property
    def outage(self) -> Path:
        """Sign that the store has failed a reader for good."""
        return self.failed / "store"

    @property
    def readers(self) -> Path:
        """Folder of readers' notes."""
        return self.root / "readers"

    @property
    def slots(self) -> Path:
        """Folder of transfer slots."""
        return self.root / "slots"

    def validator(self, name: str) -> Path:
        """File with the validator of a part."""
        return self.parts / f"{name}{_VALIDATOR}"

    def spans(self, name: str) -> Path:
        """File that says which bytes of a part are there; without it, all up to its end."""
        return self.parts / f"{name}{_SPANS}"

    def is_part(self, name: str) -> bool:
        """Whether a file in `parts` is a part, not something said about one."""
        return "." not in name
