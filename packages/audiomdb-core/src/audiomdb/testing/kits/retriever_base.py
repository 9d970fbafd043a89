"""Base class and fixtures of the retriever tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pytest

import audiomdb.cache.retry
from audiomdb.errors import DatasetNotFoundError, DownloadError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import Metadata, read_metadata
from audiomdb.testing.datasets import sample_digest, write_dataset
from audiomdb.testing.kits.conformance import StoreConformance
from audiomdb.testing.proxy import FaultProxy
from audiomdb.testing.store import Store

__all__ = ["FILLED", "Make", "Original", "RetrieverTests", "digests_of"]

FILLED = pytest.mark.usefixtures("filled")
"""Marks tests that need the dataset in the store."""

SHARDS = 4
PER_SHARD = 3

Errors: TypeAlias = type[Exception] | tuple[type[Exception], ...]


class Original:
    """The dataset that the tests put into the store, as it is on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: Metadata = read_metadata(path)
        retriever = LocalRetriever(path)
        reader = retriever.open()
        self.samples = list(reader)
        self.digests = [sample_digest(sample) for sample in self.samples]
        self.columns = {name: reader.index[name] for name in reader.index}
        retriever.close()

    @property
    def shard_bytes(self) -> int:
        """Size of the smallest shard."""
        return min(shard.bytes for shard in self.metadata.shards)

    def shard(self, number: int) -> bytes:
        """Return the content of a shard's file."""
        return (self.path / self.shard_path(number)).read_bytes()

    def shard_path(self, number: int) -> str:
        """Return the path of a shard's file in the dataset."""
        return f"{self.metadata.shards[number].path}/data.mdb"

    def first_of(self, shard: int) -> int:
        """Return the position of a shard's first sample."""
        return shard * PER_SHARD

    def damaged(self, number: int) -> bytes:
        """Return a shard's file with one bit of a sample's payload flipped."""
        content = bytearray(self.shard(number))
        payload = self.samples[self.first_of(number)]["payload"]
        content[content.index(payload) + len(payload) // 2] ^= 0x10
        return bytes(content)


class Make:
    """Factory of retrievers, used as a fixture so that all of them are closed.

    Args:
        make: Makes one retriever.
    """

    def __init__(self, make: Callable[..., BaseRetriever]) -> None:
        self._make = make
        self._made: list[BaseRetriever] = []

    def __call__(self, *, through: FaultProxy | None = None, **options: Any) -> BaseRetriever:  # noqa: ANN401
        """Make a retriever of the test's store, with these options of `BaseRetriever`."""
        retriever = self._make(through, **options)
        self._made.append(retriever)
        return retriever

    def close(self) -> None:
        """Close all retrievers made so far, and keep none of them alive."""
        for retriever in self._made:
            retriever.close()
        self._made.clear()


def digests_of(retriever: BaseRetriever) -> list[str]:
    """Return the digests of all samples, in order."""
    return [sample_digest(sample) for sample in retriever.open()]


class RetrieverTests(StoreConformance):
    """Fixtures of the retriever tests, and the methods and attributes a subclass provides."""

    # `RetrieverConformance` says what they mean.
    missing_error: ClassVar[Errors] = DatasetNotFoundError
    network_error: ClassVar[Errors] = DownloadError
    in_place: ClassVar[bool] = False
    gives_up_on_stalls: ClassVar[bool] = True
    start_methods: ClassVar[tuple[str, ...]] = ("fork", "spawn")

    # Any store, so that a subclass may say which class its own fixture returns.
    def make_retriever(self, store: Any, endpoint: Any, **options: Any) -> BaseRetriever:  # noqa: ANN401
        """Make a retriever of the dataset in `store`. To be defined by the subclass.

        Args:
            store: The `store` fixture.
            endpoint: The server to connect to: `store.endpoint`, or a proxy in front of it in the
                same form (URL, or host and port).
            options: `cache_dir`, `max_cache_bytes`, `prefetch` and `workers`, to be passed on;
                empty if the retriever reads in place.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define make_retriever")

    def url_of(self, store: Any, endpoint: Any) -> str | None:  # noqa: ANN401, ARG002
        """Return a URL for `audiomdb.stream.open_dataset`, or None if no scheme is registered."""
        return None

    @pytest.fixture(autouse=True)
    def short_waits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Avoid long waits between attempts, and caches outside the test's folder."""
        monkeypatch.setattr(audiomdb.cache.retry, "FIRST_WAIT_S", 1e-3)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))

    @pytest.fixture
    def original(self, tmp_path_factory: pytest.TempPathFactory) -> Original:
        """The dataset, on this machine. Read only."""
        return _original(tmp_path_factory.getbasetemp(), seed=0)

    @pytest.fixture
    def other(self, tmp_path_factory: pytest.TempPathFactory) -> Original:
        """Another dataset of the same shape. Read only."""
        return _original(tmp_path_factory.getbasetemp(), seed=1)

    @pytest.fixture
    def bulky(self, tmp_path_factory: pytest.TempPathFactory) -> Original:
        """A dataset whose shards are larger than what clients read at once. Read only."""
        return _original(tmp_path_factory.getbasetemp(), seed=2, payload_bytes=1_000_000)

    @pytest.fixture
    def many(self, tmp_path_factory: pytest.TempPathFactory) -> Original:
        """A dataset of many small shards, one sample in each. Read only."""
        return _original(
            tmp_path_factory.getbasetemp(),
            seed=3,
            shards=24,
            samples_per_shard=1,
            payload_bytes=1000,
        )

    @pytest.fixture
    def filled(self, store: Store, original: Original) -> Store:
        """The store, with the dataset in it."""
        store.fill(original.path)
        return store

    @pytest.fixture
    def make(self, store: Store, tmp_path: Path) -> Iterator[Make]:
        """A factory of retrievers, which closes them after the test."""

        def of_store(through: FaultProxy | None, **options: Any) -> BaseRetriever:  # noqa: ANN401
            if not self.in_place:
                options = {"cache_dir": tmp_path / "cache", **options}
            return self.make_retriever(store, self.endpoint_of(store, through), **options)

        make = Make(of_store)
        yield make
        make.close()

    @pytest.fixture
    def cached(self) -> None:
        """Skip the test if there is no cache."""
        if self.in_place:
            pytest.skip("it reads its dataset in place")

    def reads_ranges(self, retriever: BaseRetriever) -> bool:
        """Return whether a retriever implements `open_remote`."""
        return type(retriever).open_remote is not BaseRetriever.open_remote


@cache
def _original(folder: Path, seed: int, **options: int) -> Original:
    """Write a dataset once per test run: fixtures of a class are set up for each test."""
    path = folder / f"audiomdb-conformance-{seed}"
    options = {"shards": SHARDS, "samples_per_shard": PER_SHARD, **options}
    write_dataset(path, seed=seed, **options)
    return Original(path)
