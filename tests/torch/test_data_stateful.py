"""torchdata's StatefulDataLoader goes on with the exact next batch, on as many workers."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest

from audiomdb.data.base import CombinedDataset, StreamingDataset
from audiomdb.errors import PlanError
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetWriter
from tests.torch.clips import by_batch

stateful = pytest.importorskip("torchdata.stateful_dataloader")

# torchdata's last release and a newer torch.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

CLIPS = 61
NAMES = [f"{i:02d}" for i in range(CLIPS)]

WAYS = pytest.mark.parametrize("way", ["samples", "batches", "combined"])
WORKERS = pytest.mark.parametrize("num_workers", [0, 1, 2])


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> LocalRetriever:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, samples_per_shard=20) as writer:
        for i, name in enumerate(NAMES):
            audio = np.full(80 + i, i / 64, np.float32)
            writer.write(name, {"audio": audio, "sample_rate": 8000, "text": name})
    return LocalRetriever(path)


def loader(retriever: LocalRetriever, way: str, num_workers: int, **how: Any) -> Any:
    options: dict[str, Any] = {"seed": 3, "num_threads": 2, "epochs": how.pop("epochs", 1)}
    if way == "batches":
        options |= {"batch_size": 6, "tail": "uneven"}
    if way == "combined":
        halves = [lambda index: index["frames"] < 110, lambda index: index["frames"] >= 110]
        parts = [StreamingDataset(retriever, shuffle=True, where=half) for half in halves]
        dataset: Any = CombinedDataset(parts, **options)
    else:
        dataset = StreamingDataset(retriever, shuffle=True, **options)
    batch_size = None if way == "batches" else 6
    return stateful.StatefulDataLoader(dataset, batch_size, num_workers=num_workers, **how)


@WAYS
@WORKERS
def test_a_stateful_loader_resumes_after_every_batch(
    retriever: LocalRetriever, way: str, num_workers: int
) -> None:
    whole = loader(retriever, way, num_workers)
    epochs = [by_batch(whole), by_batch(whole)]
    for epoch in epochs:
        assert Counter(key for batch in epoch for key in batch) == Counter(NAMES)
    assert epochs[0] != epochs[1]
    draw = random.Random(num_workers)
    for _ in range(3):
        taken = draw.randrange(1, len(epochs[0]))
        begun = loader(retriever, way, num_workers)
        batches = iter(begun)
        got = by_batch(islice(batches, taken))
        state = json.loads(json.dumps(begun.state_dict()))
        del batches
        later = loader(retriever, way, num_workers)
        later.load_state_dict(state)
        assert got + by_batch(later) == epochs[0]
        assert by_batch(later) == epochs[1]


@WORKERS
def test_a_stateful_loader_resumes_between_epochs_with_the_next(
    retriever: LocalRetriever, num_workers: int
) -> None:
    whole = loader(retriever, "samples", num_workers)
    epochs = [by_batch(whole) for _ in range(3)]
    begun = loader(retriever, "samples", num_workers)
    assert [by_batch(begun), by_batch(begun)] == epochs[:2]
    later = loader(retriever, "samples", num_workers)
    later.load_state_dict(begun.state_dict())
    rest = by_batch(later)
    # torchdata's own: the end of an epoch is a place too, where nothing is left of it.
    assert (rest or by_batch(later)) == epochs[2]


@WAYS
@WORKERS
def test_a_pass_of_several_epochs_ends_where_it_would_have(
    retriever: LocalRetriever, way: str, num_workers: int
) -> None:
    whole = loader(retriever, way, num_workers, epochs=2)
    passes = [by_batch(whole), by_batch(whole)]
    length = len(passes[0])
    # In between, some workers are in the first epoch still, and others in the second.
    for taken in (length // 4, length // 2 - 1, length // 2, length // 2 + 1, length - 2, length):
        begun = loader(retriever, way, num_workers, epochs=2)
        batches = iter(begun)
        got = by_batch(islice(batches, taken))
        state = json.loads(json.dumps(begun.state_dict()))
        del batches
        later = loader(retriever, way, num_workers, epochs=2)
        later.load_state_dict(state)
        assert got + by_batch(later) == passes[0]
        assert by_batch(later) == passes[1]


@WAYS
@WORKERS
def test_a_state_after_the_last_batch_leaves_nothing_of_the_pass(
    retriever: LocalRetriever, way: str, num_workers: int
) -> None:
    def begin() -> Any:
        # 60 of 61 samples: the last batch is full, and does not show that it is the last.
        kept = np.arange(CLIPS) != 60
        batch_size = 6 if way == "batches" else None
        part = StreamingDataset(retriever, shuffle=True, where=kept)
        dataset = CombinedDataset([part], batch_size=batch_size)
        each = None if way == "batches" else 6
        return stateful.StatefulDataLoader(dataset, each, num_workers=num_workers)

    whole = begin()
    epochs = [by_batch(whole), by_batch(whole)]
    begun = begin()
    batches = iter(begun)
    assert by_batch(islice(batches, len(epochs[0]))) == epochs[0]
    later = begin()
    later.load_state_dict(begun.state_dict())
    assert by_batch(later) == []
    assert by_batch(later) == epochs[1]


@pytest.mark.parametrize("way", ["samples", "batches"])
def test_worker_states_without_the_end_of_their_pass_resume(
    retriever: LocalRetriever, way: str
) -> None:
    epoch = by_batch(loader(retriever, way, 2))
    begun = loader(retriever, way, 2)
    batches = iter(begun)
    got = by_batch(islice(batches, 4))
    state = without(begun.state_dict(), "end")
    later = loader(retriever, way, 2)
    later.load_state_dict(state)
    assert got + by_batch(later) == epoch


def without(state: Any, name: str) -> Any:
    """Nested dicts in which nothing has this name."""
    if not isinstance(state, dict):
        return state
    return {key: without(value, name) for key, value in state.items() if key != name}


@WAYS
def test_a_stateful_loader_resumes_with_persistent_workers_too(
    retriever: LocalRetriever, way: str
) -> None:
    expected = loader(retriever, way, 2)
    epochs = [by_batch(expected), by_batch(expected)]
    begun = loader(retriever, way, 2, persistent_workers=True)
    assert by_batch(begun) == epochs[0]
    batches = iter(begun)
    got = by_batch(islice(batches, 4))
    state = begun.state_dict()
    later = loader(retriever, way, 2, persistent_workers=True)
    later.load_state_dict(state)
    assert got + by_batch(later) == epochs[1]


def test_a_stateful_loader_resumes_between_rare_snapshots(retriever: LocalRetriever) -> None:
    epoch = by_batch(loader(retriever, "samples", 2))
    begun = loader(retriever, "samples", 2, snapshot_every_n_steps=4)
    batches = iter(begun)
    got = by_batch(islice(batches, 6))
    later = loader(retriever, "samples", 2)
    later.load_state_dict(begun.state_dict())
    assert got + by_batch(later) == epoch


def test_ranks_keep_their_own_states(retriever: LocalRetriever) -> None:
    met: Counter[str] = Counter()
    for rank in range(2):

        def mine(rank: int = rank) -> Any:
            dataset = StreamingDataset(
                retriever, shuffle=True, rank=rank, world_size=2, tail="uneven"
            )
            return stateful.StatefulDataLoader(dataset, 4, num_workers=2)

        begun = mine()
        batches = iter(begun)
        met.update(key for batch in islice(batches, 3) for key in batch["__key__"])
        later = mine()
        later.load_state_dict(begun.state_dict())
        met.update(key for batch in later for key in batch["__key__"])
    assert met == Counter(NAMES)


def test_another_number_of_workers_or_another_dataset_is_refused(retriever: LocalRetriever) -> None:
    begun = loader(retriever, "samples", 0)
    batches = iter(begun)
    next(batches)
    state = begun.state_dict()
    other = stateful.StatefulDataLoader(StreamingDataset(retriever, shuffle=True, seed=4), 6)
    other.load_state_dict(state)
    with pytest.raises(PlanError, match="seed was 3 and is 4"):
        next(iter(other))
