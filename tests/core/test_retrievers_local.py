"""A retriever leads to a dataset, in whatever process it is used."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import resource
from pathlib import Path
from typing import Any

import pytest

from audiomdb.errors import DatasetNotFoundError
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetReader, DatasetWriter


class CountingRetriever(BaseRetriever):
    """As users write them: attributes first, no call of the base's constructor, and a client."""

    def __init__(self, folder: Path, *, name: str = "") -> None:
        self.client = lambda: folder  # cannot be pickled
        self.name = name
        self.calls = 0

    def make_reader(self) -> DatasetReader:
        self.calls += 1
        return DatasetReader.open(self.client())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "words"
    with DatasetWriter(path) as writer:
        for i in range(3):
            writer.write(f"word-{i}", {"text": str(i)})
    return path


def test_a_local_retriever_opens_the_dataset_in_place(dataset: Path) -> None:
    retriever = LocalRetriever(dataset)
    assert len(retriever) == 3
    assert retriever.metadata.name == "words"
    assert retriever.open()["word-1"]["text"] == "1"
    assert repr(retriever) == f"LocalRetriever({str(dataset)!r})"


def test_making_a_retriever_reads_nothing(tmp_path: Path) -> None:
    retriever = LocalRetriever(tmp_path / "nowhere")
    with pytest.raises(DatasetNotFoundError, match="nowhere"):
        retriever.open()


def test_a_dataset_is_opened_once(dataset: Path) -> None:
    retriever = CountingRetriever(dataset)
    assert retriever.open() is retriever.open()
    assert len(retriever) == 3
    assert retriever.calls == 1


def test_a_closed_retriever_opens_again(dataset: Path) -> None:
    retriever = CountingRetriever(dataset)
    retriever.close()
    first = retriever.open()
    retriever.close()
    retriever.close()
    assert retriever.open() is not first
    assert retriever.calls == 2


def test_a_retriever_pickles_as_its_arguments(dataset: Path) -> None:
    retriever = CountingRetriever(dataset, name="given")
    retriever.open()
    copy = pickle.loads(pickle.dumps(retriever))
    assert copy.name == "given"
    assert copy.calls == 0
    assert len(copy) == 3


def _in_child(retriever: CountingRetriever, results: Any) -> None:
    before = retriever.open() is results["reader"]
    results["queue"].put((before, retriever.calls, len(retriever), retriever.open()[0]["text"]))


def test_a_forked_process_opens_the_dataset_for_itself(dataset: Path) -> None:
    fork = multiprocessing.get_context("fork")
    retriever = CountingRetriever(dataset)
    results: dict[str, Any] = {"queue": fork.SimpleQueue(), "reader": retriever.open()}
    child = fork.Process(target=_in_child, args=(retriever, results))
    child.start()
    same_reader, calls_of_the_parents_object, length, text = results["queue"].get()
    child.join(300)
    assert (same_reader, calls_of_the_parents_object) == (False, 1)
    assert (length, text) == (3, "0")


def test_a_retriever_has_to_say_how_to_read() -> None:
    with pytest.raises(TypeError, match=r"BaseRetriever is abstract: implement .* make_reader"):
        BaseRetriever()


def test_too_many_open_files_are_an_error_that_says_how_to_open_fewer(dataset: Path) -> None:
    reader = DatasetReader.open(dataset)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as lowest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno(), limits[1]))
        try:
            with pytest.raises(OSError, match="the same LocalRetriever") as caught:
                reader[0]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.errno == errno.EMFILE
    assert caught.value.filename == str(dataset / "shard_00000" / "data.mdb")
