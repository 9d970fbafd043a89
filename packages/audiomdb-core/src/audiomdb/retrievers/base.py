"""Base class of retrievers, which open a dataset, local or remote, for reading."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import msgspec

from audiomdb.cache import CacheOptions, CacheStats, RemoteFile
from audiomdb.errors import CacheError, CachePlaceError
from audiomdb.lazy import importing
from audiomdb.retrievers._naming import UnnameableError, place_of, retriever_name
from audiomdb.shards import DatasetReader, Metadata
from audiomdb.urls import folder_path

if TYPE_CHECKING:
    from audiomdb.cache import Source
    from audiomdb.retrievers._cached import CachedShards

__all__ = ["BaseRetriever", "CacheStats", "RemoteFile"]

_R = TypeVar("_R", bound="BaseRetriever")


class _Where(msgspec.Struct, frozen=True):
    """The options of a retriever that concern its cache."""

    cache_dir: Path | None = None
    options: CacheOptions = msgspec.field(default_factory=CacheOptions)


class BaseRetriever:
    """Base class of retrievers, which open a dataset for reading.

    A subclass for a remote store implements `download_metadata` and `download_shard`, or, if the
    store can read from the middle of a file, `open_remote` alone: then downloads resume where they
    broke off. The base class does the rest: it keeps shards in a cache that all processes of the
    machine share, downloads each once, checks size and sha256 before anything is read, prefetches
    for a stream, and stays within `max_cache_bytes`.

        class FolderRetriever(BaseRetriever):
            def __init__(self, share, **kwargs):
                self.share = share
                super().__init__(**kwargs)

            def download_metadata(self):
                return self.copy("metadata.json", self.cache_dir)

            def download_shard(self, shard_id):
                name = f"shard_{shard_id:05d}"
                folder = f"{self.cache_dir}/{name}"
                os.mkdir(folder)
                self.copy(f"{name}/data.mdb", folder)
                return folder

            def copy(self, path, folder):
                try:
                    return shutil.copy(f"{self.share}/{path}", folder)
                except FileNotFoundError as error:
                    raise DatasetNotFoundError(f"there is no {self.share}/{path}") from error

    A retriever is defined by its constructor arguments. They are stored before `__init__` runs, so
    a subclass may do anything there, in any order. It pickles as these arguments and the absolute
    path of `cache_dir`, so what a constructor opens (a client, a connection) need not pickle. A
    process that did not make the retriever opens the dataset with a new one made from them, so
    nothing is shared across a fork either. Attributes that are changed later are not sent to other
    processes.

    Making a retriever reads nothing; its first use does. Threads may share a retriever.

    Args:
        cache_dir: Directory for caches, on a local disk; the dataset gets a subdirectory named by
            the retriever's class and arguments, so several datasets may share it. Arguments that
            have no stable text, such as clients, do not tell them apart: then each needs its own. A
            relative path is resolved against the working directory at the time. None: `audiomdb`
            under `$XDG_CACHE_HOME`, which is `~/.cache` unless it is set to an absolute path.
        max_cache_bytes: Limit of this dataset's cache, partial downloads included. None: limited
            only by the disk; when it is full, the shards that will be needed last are evicted.
        prefetch: Number of shards to download ahead of a stream.
        workers: Number of concurrent downloads, over all processes of the machine.

    Raises:
        TypeError: the class implements none of the ways to read a dataset.
        InvalidURLError: `cache_dir` is a URL.
        ValueError: an option is out of range.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]
    _made_in: int
    _opened: dict[int, DatasetReader]
    """The reader of each process: a fork inherits that of its parent."""

    _staging: threading.local
    _where = _Where()

    access_options: ClassVar[frozenset[str]] = frozenset()
    """Names of arguments that say how to access a dataset, such as a token or a timeout.

    They may change while the dataset stays the same, so the cache is not named by them.
    """

    def __new__(cls: type[_R], *args: Any, **kwargs: Any) -> _R:  # noqa: ANN401, PYI019
        """Store the arguments."""
        if not cls._implements_a_way():
            raise TypeError(
                f"{cls.__name__} is abstract: implement download_metadata() and "
                "download_shard(shard_id), or open_remote(path, start=, validator=), or, for a "
                "dataset that needs no cache, make_reader()"
            )
        self = super().__new__(cls)
        self._arguments = (args, kwargs)
        self._made_in = os.getpid()
        self._opened = {}
        self._staging = threading.local()
        return self

    def __init__(
        self,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        max_cache_bytes: int | None = None,
        prefetch: int = 4,
        workers: int = 4,
    ) -> None:
        where = None
        if cache_dir is not None:
            instead = "give the path of one on a local disk"
            where = folder_path(cache_dir, expected="a directory", instead=instead).absolute()
        options = CacheOptions(max_bytes=max_cache_bytes, prefetch=prefetch, workers=workers)
        self._where = _Where(where, options)

    @classmethod
    def from_url(cls: type[_R], url: str, **options: Any) -> _R:  # noqa: ANN401, PYI019
        """Make a retriever for a URL.

        Only needed for a class that a package registers for a scheme, see `audiomdb.registry`.
        Equivalent spellings of a URL must give the same arguments, because these name the cache.

        Args:
            url: The URL, with its scheme in lower case; `audiomdb.urls` has functions to parse it.
            options: Keyword arguments of the class; their names have been checked.

        Raises:
            InvalidURLError: the URL names no dataset.
        """
        raise NotImplementedError(f"{cls.__name__} is not made from URLs: {url!r}, {options}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (type(self), *self._arguments, self._where)

    def __len__(self) -> int:
        """Number of samples in the dataset."""
        return len(self.open())

    @property
    def metadata(self) -> Metadata:
        """The dataset's metadata."""
        return self.open().metadata

    @property
    def cache_dir(self) -> str:
        """Directory that `download_metadata` and `download_shard` write to.

        While one of them runs, in its thread: a private, empty directory on the cache's disk. At
        other times: the directory of the dataset's cache.

        Raises:
            CacheError: there is no home directory, or the arguments cannot name a directory; give
                `cache_dir`.
        """
        staging: Path | None = getattr(self._staging, "folder", None)
        return str(self._cache_directory() if staging is None else staging)

    @property
    def cache_stats(self) -> CacheStats:
        """Statistics of the cache in this process: hits, misses, bytes, evictions, waits."""
        return self.cached_shards().cache.stats

    def open(self) -> DatasetReader:
        """Return the dataset's reader: one for each process, opened on the first call.

        Raises:
            DatasetNotFoundError: when there is no dataset.
            MetadataError: when its metadata is damaged.
            FormatVersionError: when a newer library wrote it.
            DownloadError: when the metadata cannot be downloaded.
            CacheError: when no cache can be created in `cache_dir`.
        """
        process = os.getpid()
        kept = self._opened.get(process)
        if kept is not None:
            return kept
        source = self if self._made_in == process else copy(self)
        made = source.make_reader()
        # No lock, which a fork could leave locked for ever: of threads that make the first call at
        # once, each opens the dataset, and the reader of the first one is kept.
        kept = self._opened.setdefault(process, made)
        if kept is not made:
            made.close()
            made.source.close()
            return kept
        if source is not self:
            source._opened[process] = kept
        for other in list(self._opened):
            if other != process:
                self._opened.pop(other, None)
        return kept

    def close(self) -> None:
        """Release the dataset; using the retriever opens it again. May be called twice."""
        opened = self._opened.pop(os.getpid(), None)
        if opened is not None:
            opened.close()
            opened.source.close()

    def make_reader(self) -> DatasetReader:
        """Open the dataset anew, by default through the cache.

        A hook for subclasses, such as one whose dataset needs no cache; callers use `open`, which
        keeps the reader. Called in each process on an object made there, and by several threads if
        they open the dataset at once; the reader of the first one is kept.

        Raises:
            DatasetError: as `open` says.
        """
        # Imported here: reading a dataset in place does not need it (docs/decisions/0026).
        with importing():
            from audiomdb.cache import DirectorySource, RangeSource
            from audiomdb.retrievers._cached import CachedShards

        name = type(self).__name__
        args, kwargs = self._arguments
        place = place_of(self, args, kwargs, access=self.access_options)
        source: Source
        if type(self).open_remote is BaseRetriever.open_remote:
            source = DirectorySource(name, self._metadata_into, self._shard_into, place)
        else:
            source = RangeSource(self.open_remote, name, place)
        shards = CachedShards(self, self._cache_directory(), source, self._where.options)
        return DatasetReader(shards.cache.metadata, shards)

    def download_metadata(self) -> str | os.PathLike[str]:
        """Download `metadata.json` into `self.cache_dir` and return its path.

        Exceptions reach the caller; after a ConnectionError or TimeoutError the download is first
        retried, with growing waits. Raise DatasetNotFoundError for a file that the store does not
        have, and name it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not download_metadata()")

    def download_shard(self, shard_id: int) -> str | os.PathLike[str]:
        """Download a shard into a directory under `self.cache_dir` and return that directory.

        The directory must contain the shard's `data.mdb`; other files are ignored. Called from
        several threads at once, for different shards, each with a `cache_dir` of its own. The
        result is checked against the metadata and moved into the cache; a directory elsewhere, or a
        hard link, is copied. May be called again for the same shard. Exceptions as for
        `download_metadata`.

        Args:
            shard_id: From 0; the shard's folder in the dataset is `shard_00000` and so on.
        """
        raise NotImplementedError(f"{type(self).__name__} does not download_shard({shard_id})")

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        """Open a file of the dataset, from byte `start` to its end.

        Implemented instead of the two `download_*` methods, for stores that read ranges. Called
        from several threads. Chunks of 64 KiB to 1 MiB work best, and smaller ones if no more has
        come: what a client still collects for a chunk is lost when the connection breaks.

        A method with another keyword argument `stop: int | None` is asked for large shards in
        pieces of 4 MiB or more, several at once: for shards of which 8 MiB or more are missing,
        while the cache's `workers` are not all busy. `stop` is the first byte that is not needed; a
        store that cannot end there may send more. `RemoteFile.size` is always that of the whole
        file.

        Args:
            path: Relative to the dataset, with "/".
            start: First byte wanted, from 0.
            validator: With `start`, the version of the file (an ETag) that an earlier call
                returned. If the file has another version now, return it from byte 0.

        Raises:
            DatasetNotFoundError: there is no such file.
            DownloadError: the file cannot be read.
            DownloadInterruptedError: the file cannot be read now. It is retried from where it
                stopped, and so is any ConnectionError or TimeoutError, from the chunks too.
        """
        raise NotImplementedError(f"{type(self).__name__} does not open_remote({path!r})")

    def cached_shards(self) -> CachedShards:
        """Return the shards of this process's cache.

        Raises:
            CacheError: the retriever reads its dataset in place.
        """
        shards = self.open().source
        if not shards.cached:
            raise CacheError(f"{type(self).__name__} reads its dataset in place, without a cache")
        return cast("CachedShards", shards)

    @classmethod
    def _implements_a_way(cls) -> bool:
        def own(name: str) -> bool:
            return getattr(cls, name) is not getattr(BaseRetriever, name)

        seed = own("download_metadata") and own("download_shard")
        return seed or own("open_remote") or own("make_reader")

    def _settled_arguments(self) -> Mapping[str, Any]:
        """Return replacements for arguments in the cache's name; None leaves an argument out.

        For values that come from the environment if an argument is not given, and for several
        spellings of one value. Called when the cache is first needed, not by the constructor.
        """
        return {}

    def _cache_directory(self) -> Path:
        given = self._where.cache_dir
        root = _default_cache_dir() if given is None else given
        kind, (args, kwargs) = type(self), self._arguments
        try:
            return root / retriever_name(
                kind,
                args,
                kwargs,
                access=kind.access_options,
                strict=given is None,
                settled=self._settled_arguments(),
            )
        except UnnameableError as exc:
            raise CacheError(
                f"{kind.__name__} was made with {exc}, which is not the same text in another "
                "process, so it cannot name a cache; give cache_dir= a directory for this dataset "
                "alone"
            ) from exc

    def _metadata_into(self, folder: Path) -> str | os.PathLike[str]:
        with self._staged(folder):
            return self.download_metadata()

    def _shard_into(self, number: int, folder: Path) -> str | os.PathLike[str]:
        with self._staged(folder):
            return self.download_shard(number)

    @contextmanager
    def _staged(self, folder: Path) -> Iterator[None]:
        self._staging.folder = folder
        try:
            yield
        finally:
            del self._staging.folder


def _default_cache_dir() -> Path:
    """Return the directory for caches if `cache_dir` is not given."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored: they would depend on the working directory.
    if caches.is_absolute():
        return caches / "audiomdb"
    try:
        return Path.home() / ".cache" / "audiomdb"
    except RuntimeError as exc:
        raise CachePlaceError(
            "there is no place for a cache, because this user has no home directory: give "
            "cache_dir= a directory on a local disk, or set XDG_CACHE_HOME"
        ) from exc


def _make(
    kind: type[BaseRetriever], args: tuple[Any, ...], kwargs: dict[str, Any], where: _Where
) -> BaseRetriever:
    retriever = kind(*args, **kwargs)
    retriever._where = where  # the working directory may be another by now
    return retriever
