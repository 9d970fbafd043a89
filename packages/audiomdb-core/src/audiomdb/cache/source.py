"""Where a cache gets a dataset from: by ranges of files, or by whole directories."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from audiomdb.cache.answers import Answers, named
from audiomdb.cache.counters import Counters
from audiomdb.cache.full_disk import despite_full_disk
from audiomdb.cache.index_copy import FetchIndex
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import try_exclusive
from audiomdb.cache.opening import PAUSE_S
from audiomdb.cache.pace import Pace, Watch
from audiomdb.cache.retry import Outage, Retries
from audiomdb.cache.room import Delivered, Part, Room
from audiomdb.cache.slots import ExtraSlots
from audiomdb.cache.small_file import fetch_bytes
from audiomdb.cache.transfer import Open, RangeTransfer, Transfer
from audiomdb.errors import DownloadError, DownloadInterruptedError, MetadataError
from audiomdb.shards.files import bytes_below, sha256_file
from audiomdb.shards.layout import DATA_FILE, INDEX_FILE, METADATA_FILE
from audiomdb.shards.metadata import ShardEntry

__all__ = ["DirectorySource", "RangeSource", "Source"]

_MOST_METADATA_BYTES = 1 << 30
"""More is something else. A shard takes 290 bytes of it and the length of two keys, so that a
million of them fit three times; what never ends is refused before it fills the memory."""


class Source(Protocol):
    """Where a cache gets a dataset from. Threads share it."""

    place: str
    """What errors call it."""

    def metadata(self, layout: CacheLayout, counters: Counters) -> bytes:
        """Fetch `metadata.json`.

        Raises:
            MetadataError: it is too large to be one.
        """

    def index(self, layout: CacheLayout, room: Room, counters: Counters) -> FetchIndex | None:
        """What fetches `index.bin`; None where there is no way to it but the shards."""

    def transfer(self, layout: CacheLayout, room: Room, counters: Counters) -> Transfer:
        """What fetches the shards."""


class RangeSource:
    """Files that can be read from any byte on.

    Args:
        open_remote: Opens one.
        name: What errors call what opens them. None: the class that `open_remote` is of.
        place: What errors call where they come from. None: the name.
    """

    def __init__(
        self, open_remote: Open, name: str | None = None, place: str | None = None
    ) -> None:
        self._open = Answers(open_remote, name)
        self.place = place or self._open.whose

    def metadata(self, layout: CacheLayout, counters: Counters) -> bytes:
        """Fetch `metadata.json`."""
        most = _MOST_METADATA_BYTES
        content = self._fetch(METADATA_FILE, most, layout, counters)
        if content is None:
            raise _too_large(self.place, most)
        return content

    def index(self, layout: CacheLayout, room: Room, counters: Counters) -> FetchIndex:
        """What fetches `index.bin`, resuming what broke off: it can be as large as many shards."""
        transfer = self.transfer(layout, room, counters)

        def into(part: Part, size: int, extra: ExtraSlots) -> Delivered:
            return transfer.fetch(part, INDEX_FILE, size, check=lambda: None, extra=extra)

        def whole(size: int) -> bytes | None:
            return self._fetch(INDEX_FILE, size, layout, counters)

        return FetchIndex(into, whole)

    def transfer(self, layout: CacheLayout, room: Room, counters: Counters) -> RangeTransfer:
        """What fetches the shards, resuming what broke off."""
        return RangeTransfer(
            self._open,
            stops=self._open.takes_stop,
            name=self._open.name,
            validators=layout.validator,
            spans=layout.spans,
            make_room=room.shrink,
            counters=counters,
            outage=Outage(layout.outage),
        )

    def _fetch(self, path: str, most: int, layout: CacheLayout, counters: Counters) -> bytes | None:
        outage = Outage(layout.outage)
        return fetch_bytes(self._open, path, most=most, counters=counters, outage=outage)


class DirectorySource:
    """Two functions that bring files into a directory they are given.

    Args:
        name: What errors call where they come from.
        download_metadata: Returns the path of the metadata it has written.
        download_shard: Returns the path of the directory that it has written a shard to.
        place: What errors call where the files come from. None: the name.
    """

    def __init__(
        self,
        name: str,
        download_metadata: Callable[[Path], str | os.PathLike[str]],
        download_shard: Callable[[int, Path], str | os.PathLike[str]],
        place: str | None = None,
    ) -> None:
        self._name = name
        self.place = place or name
        self._download_metadata = download_metadata
        self._download_shard = download_shard

    def metadata(self, layout: CacheLayout, counters: Counters) -> bytes:
        """Have the metadata downloaded, and read it.

        Raises:
            DownloadError: there is no file where it should be.
        """
        folder = layout.staging / f"metadata-{uuid4().hex[:12]}"
        folder.mkdir()
        try:
            retries = Retries(
                f"{self._name}.download_metadata()",
                counters=counters,
                check=lambda: None,
                at_the_start=True,
                outage=Outage(layout.outage),
            )
            with named(f"while {self._name} fetched {METADATA_FILE}", METADATA_FILE):
                path = retries(lambda: self._download_metadata(folder))
            content = self._read_metadata(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        counters.add(fetched_bytes=len(content))
        return content

    def index(self, layout: CacheLayout, room: Room, counters: Counters) -> None:
        """None: the columns come out of the shards."""

    def transfer(self, layout: CacheLayout, room: Room, counters: Counters) -> Transfer:
        """What has shards downloaded into staging folders."""

        def fetch(
            part: Part,
            entry: ShardEntry,
            *,
            check: Callable[[], None],
            extra: ExtraSlots,  # noqa: ARG001
        ) -> Delivered:
            # Of this transfer alone: of a part that somebody deletes another one may be made.
            folder = layout.staging / part.name / uuid4().hex[:12]
            what = f"{self._name}.download_shard({part.number})"
            retries = Retries(what, counters=counters, check=check, outage=Outage(layout.outage))
            pace = Pace(what, entry.bytes, lambda: bytes_below(folder))

            def download() -> Delivered:
                try:
                    if room.has(part):
                        shutil.rmtree(folder.parent, ignore_errors=True)
                    folder.mkdir(parents=True)
                    returned = self._download_shard(part.number, folder)
                    return _delivered(self._data_file(part.number, returned, folder))
                except Exception as exc:
                    deleted = f"somebody has deleted {folder}, which it had to write to"
                    missing = isinstance(exc, (FileNotFoundError, shutil.Error))
                    if missing:  # who deletes a folder begins with what is in it
                        time.sleep(PAUSE_S)
                    if not room.has(part):  # then nobody waits for what it would bring
                        raise FileNotFoundError(errno.ENOENT, deleted, str(folder)) from exc
                    if folder.is_dir() or not missing:
                        raise
                    raise DownloadInterruptedError(f"{deleted}: {exc}") from exc

            def attempt() -> Delivered:
                return despite_full_disk(download, lambda: room.shrink(entry.bytes))

            doing = f"while {self._name} fetched {entry.path}"
            with Watch(pace, "waiting for"), named(doing, entry.path):
                delivered = retries(attempt)
            counters.add(fetched_bytes=delivered.size)
            return delivered

        return fetch

    def _read_metadata(self, path: str | os.PathLike[str]) -> bytes:
        try:
            if Path(path).stat().st_size > _MOST_METADATA_BYTES:
                raise _too_large(self.place, _MOST_METADATA_BYTES)
            return Path(path).read_bytes()
        except (FileNotFoundError, IsADirectoryError, TypeError) as exc:
            raise DownloadError(
                f"{self._name}.download_metadata() left no metadata.json: {exc}. It has to write "
                "the file into self.cache_dir and return its path"
            ) from exc

    def _data_file(self, number: int, returned: str | os.PathLike[str], folder: Path) -> Path:
        """The shard's file, in the staging folder whatever the method did."""
        called = f"{self._name}.download_shard({number})"
        try:
            data = Path(returned) / DATA_FILE
        except TypeError as exc:
            raise DownloadError(f"{called} returned {returned!r}, expected a directory") from exc
        if not data.is_file():
            if not folder.is_dir():
                raise FileNotFoundError(errno.ENOENT, "somebody has deleted it", str(folder))
            raise DownloadError(
                f"{called} returned {os.fspath(returned)!r}, but there is no {DATA_FILE} in it; it "
                "has to write the shard's files into a directory under self.cache_dir and return "
                "that directory"
            )
        real = data.resolve()
        if folder.resolve() in real.parents:
            return real
        # Somebody else's file, which may be needed where it is.
        inside = folder / f".{DATA_FILE}.copy"
        shutil.copyfile(real, inside)
        return inside


def _too_large(place: str, most: int) -> MetadataError:
    return MetadataError(
        f"{METADATA_FILE} of {place} has more than {most} bytes, so it is not the metadata of a "
        "dataset. What answers there?"
    )


def _delivered(data: Path) -> Delivered:
    # As it came, it may not even be deleted.
    data.chmod(0o644)
    held = try_exclusive(data)
    if held is None:  # a staging folder is private
        raise FileNotFoundError(errno.ENOENT, "somebody has deleted it", str(data))
    try:
        os.fsync(held.fd)
        return Delivered(data, held, os.fstat(held.fd).st_size, sha256_file(data))
    except BaseException:
        held.release()
        raise
