"""Datasets that go on where a state stands, and make their own batches."""

from __future__ import annotations

import json
import random
from itertools import islice
from typing import Any

import pytest
from torch.utils.data import DataLoader

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.errors import PlanError
from audiomdb.retrievers.local import LocalRetriever
from tests.torch.clips import NAMES, by_batch, keys


def dataset(retriever: LocalRetriever, **how: Any) -> StreamingDataset:
    return StreamingDataset(retriever, **{"num_threads": 0, "shuffle": True, "seed": 3, **how})


@pytest.mark.parametrize("tail", ["drop", "pad", "uneven"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_dataset_with_a_batch_size_yields_the_batches_of_the_plan(
    retriever: LocalRetriever, workers: int, tail: Any
) -> None:
    expected = StreamingLoader(dataset(retriever), 12, tail=tail, epochs=2)
    mine = dataset(retriever, batch_size=12, tail=tail, epochs=2)
    loader = DataLoader(mine, batch_size=None, num_workers=workers)
    assert by_batch(loader) == by_batch(expected)
    assert len(mine) == len(expected)
    if tail == "uneven":
        assert len(by_batch(loader)[-1]) == 10


def test_ranks_share_the_batches_of_a_dataset(retriever: LocalRetriever) -> None:
    whole = by_batch(DataLoader(dataset(retriever, batch_size=12), batch_size=None))
    assert len(whole) == 5  # the rest is dropped unless a tail is asked for
    parts = [
        by_batch(DataLoader(dataset(retriever, batch_size=12, rank=rank, world_size=3), None))
        for rank in range(3)
    ]
    together: list[list[str]] = [sum(step, []) for step in zip(*parts, strict=True)]  # noqa: RUF017
    assert together == whole
    with pytest.raises(PlanError, match="batch_size 12 cannot be shared evenly by 5 ranks"):
        dataset(retriever, batch_size=12, rank=0, world_size=5)


def test_a_dataset_collates_its_batches_with_its_collate_fn(retriever: LocalRetriever) -> None:
    mine = dataset(retriever, batch_size=35, fields=["text"], collate_fn=len)
    assert list(DataLoader(mine, batch_size=None)) == [35, 35]
    assert list(mine) == [35, 35]


@pytest.mark.parametrize("batch_size", [None, 10])
def test_a_dataset_resumes_after_any_sample_or_batch(
    retriever: LocalRetriever, batch_size: int | None
) -> None:
    draw = random.Random(5)
    how = {"batch_size": batch_size, "partitions": 2}
    expected = [str(one["__key__"]) for one in dataset(retriever, epochs=4, **how)]
    got: list[str] = []
    state: dict[str, Any] | None = None
    while len(got) < len(expected):
        # Partitions come from the state.
        mine = dataset(
            retriever,
            epochs=None,
            batch_size=batch_size,
            **({"partitions": 2} if state is None else {}),
        )
        if state is not None:
            mine.load_state_dict(state)
            assert mine.state_dict() == state
        got += [str(one["__key__"]) for one in islice(mine, draw.randint(1, 30))]
        state = json.loads(json.dumps(mine.state_dict()))
        assert len(json.dumps(state)) < 1000
    assert got[: len(expected)] == expected


def test_batches_made_by_torch_resume_after_any_batch(retriever: LocalRetriever) -> None:
    mine = dataset(retriever)
    loader = DataLoader(mine, batch_size=8)
    first = by_batch(islice(loader, 4))
    assert mine.state_dict()["next_step"] == 32
    again = dataset(retriever)
    again.load_state_dict(mine.state_dict())
    assert sorted(keys(DataLoader(again, batch_size=8)) + sum(first, [])) == NAMES  # noqa: RUF017
    # The next pass is a whole epoch again.
    assert again.state_dict()["epoch"] == 1
    assert sorted(keys(DataLoader(again, batch_size=8))) == NAMES


@pytest.mark.parametrize("persistent", [False, True])
def test_a_state_reaches_workers(retriever: LocalRetriever, persistent: bool) -> None:
    expected = by_batch(StreamingLoader(dataset(retriever), 10, epochs=3))
    mine = dataset(retriever, batch_size=10)
    loader = DataLoader(mine, batch_size=None, num_workers=2, persistent_workers=persistent)
    assert by_batch(loader) == expected[:7]
    state = StreamingLoader(dataset(retriever), 10).state_dict()
    mine.load_state_dict({**state, "epoch": 1, "next_step": 3})
    assert by_batch(loader) == expected[10:14]
    assert by_batch(loader) == expected[14:]


def test_a_state_is_refused_if_workers_of_a_plain_loader_have_read(
    retriever: LocalRetriever,
) -> None:
    mine = dataset(retriever, batch_size=10)
    assert mine.state_dict()["next_step"] == 0
    next(iter(DataLoader(mine, batch_size=None, num_workers=1)))
    with pytest.raises(PlanError, match="use StreamingLoader, or torchdata's StatefulDataLoader"):
        mine.state_dict()
    mine.set_epoch(3)
    assert mine.state_dict()["epoch"] == 3
    next(iter(mine))
    assert mine.state_dict()["next_step"] == 1


def test_a_loader_takes_over_the_datasets_batch_size_and_states(retriever: LocalRetriever) -> None:
    mine = dataset(retriever, batch_size=10, tail="pad", partitions=2)
    loader = StreamingLoader(mine)
    assert len(loader) == 7
    next(iter(mine))
    loader.load_state_dict(mine.state_dict())
    assert loader.state_dict()["next_step"] == 1
    assert len(list(loader)) == 6
    mine.load_state_dict(loader.state_dict())
    assert mine.state_dict() == loader.state_dict()
    with pytest.raises(ValueError, match="batch_size is 5, but the dataset has batch_size=10"):
        StreamingLoader(mine, 5)


def test_what_does_not_fit_is_refused_by_name(retriever: LocalRetriever) -> None:
    state = dataset(retriever, batch_size=10).state_dict()
    with pytest.raises(PlanError, match="seed was 3 and is 4"):
        dataset(retriever, batch_size=10, seed=4).load_state_dict(state)
    with pytest.raises(PlanError, match="batch_size was 10 and is 5"):
        dataset(retriever, batch_size=5).load_state_dict(state)
    with pytest.raises(PlanError, match="batch_size was 10 and is not given"):
        dataset(retriever).load_state_dict({**state, "world_size": 1, "num_workers": 1})
    with pytest.raises(PlanError, match="selection was None and is '"):
        dataset(retriever, batch_size=10, max_duration=0.11).load_state_dict(state)
    with pytest.raises(PlanError, match="one of 2 workers, and here are 1"):
        dataset(retriever, batch_size=10).load_state_dict({**state, "skip": 2, "num_workers": 2})
    alone = dataset(retriever)
    next(iter(alone))
    with pytest.raises(PlanError, match=r"after 1 samples of each of 1 ranks .* after 0 and 2"):
        dataset(retriever, rank=0, world_size=2).load_state_dict(alone.state_dict())


def test_nodes_that_do_not_divide_partitions_are_warned_of_once(
    retriever: LocalRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    even = dataset(retriever, rank=0, world_size=2)
    assert len(list(even)) == 35
    mine = dataset(retriever, rank=0, world_size=2, partitions=1)
    with pytest.warns(UserWarning, match=r"1 partitions .* 2 nodes: of 4 shards .* 4 are read"):
        list(mine)
    list(mine)
