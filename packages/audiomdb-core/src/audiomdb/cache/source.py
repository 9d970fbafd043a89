"""Define the sources from which a cache fetches a dataset: ranges of files, or directories."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from audiomdb.cache.answers import CheckedOpen, Open, named
from audiomdb.cache.counters import Counters
from audiomdb.cache.eviction import despite_full_disk
from audiomdb.cache.failures import Outage
from audiomdb.cache.layout import CacheLayout
from audiomdb.cache.lock import try_exclusive
from audiomdb.cache.part_file import Delivered, Part
from audiomdb.cache.retry import Retries
from audiomdb.cache.transfer import RangeTransfer, Transfer, TransferContext
from audiomdb.cache.waiting import ProgressLog, ProgressThread
from audiomdb.errors import DownloadError, DownloadInterruptedError, MetadataError
from audiomdb.shards.files import bytes_below, sha256_file
from audiomdb.shards.layout import DATA_FILE, METADATA_FILE
from audiomdb.shards.metadata import MOST_METADATA_BYTES, ShardEntry

__all__ = ["DirectorySource", "RangeSource", "Source"]

_VANISHING_S = 0.02
"""A folder that is being deleted vanishes after its contents."""


class Source(Protocol):
    """Where a cache fetches a dataset from. Thread-safe."""

    place: str
    """Name of the place in errors."""

    def metadata(self, layout: CacheLayout, counters: Counters) -> bytes:
        """Fetch `metadata.json`.

        Raises:
            MetadataError: it is too large to be one.
        """

    def transfer(self, layout: CacheLayout, counters: Counters) -> Transfer:
        """Return what fetches the shards."""

    def files(self, layout: CacheLayout, counters: Counters) -> RangeTransfer | None:
        """Return what fetches single files; None if the index is to be gathered from shards."""


class RangeSource:
    """A source whose files can be read from any byte on.

    Args:
        open_remote: Function that opens a file.
        name: Name of the backend in errors. None: that of the class of `open_remote`.
        place: Name of the place in errors where the files are. None: `name`.
    """

    def __init__(
        self, open_remote: Open, name: str | None = None, place: str | None = None
    ) -> None:
        self._open = CheckedOpen(open_remote, name)
        self.place = place or self._open.whose

    def metadata(self, layout: CacheLayout, counters: Counters) -> bytes:
        """Fetch `metadata.json`."""
        content = self.files(layout, counters).whole(METADATA_FILE, MOST_METADATA_BYTES)
        if content is None:
            raise _too_large(self.place)
        return content

    def transfer(self, layout: CacheLayout, counters: Counters) -> Transfer:
        """Return what fetches the shards, resuming after interruptions."""
        return self.files(layout, counters)

    def files(self, layout: CacheLayout, counters: Counters) -> RangeTransfer:
        """Return what fetches single files, resuming after interruptions."""
        return RangeTransfer(self._open, layout, counters)


class DirectorySource:
    """A source of two functions that download files into a directory passed to them.

    Args:
        name: Name of the backend in errors.
        download_metadata: Function that returns the path of the metadata it has written.
        download_shard: Function that returns the directory to which it has written a shard.
        place: Name of the place in errors where the files are. None: `name`.
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
        """Have `metadata.json` downloaded, and read it.

        Raises:
            DownloadError: there is no file at the returned path.
            MetadataError: the file is too large to be metadata.
        """
        folder = layout.staging / f"metadata-{uuid4().hex[:12]}"
        folder.mkdir()

        def downloaded() -> str | os.PathLike[str]:
            with _full_elsewhere(layout, MOST_METADATA_BYTES):
                return self._download_metadata(folder)

        try:
            retries = Retries(
                f"{self._name}.download_metadata()",
                counters=counters,
                check=lambda: None,
                at_the_start=True,
                outage=Outage(layout.outage),
            )
            with named(f"while {self._name} fetched {METADATA_FILE}", METADATA_FILE):
                path = retries(downloaded)
            content = self._read_metadata(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        counters.add(fetched_bytes=len(content))
        return content

    def transfer(self, layout: CacheLayout, counters: Counters) -> Transfer:
        """Return what has shards downloaded into staging folders."""
        return _DirectoryTransfer(self._name, self._download_shard, layout, counters)

    def files(self, layout: CacheLayout, counters: Counters) -> None:  # noqa: ARG002
        """Return None: the index has to be gathered from the shards."""
        return

    def _read_metadata(self, path: str | os.PathLike[str]) -> bytes:
        try:
            if Path(path).stat().st_size > MOST_METADATA_BYTES:
                raise _too_large(self.place)
            return Path(path).read_bytes()
        except (FileNotFoundError, IsADirectoryError, TypeError) as exc:
            raise DownloadError(
                f"{self._name}.download_metadata() left no metadata.json: {exc}. It has to write "
                "the file into self.cache_dir and return its path"
            ) from exc


class _DirectoryTransfer:
    """Has shards downloaded, each into a staging folder that is for this transfer only.

    If the part is deleted, another transfer of the same shard may begin.
    """

    def __init__(
        self,
        name: str,
        download_shard: Callable[[int, Path], str | os.PathLike[str]],
        layout: CacheLayout,
        counters: Counters,
    ) -> None:
        self._name = name
        self._download_shard = download_shard
        self._layout = layout
        self._counters = counters

    def __call__(self, part: Part, entry: ShardEntry, context: TransferContext) -> Delivered:
        """Have a shard downloaded, see `Transfer`."""
        folder = self._layout.staging / part.name / uuid4().hex[:12]
        what = f"{self._name}.download_shard({part.number})"
        progress = ProgressLog(what, entry.bytes, lambda: bytes_below(folder))
        retries = Retries(
            what,
            counters=self._counters,
            check=context.check,
            outage=Outage(self._layout.outage),
        )

        def make_room() -> bool:
            context.check()
            return context.make_room(entry.bytes)

        def attempt() -> Delivered:
            return despite_full_disk(lambda: self._downloaded(part, entry, folder), make_room)

        doing = f"while {self._name} fetched {entry.path}"
        with ProgressThread(progress, "waiting for"), named(doing, entry.path):
            delivered = retries(attempt)
        self._counters.add(fetched_bytes=delivered.size)
        return delivered

    def _downloaded(self, part: Part, entry: ShardEntry, folder: Path) -> Delivered:
        try:
            if part.is_there():
                shutil.rmtree(folder.parent, ignore_errors=True)
            folder.mkdir(parents=True)
            with _full_elsewhere(self._layout, entry.bytes):
                returned = self._download_shard(part.number, folder)
            return _delivered(self._data_file(part.number, returned, folder))
        except Exception as exc:
            deleted = f"somebody has deleted {folder}, which it had to write to"
            missing = isinstance(exc, (FileNotFoundError, shutil.Error))
            if missing:
                time.sleep(_VANISHING_S)
            if not part.is_there():  # then the result is not needed any more
                raise FileNotFoundError(errno.ENOENT, deleted, str(folder)) from exc
            if folder.is_dir() or not missing:
                raise
            raise DownloadInterruptedError(f"{deleted}: {exc}") from exc

    def _data_file(self, number: int, returned: str | os.PathLike[str], folder: Path) -> Path:
        """Return the shard's file, copied if it is, or has a hard link, out of the folder."""
        called = f"{self._name}.download_shard({number})"
        try:
            data = Path(returned) / DATA_FILE
        except TypeError as exc:
            raise DownloadError(f"{called} returned {returned!r}, expected a directory") from exc
        if not data.is_file():
            time.sleep(_VANISHING_S)
            if not folder.is_dir():
                raise FileNotFoundError(errno.ENOENT, "somebody has deleted it", str(folder))
            raise DownloadError(
                f"{called} returned {os.fspath(returned)!r}, but there is no {DATA_FILE} in it; it "
                "has to write the shard's files into a directory under self.cache_dir and return "
                "that directory"
            )
        real = data.resolve()
        if folder.resolve() in real.parents and real.stat().st_nlink == 1:
            return real
        # The file is not the cache's alone, and may be needed where it is.
        inside = folder / f".{DATA_FILE}.copy"
        shutil.copyfile(real, inside)
        return inside


@contextmanager
def _full_elsewhere(layout: CacheLayout, size: int) -> Iterator[None]:
    """Tell a disk that is full elsewhere from that of the cache, where shards are evicted for it.

    Args:
        layout: The cache directory.
        size: Bytes that the block writes to it at most.

    Raises:
        DownloadInterruptedError: the block found a disk full, but not this one.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno == errno.ENOSPC and shutil.disk_usage(layout.root).free >= size:
            raise DownloadInterruptedError(
                f"{exc}, although there is room on the disk of the cache, {layout.root}: what is "
                "full is another one, such as that of temporary files"
            ) from exc
        raise


def _too_large(place: str) -> MetadataError:
    return MetadataError(
        f"{METADATA_FILE} of {place} has more than {MOST_METADATA_BYTES} bytes, so it is not the "
        "metadata of a dataset. What answers there?"
    )


def _delivered(data: Path) -> Delivered:
    # It may have been written without the permission to open it.
    data.chmod(data.stat().st_mode | 0o400)
    held = try_exclusive(data)
    if held is None:  # a staging folder is private
        raise FileNotFoundError(errno.ENOENT, "somebody has deleted it", str(data))
    try:
        os.fsync(held.fd)
        return Delivered(data, held, os.fstat(held.fd).st_size, sha256_file(data))
    except BaseException:
        held.release()
        raise
