"""Define the layout of a cache directory.

    metadata.json  index.bin    of the dataset, complete or absent
    shards/00007-1a2b3c4d5e6f   complete, verified, never changed: a shared flock on it is a lease
    parts/00007-1a2b3c4d5e6f    being fetched: the exclusive flock on it is the right to fetch;
                                counts with the shard's full size from its creation
    parts/00007-....validator   the store's validator for the version of the file in the part
    parts/00007-....spans       which bytes of the part are present, if fetched in several pieces
    parts/index-1a2b3c4d5e6f    the same for the index, whose size counts whether it is there or not
    staging/00007-1a2b3c4d5e6f/ contains the folder where a `download_shard` writes; belongs to the
                                part's owner
    quarantine/00007-...        arrived damaged; kept for inspection while there is room
    failed/00007-...            the last failure, for the processes that waited
    failed/store                a fetch from the store was recently given up
    readers/1234-deadbeef       flocked by its process: what it needs at once and reads next
    slots/0 .. k-1              each flocked during a transfer, so that the machine runs at most k
    slots/lacking.*             flocked by a process that lacks a slot: no transfer takes a second
    options.json                of the first process that uses the directory, valid for all others
    budget.lock  metadata.lock  index.lock  in_use.lock  demand.lock

There is no state outside the directory; `directory_use` documents what happens to its users if it
is deleted. Rights are flocks, which the kernel releases when a process dies in any way. Names
contain the digest of the content, so that shards of an older version of the dataset are never
mistaken for current ones.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from audiomdb.shards.layout import INDEX_FILE, METADATA_FILE
from audiomdb.shards.metadata import IndexEntry, ShardEntry

__all__ = ["CacheLayout", "entry_name", "index_name"]

_DIGEST_DIGITS = 12
_VALIDATOR, _SPANS = ".validator", ".spans"
_FOLDERS = ("shards", "parts", "staging", "quarantine", "failed", "readers", "slots")
_OPTIONS, _IN_USE = "options.json", "in_use.lock"


def entry_name(number: int, entry: ShardEntry) -> str:
    """Return the name of a shard in the cache."""
    return f"{number:05d}-{entry.sha256[:_DIGEST_DIGITS]}"


def index_name(entry: IndexEntry) -> str:
    """Return the name of the part that becomes the index."""
    return f"index-{entry.sha256[:_DIGEST_DIGITS]}"


class CacheLayout(msgspec.Struct, frozen=True):
    """The paths of one cache directory."""

    root: Path

    def make(self) -> None:
        """Create the directory and its folders."""
        for folder in _FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def has_folders(self) -> bool:
        """Return whether the directory and all its folders exist."""
        return self._names().issuperset(_FOLDERS)

    def is_whole(self) -> bool:
        """Return whether everything exists that opening the directory creates."""
        return self._names().issuperset((*_FOLDERS, METADATA_FILE, _OPTIONS, _IN_USE))

    def _names(self) -> set[str]:
        try:
            with os.scandir(self.root) as entries:
                return {entry.name for entry in entries}
        except FileNotFoundError:
            return set()

    @property
    def metadata(self) -> Path:
        """Path of the dataset's metadata."""
        return self.root / METADATA_FILE

    @property
    def index(self) -> Path:
        """Path of the dataset's index file."""
        return self.root / INDEX_FILE

    @property
    def options(self) -> Path:
        """File with the limits that hold while any process uses the directory."""
        return self.root / _OPTIONS

    @property
    def budget_lock(self) -> Path:
        """Lock held exclusively, for milliseconds, around every change of what counts."""
        return self.root / "budget.lock"

    @property
    def metadata_lock(self) -> Path:
        """Lock held exclusively while the metadata is fetched."""
        return self.root / "metadata.lock"

    @property
    def index_lock(self) -> Path:
        """Lock held exclusively while the index is fetched, which may take as long as a shard."""
        return self.root / "index.lock"

    @property
    def in_use_lock(self) -> Path:
        """Lock shared by every process that uses the directory."""
        return self.root / _IN_USE

    @property
    def demand_lock(self) -> Path:
        """Lock held exclusively by a reader that waits for room; prefetching begins no new part."""
        return self.root / "demand.lock"

    @property
    def shards(self) -> Path:
        """Folder of complete shards."""
        return self.root / "shards"

    @property
    def parts(self) -> Path:
        """Folder of shards, and the index, that are being fetched."""
        return self.root / "parts"

    @property
    def staging(self) -> Path:
        """Folder of private folders for `download_*` methods."""
        return self.root / "staging"

    @property
    def quarantine(self) -> Path:
        """Folder of files that arrived damaged."""
        return self.root / "quarantine"

    @property
    def failed(self) -> Path:
        """Folder of notes about failures."""
        return self.root / "failed"

    @property
    def outage(self) -> Path:
        """File whose presence says that a fetch from the store was given up, see `Outage`."""
        return self.failed / "store"

    @property
    def readers(self) -> Path:
        """Folder of readers' files."""
        return self.root / "readers"

    @property
    def slots(self) -> Path:
        """Folder of transfer slots."""
        return self.root / "slots"

    def validator(self, name: str) -> Path:
        """Return the path of the file with the validator of a part."""
        return self.parts / f"{name}{_VALIDATOR}"

    def spans(self, name: str) -> Path:
        """Return the path of the file with a part's spans; if absent, the part has no gaps."""
        return self.parts / f"{name}{_SPANS}"

    def is_part(self, name: str) -> bool:
        """Return whether a file in `parts` is a part, not a validator or spans of one."""
        return "." not in name
