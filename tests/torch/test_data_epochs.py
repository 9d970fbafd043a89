"""One count of epochs for a training process and its workers."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, IterableDataset

from audiomdb.data.base import StreamingDataset
from audiomdb.data.epochs import EpochCounter
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetWriter


class Epochs(IterableDataset[int]):
    """Gives the epoch that each worker was told."""

    def __init__(self, counter: EpochCounter) -> None:
        self.counter = counter

    def __iter__(self) -> Any:
        yield self.counter.take(1).epoch


def loader(counter: EpochCounter, num_workers: int = 2, **options: Any) -> DataLoader[int]:
    return DataLoader(Epochs(counter), batch_size=None, num_workers=num_workers, **options)


def test_each_pass_is_the_next_epoch() -> None:
    counter = EpochCounter()
    assert [counter.take(1).epoch for _ in range(3)] == [0, 1, 2]
    assert counter.take(5).epoch == 3
    assert counter.next_epoch == 8
    counter.set(2)
    assert counter.take(1).epoch == 2


@pytest.mark.parametrize("persistent", [False, True])
def test_the_workers_of_a_pass_agree(persistent: bool) -> None:
    counter = EpochCounter()
    epochs = loader(counter, persistent_workers=persistent)
    assert [list(epochs) for _ in range(3)] == [[0, 0], [1, 1], [2, 2]]
    counter.set(7)
    assert list(epochs) == [7, 7]
    assert list(loader(counter, 0)) == [8]
    assert list(epochs) == [9, 9]


def test_passes_that_run_side_by_side_do_not_mix() -> None:
    epochs = loader(EpochCounter())
    pairs = list(zip(epochs, epochs, strict=True))
    first, second = ({epoch for epoch, _ in pairs}, {epoch for _, epoch in pairs})
    assert sorted([*first, *second]) == [0, 1]


def test_a_copied_counter_continues_independently() -> None:
    counter = EpochCounter()
    counter.take(1)
    copy = pickle.loads(pickle.dumps(counter))
    assert [copy.take(1).epoch, copy.take(1).epoch] == [1, 2]
    assert counter.take(1).epoch == 1


def _rank(counter: EpochCounter, answers: Any) -> None:
    answers.put([counter.take(1).epoch, *loader(counter), counter.take(1).epoch])


def test_processes_sharing_a_counter_count_epochs_alike() -> None:
    fork = multiprocessing.get_context("fork")
    counter, answers = EpochCounter(4), fork.SimpleQueue()
    ranks = [fork.Process(target=_rank, args=(counter, answers)) for _ in range(2)]
    for rank in ranks:
        rank.start()
    assert [answers.get(), answers.get()] == [[4, 5, 5, 6]] * 2
    for rank in ranks:
        rank.join(300)
    assert counter.take(1).epoch == 4


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere descriptors have no names")
def test_a_counter_gives_its_descriptor_back() -> None:
    def descriptors() -> int:
        found = 0
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):
                found += "audiomdb-note" in str(descriptor.readlink())
        return found

    gc.collect()
    before = descriptors()
    counters = [EpochCounter() for _ in range(5)]
    assert descriptors() == before + 5
    counters.clear()
    gc.collect()
    assert descriptors() == before


def test_epochs_may_be_a_number_of_numpy(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "clips") as writer:
        for i in range(3):
            writer.write(str(i), {"text": str(i)})
    dataset = StreamingDataset(LocalRetriever(tmp_path / "clips"), epochs=np.int64(2))  # type: ignore[arg-type]
    assert len(dataset) == len(list(dataset)) == 6
    assert dataset.state_dict()["epoch"] == 2
