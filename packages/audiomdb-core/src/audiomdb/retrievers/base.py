"""What every retriever is: the way to a dataset, wherever it lies."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec

from audiomdb.cache import CacheOptions, CacheStats, RemoteFile
from audiomdb.errors import CacheError
from audiomdb.retrievers._naming import UnnameableError, place_of, retriever_name
from audiomdb.shards import DatasetReader, Metadata

if TYPE_CHECKING:
    from audiomdb.cache import Source
    from audiomdb.retrievers._cached import CachedShards

__all__ = ["BaseRetriever", "RemoteFile"]

_R = TypeVar("_R", bound="BaseRetriever")


class _Where(msgspec.Struct, frozen=True):
    """What a retriever was told about its cache."""

    cache_dir: Path | None = None
    options: CacheOptions = msgspec.field(default_factory=CacheOptions)


class BaseRetriever:
    """Base of what leads to a dataset.

    A subclass for a remote store implements `download_metadata` and `download_shard`, or, where
    the store can read from the middle of a file, `open_remote` alone: then downloads resume where
    they broke off. The base does the rest: it keeps shards in a cache that all processes of the
    machine share, downloads each once, checks size and sha256 before anything is read, fetches
    ahead of a stream, and stays within `max_cache_bytes`.

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

    A retriever is described by the arguments it was made with: they are kept before `__init__`
    runs, so a subclass may do there what it likes, in any order. It pickles as these arguments, so
    what a constructor opens (a client, a connection) need not pickle, and in a process that did
    not make the retriever the dataset is opened by a new one, so it is not shared across a fork
    either. Attributes that are changed later do not travel.

    Making a retriever reads nothing; the first use does. Threads may share one.

    Args:
        cache_dir: Directory for caches; the dataset gets a subdirectory named by the retriever's
            class and arguments, so several datasets may share one. None: `audiomdb` under
            `$XDG_CACHE_HOME`, which is `~/.cache` unless it is set. On a local disk.
        max_cache_bytes: Limit of this dataset's cache, partial downloads included. None: no limit
            but the disk's, and when that is full, what is needed last goes.
        prefetch: Shards to download ahead of a stream.
        workers: Downloads at once, over all processes of the machine.

    Raises:
        TypeError: the class implements none of the ways to a dataset.
        ValueError: an option is out of range.
    """

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]
    _made_in: int
    _opened: tuple[int, DatasetReader] | None
    _shards: CachedShards | None
    _staging: threading.local
    _where = _Where()

    access_options: ClassVar[frozenset[str]] = frozenset()
    """Arguments of the class that say how to get at a dataset, such as a token or a timeout: they
    may change while it stays the same, so they do not name its cache."""

    def __new__(cls: type[_R], *args: Any, **kwargs: Any) -> _R:  # noqa: ANN401, PYI019
        """Keep the arguments."""
        if not cls._implements_a_way():
            raise TypeError(
                f"{cls.__name__} leads nowhere: implement download_metadata() and "
                "download_shard(shard_id), or open_remote(path, start=, validator=), or, for a "
                "dataset that needs no cache, reader()"
            )
        self = super().__new__(cls)
        self._arguments = (args, kwargs)
        self._made_in = os.getpid()
        self._opened = None
        self._shards = None
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
        self._where = _Where(
            None if cache_dir is None else Path(cache_dir),
            CacheOptions(max_bytes=max_cache_bytes, prefetch=prefetch, workers=workers),
        )

    @classmethod
    def from_url(cls: type[_R], url: str, **options: Any) -> _R:  # noqa: ANN401, PYI019
        """Make a retriever for a URL.

        Needed only of a class that a package registers for a scheme, see `audiomdb.registry`. Ways
        to write the same URL have to come to the same arguments: these name the cache.

        Args:
            url: Its scheme is in small letters; `audiomdb.urls` takes it apart.
            options: Arguments of the class by name, checked to be such.

        Raises:
            InvalidURLError: the URL leads nowhere.
        """
        raise NotImplementedError(f"{cls.__name__} is not made from URLs: {url!r}, {options}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (type(self), *self._arguments)

    def __len__(self) -> int:
        """Samples in the dataset."""
        return len(self.open())

    @property
    def metadata(self) -> Metadata:
        """What the dataset says of itself."""
        return self.open().metadata

    @property
    def cache_dir(self) -> str:
        """Where `download_metadata` and `download_shard` write to.

        While one of them runs, in its thread: a private, empty directory on the cache's disk. At
        other times: the directory of the dataset's cache.

        Raises:
            CacheError: the arguments cannot name a directory; give `cache_dir`.
        """
        staging: Path | None = getattr(self._staging, "folder", None)
        return str(self._cache_directory() if staging is None else staging)

    @property
    def cache_stats(self) -> CacheStats:
        """What this process has done with the cache: hits, misses, bytes, evictions, waits."""
        return self.cached_shards().cache.stats

    def open(self) -> DatasetReader:
        """The dataset's reader: one for each process, opened on the first call.

        Raises:
            DatasetNotFoundError: when there is no dataset.
            MetadataError: when its metadata is damaged.
            FormatVersionError: when a newer library wrote it.
            DownloadError: when the metadata cannot be downloaded.
            CacheError: when there can be no cache at `cache_dir`.
        """
        process = os.getpid()
        if self._opened is None or self._opened[0] != process:
            # No lock, which a fork could leave locked for ever: two threads that come first open
            # twice, and one of the readers is dropped.
            source = self if self._made_in == process else _make(type(self), *self._arguments)
            reader = source.reader()
            self._shards = source._shards
            self._opened = (process, reader)
        return self._opened[1]

    def close(self) -> None:
        """Let go of the dataset; using the retriever opens it again. May be called twice."""
        opened, self._opened = self._opened, None
        shards, self._shards = self._shards, None
        if opened is not None:
            opened[1].close()
        if shards is not None:
            shards.close()

    def reader(self) -> DatasetReader:
        """Open the dataset; here through the cache.

        Called by `open`, in each process on an object made there; by two threads at once at worst.
        A retriever whose dataset needs no cache overrides it.

        Raises:
            DatasetError: as `open` says.
        """
        # Whoever reads a dataset in place never comes here (docs/decisions/0026).
        from audiomdb.cache import DirectorySource, RangeSource, ShardCache
        from audiomdb.retrievers._cached import CachedShards

        name = type(self).__name__
        args, kwargs = self._arguments
        place = place_of(self, args, kwargs, access=self.access_options)
        source: Source
        if type(self).open_remote is BaseRetriever.open_remote:
            source = DirectorySource(name, self._metadata_into, self._shard_into, place)
        else:
            source = RangeSource(self.open_remote, name, place)
        cache = ShardCache(self._cache_directory(), source, self._where.options)
        self._shards = CachedShards(self, cache)
        return self._shards.reader()

    def download_metadata(self) -> str | os.PathLike[str]:
        """Download `metadata.json` into `self.cache_dir` and return its path.

        Whatever it raises reaches the caller; after a ConnectionError or TimeoutError it is tried
        again, with growing waits. For what the store does not have, raise DatasetNotFoundError and
        name it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not download_metadata()")

    def download_shard(self, shard_id: int) -> str | os.PathLike[str]:
        """Download a shard into a directory under `self.cache_dir` and return that directory.

        It has to hold the shard's `data.mdb`; other files are ignored. Called from several threads
        at once, for different shards, each with a `cache_dir` of its own. What it returns is
        checked against the metadata and moved into the cache; a directory elsewhere is copied. May
        be called again for the same shard. Exceptions as for `download_metadata`.

        Args:
            shard_id: From 0; the shard's folder in the dataset is `shard_00000` and so on.
        """
        raise NotImplementedError(f"{type(self).__name__} does not download_shard({shard_id})")

    def open_remote(self, path: str, *, start: int = 0, validator: str | None = None) -> RemoteFile:
        """Open a file of the dataset from some byte on.

        Instead of the two `download_*` methods, for stores that read ranges. Called from several
        threads. Chunks of 64 KiB to 1 MiB serve best.

        A method that takes `stop: int | None` besides, by name, is asked for large shards in
        pieces of 4 MiB or more, several at once: those that lack 8 MiB or more, while the cache's
        `workers` are not all busy. `stop` is the first byte that is not needed. Where a store
        cannot end there it may send more. `RemoteFile.size` is that of the whole file all the same.

        Args:
            path: Relative to the dataset, with "/".
            start: First byte wanted, from 0.
            validator: With `start`, what an earlier answer named the version of the file (an ETag).
                If the file is another version now, answer from byte 0.

        Raises:
            DatasetNotFoundError: there is no such file.
            DownloadError: it cannot be had.
            DownloadInterruptedError: it cannot be had now; any ConnectionError or TimeoutError is
                understood the same, from the chunks too. It is tried again, from where it stopped.
        """
        raise NotImplementedError(f"{type(self).__name__} does not open_remote({path!r})")

    def cached_shards(self) -> CachedShards:
        """The shards of this process's cache.

        Raises:
            CacheError: the retriever reads its dataset in place.
        """
        self.open()
        if self._shards is None:
            raise CacheError(f"{type(self).__name__} reads its dataset in place, without a cache")
        return self._shards

    @classmethod
    def _implements_a_way(cls) -> bool:
        def own(name: str) -> bool:
            return getattr(cls, name) is not getattr(BaseRetriever, name)

        seed = own("download_metadata") and own("download_shard")
        return seed or own("open_remote") or own("reader")

    def _settled_arguments(self) -> Mapping[str, Any]:
        """Arguments that name the cache as something else than they were given; None: not at all.

        For what the environment says where an argument does not, and for several ways to write the
        same thing. Called when the cache is first needed, not when the retriever is made.
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
    """Where caches lie unless the caller says otherwise."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "audiomdb"


def _make(
    kind: type[BaseRetriever], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> BaseRetriever:
    return kind(*args, **kwargs)
