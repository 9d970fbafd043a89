"""Training by steps: a pass without end neither restarts workers nor pauses between epochs."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from torch.utils.data import DataLoader

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from audiomdb.shards import DatasetWriter

CLIPS = 16
BATCHES = 4
"""Batches in an epoch."""

NAMES = [f"clip-{i:02d}" for i in range(CLIPS)]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> LocalRetriever:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, samples_per_shard=5) as writer:
        for name in NAMES:
            writer.write(name, {"text": name})
    return LocalRetriever(path)


class Asked:
    """A processor that says, through a pipe, which process was asked for a sample."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def __call__(self, sample: Sample) -> dict[str, Any]:
        os.write(self._writing, b"%16d" % os.getpid())
        return dict(sample)

    def wait_for(self, samples: int) -> set[int]:
        """Wait until so many more samples were asked for; by which processes."""
        return {self._one() for _ in range(samples)}

    def wait_for_each_of(self, processes: set[int | None]) -> None:
        """Wait until each of these, and no other, was asked for another sample."""
        lacking = set(processes)
        while lacking:
            one = self._one()
            assert one in processes
            lacking.discard(one)

    def _one(self) -> int:
        return int(os.read(self._reading, 16))

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)


@pytest.fixture
def asked() -> Iterator[Asked]:
    asked = Asked()
    yield asked
    asked.close()


def endless(retriever: LocalRetriever, asked: Asked, kind: str, workers: int) -> Any:
    """A loader of batches without end."""
    size = CLIPS // BATCHES
    dataset = StreamingDataset(
        retriever, 1, shuffle=True, processor=asked, epochs=None if kind == "torch" else 1
    )
    if kind == "torch":
        context = "fork" if workers else None
        return DataLoader(dataset, size, num_workers=workers, multiprocessing_context=context)
    return StreamingLoader(
        dataset, size, epochs=None, num_workers=workers, multiprocessing_context="fork"
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["torch", "streaming"])
def test_the_next_epoch_is_prefetched_before_the_last_batch_is_taken(
    retriever: LocalRetriever, asked: Asked, kind: str, workers: int
) -> None:
    batches = iter(endless(retriever, asked, kind, workers))
    met = [key for batch in islice(batches, BATCHES - 1) for key in batch["__key__"]]
    running = {process.pid for process in multiprocessing.active_children()}
    # All of this epoch, and one more: this waits until it was, or for ever.
    by = asked.wait_for(CLIPS + 1)
    assert by <= (running or {os.getpid()})
    assert len(running) == workers
    met += next(batches)["__key__"]
    assert sorted(met) == NAMES
    second = [key for batch in islice(batches, BATCHES) for key in batch["__key__"]]
    assert sorted(second) == NAMES
    assert second != met
    # How far one worker reads ahead of the other is theirs; but both are at it, the same two.
    asked.wait_for_each_of(running or {os.getpid()})
    assert {process.pid for process in multiprocessing.active_children()} == running
    del batches
