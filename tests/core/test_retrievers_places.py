"""Where a retriever looks, where its cache is, and what it accepts as options."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import CachePlaceError, InvalidURLError
from audiomdb.retrievers._naming import retriever_name
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetReader
from audiomdb.stream import SampleStream
from audiomdb.uploaders.local import LocalUploader
from tests.core.caches import CopyRetriever, write_store

SHARDS = 6


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset in the working directory, beside an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    return write_store(tmp_path / "store", SHARDS, 1000)


def test_two_threads_that_open_a_dataset_at_once_count_with_one_cache(store: Path) -> None:
    one_has_opened, go_on = threading.Event(), threading.Event()

    class Slow(CopyRetriever):
        def make_reader(self) -> DatasetReader:
            reader = super().make_reader()
            if not one_has_opened.is_set():
                one_has_opened.set()
                assert go_on.wait(60)
            return reader

    retriever = Slow(store, cache_dir="cache")
    thread = threading.Thread(target=retriever.open)
    thread.start()
    assert one_has_opened.wait(60)
    retriever.open()
    go_on.set()
    thread.join(60)
    assert len(retriever.open()["clip-0"]["blob"]) == 1000
    assert retriever.cache_stats.fetched_shards == 1
    retriever.close()


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
    child.join(300)
    assert child.exitcode == 0
    assert fetched.get() == (SHARDS, 0)
    assert list(Path().iterdir()) == []
    retriever.close()


def test_a_pickled_retriever_uses_the_same_cache_from_another_working_directory(
    store: Path,
) -> None:
    retriever = CopyRetriever(store, cache_dir="cache")
    pickled = pickle.dumps(retriever)
    os.chdir("elsewhere")
    assert pickle.loads(pickled).cache_dir == retriever.cache_dir


def test_caches_are_in_the_home_or_the_xdg_cache_directory(
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


def test_a_url_is_no_place_for_a_cache(store: Path) -> None:
    before = sorted(Path().iterdir())
    with pytest.raises(InvalidURLError, match=r"is a URL, expected a directory: .* a local disk"):
        CopyRetriever(store, cache_dir="s3://bucket/caches").open()
    assert sorted(Path().iterdir()) == before


def test_a_cache_name_depends_on_values_of_arguments_not_their_types() -> None:
    class Store(BaseRetriever):
        def __init__(self, what: Any) -> None: ...

        def make_reader(self) -> DatasetReader:
            raise NotImplementedError

    class Text(str):
        __slots__ = ()

        def __repr__(self) -> str:
            return "Text"

    def name(what: Any) -> str:
        return retriever_name(Store, (what,), {})

    assert name(np.str_("a")) == name(Text("a")) == name("a") != name(Text("b"))
    assert name(np.int64(3)) == name(3) != name(True)
    assert name(np.float32(0.5)) == name(0.5)
    some = np.arange(10_000)
    others = some.copy()
    others[5_000] = 0  # of which a repr shows nothing
    assert name(some) == name(some.tolist()) != name(others)


def test_numbers_of_numpy_are_options_too(store: Path) -> None:
    number: Any = np.int64(10**9)
    retriever = CopyRetriever(
        store, cache_dir="cache", max_cache_bytes=number, prefetch=np.uint8(2), workers=np.int16(3)
    )
    assert len(list(SampleStream(retriever, shuffle=True))) == SHARDS
    retriever.close()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_cache_bytes", 1e9, "unless None for no limit, must be a whole number from 0 on"),
        ("max_cache_bytes", "1GB", "unless None for no limit, must be a whole number from 0 on"),
        ("max_cache_bytes", -1, "unless None for no limit, must be a whole number from 0 on"),
        ("prefetch", None, "must be a whole number from 0 on"),
        ("workers", 0, "must be a whole number from 1 on"),
        ("workers", "4", "must be a whole number from 1 on"),
    ],
)
def test_other_options_are_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=f"{name},? {expected}, not {value!r}"):
        CopyRetriever(Path(), **{name: value})


@pytest.mark.parametrize("workers", [0, 2.5, "4"])
def test_an_uploader_sends_a_whole_number_of_files_at_once(workers: Any) -> None:
    with pytest.raises(ValueError, match=f"workers must be a whole number .*, not {workers!r}"):
        LocalUploader("x", workers=workers)
    assert LocalUploader("x", workers=np.int64(3)).workers == 3  # type: ignore[arg-type]
