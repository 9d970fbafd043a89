"""Where a retriever looks, whatever the working directory is by then, and where its cache is."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from audiomdb.errors import CachePlaceError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.stream import SampleStream
from tests.core.caches import CopyRetriever, write_store

SHARDS = 6


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset in the working directory, beside an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    return write_store(tmp_path / "store", SHARDS, 1000)


@pytest.mark.parametrize("cached", [True, False])
def test_an_iteration_goes_on_in_another_working_directory(cached: bool, store: Path) -> None:
    retriever: BaseRetriever = LocalRetriever("store")
    if cached:
        retriever = CopyRetriever(store, cache_dir="cache")
    samples = iter(SampleStream(retriever, window=1, num_threads=0))
    next(samples)
    os.chdir("elsewhere")
    assert len(list(samples)) == SHARDS - 1
    assert list(Path().iterdir()) == []
    retriever.close()


def test_a_forked_process_uses_the_cache_of_its_parent_from_another_working_directory(
    store: Path,
) -> None:
    retriever = CopyRetriever(store, cache_dir="cache")
    list(SampleStream(retriever))
    os.chdir("elsewhere")
    context = multiprocessing.get_context("fork")
    fetched = context.SimpleQueue()

    def read() -> None:
        fetched.put((len(list(SampleStream(retriever))), retriever.cache_stats.fetched_shards))

    child = context.Process(target=read)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert fetched.get() == (SHARDS, 0)
    assert list(Path().iterdir()) == []
    retriever.close()


def test_caches_are_in_the_home_directory_unless_another_absolute_one_is_set(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(store.parent / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    here = Path(CopyRetriever(store).cache_dir)
    assert here.parent == store.parent / "home" / ".cache" / "audiomdb"
    monkeypatch.setenv("XDG_CACHE_HOME", str(store.parent / "caches"))
    assert Path(CopyRetriever(store).cache_dir).parent == store.parent / "caches" / "audiomdb"


def test_without_a_home_directory_the_error_asks_for_another_one(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(CachePlaceError, match="no home directory: give cache_dir="):
        len(CopyRetriever(store))
    assert len(CopyRetriever(store, cache_dir="cache")) == SHARDS
