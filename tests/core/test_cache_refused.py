"""A budget is refused as too small: whoever tries again with a larger one is not held to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audiomdb.errors import CacheTooSmallError
from audiomdb.stream import SampleStream
from tests.core.caches import CopyRetriever, budget, write_store

SHARDS = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"), SHARDS, 100_000)


Retrieve = Callable[[int], CopyRetriever]


@pytest.fixture
def retriever(store: Path, tmp_path: Path) -> Iterator[Retrieve]:
    """Makes retrievers with room for so many shards; all of them have one cache directory."""
    made: list[CopyRetriever] = []

    def make(shards: int) -> CopyRetriever:
        limit = budget(store, shards)
        made.append(CopyRetriever(store, cache_dir=tmp_path / "cache", max_cache_bytes=limit))
        return made[-1]

    yield make
    for one in made:
        one.close()


def keys_read(retriever: CopyRetriever) -> int:
    with SampleStream(retriever, shuffle=True, window=4) as stream:
        return len({sample["__key__"] for sample in stream})


def first_size(retriever: CopyRetriever) -> int:
    return len(retriever.open()[0]["blob"])


@pytest.mark.parametrize("use", [keys_read, first_size])
def test_a_larger_budget_holds_although_the_refused_retriever_is_kept(
    use: Callable[[CopyRetriever], int], retriever: Retrieve
) -> None:
    small = retriever(2 if use is keys_read else 0)
    with pytest.raises(CacheTooSmallError) as caught:
        use(small)
    assert use(retriever(SHARDS)) > 0
    assert caught.value.__traceback__ is not None, "its frames are kept, as in a notebook"


def test_a_refused_retriever_can_be_used_with_less(
    retriever: Retrieve, caplog: pytest.LogCaptureFixture
) -> None:
    small = retriever(2)
    with pytest.raises(CacheTooSmallError):
        keys_read(small)
    assert small.open()[0]["__key__"] == "clip-0"
    with pytest.raises(CacheTooSmallError, match="max_cache_bytes"):
        keys_read(retriever(SHARDS))  # the directory is in use again, with the smaller budget
    assert "is in use with max_cache_bytes=" in caplog.text


def test_a_refusal_beside_a_running_iteration_changes_nothing(
    retriever: Retrieve, caplog: pytest.LogCaptureFixture
) -> None:
    small = retriever(3)
    with SampleStream(small) as stream:
        samples = iter(stream)
        next(samples)
        with pytest.raises(CacheTooSmallError):
            keys_read(small)
        with pytest.raises(CacheTooSmallError):
            keys_read(retriever(SHARDS))
        assert "is in use with max_cache_bytes=" in caplog.text
        assert len(list(samples)) == SHARDS - 1
