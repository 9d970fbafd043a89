"""The loader whose batches are made by the plan."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch

from audiomdb.data.base import CombinedDataset, StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.errors import PlanError
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from tests.torch.clips import NAMES, by_batch, frames, keys, left_behind

WORLDS = [(ranks, workers) for ranks in (1, 2, 3, 4) for workers in (0, 1, 2)]


def loader(
    retriever: LocalRetriever, ranks: int = 1, rank: int = 0, threads: int = 2, **how: Any
) -> StreamingLoader:
    dataset = StreamingDataset(
        retriever, threads, shuffle=True, seed=3, rank=rank, world_size=ranks
    )
    return StreamingLoader(dataset, 12, **{"tail": "pad", **how})


def undisturbed(retriever: LocalRetriever, epochs: int, **how: Any) -> list[list[str]]:
    return by_batch(loader(retriever, epochs=epochs, **how))


def gathered(parts: list[list[list[str]]]) -> list[list[str]]:
    return [[key for part in batch for key in part] for batch in zip(*parts, strict=True)]


def test_batches_are_padded_and_marked(retriever: LocalRetriever) -> None:
    met = []
    for batch in loader(retriever):
        numbers = torch.tensor([int(text) for text in batch["text"]])
        assert batch["audio_lengths"].tolist() == [frames(int(text)) for text in batch["text"]]
        assert batch["audio"].shape == (12, int(batch["audio_lengths"].max()))
        assert torch.equal(batch["audio"][:, 0], (numbers - 35) / 64)
        marks = batch["__mask__"].tolist()
        met += [key for key, mark in zip(batch["__key__"], marks, strict=True) if mark]
    assert sorted(met) == NAMES


@pytest.mark.parametrize(("ranks", "workers"), WORLDS)
def test_every_world_has_the_same_steps(
    retriever: LocalRetriever, ranks: int, workers: int
) -> None:
    expected = undisturbed(retriever, 2)
    parts = []
    for rank in range(ranks):
        mine = loader(retriever, ranks, rank, num_workers=workers, epochs=2)
        assert len(mine) == len(expected) == 12
        parts.append(by_batch(mine))
    assert gathered(parts) == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_interruptions_with_other_ranks_and_workers_do_not_show(
    retriever: LocalRetriever, seed: int
) -> None:
    draw = random.Random(seed)
    expected = undisturbed(retriever, 4, partitions=2)
    got: list[list[str]] = []
    state: dict[str, Any] | None = None
    while len(got) < len(expected):
        ranks, workers = draw.choice(WORLDS)
        wanted, threads = draw.randint(1, 8), draw.choice([0, 3])
        parts, states = [], []
        for rank in range(ranks):
            # Partitions come from the state.
            how = {"partitions": 2} if state is None else {}
            mine = loader(retriever, ranks, rank, threads, num_workers=workers, epochs=None, **how)
            if state is not None:
                mine.load_state_dict(state)
                assert mine.state_dict() == state
            parts.append(by_batch(islice(mine, wanted)))
            states.append(json.dumps(mine.state_dict()))
        got += gathered(parts)
        assert len(set(states)) == 1
        assert len(states[0]) < 1000
        state = json.loads(states[0])
    assert got[: len(expected)] == expected


def test_each_pass_is_a_new_epoch_and_an_early_break_ends_one(retriever: LocalRetriever) -> None:
    expected = undisturbed(retriever, 3)
    mine = loader(retriever)
    first = next(iter(mine))["__key__"]
    second = by_batch(mine)
    assert first == expected[0]
    assert second == expected[6:12]
    mine.set_epoch(2)
    assert by_batch(mine) == expected[12:]


def test_an_unused_iterator_begins_no_pass(retriever: LocalRetriever) -> None:
    expected = undisturbed(retriever, 2)
    begun = loader(retriever)
    state = [begun.state_dict() for _ in islice(begun, 2)][-1]
    mine = loader(retriever)
    unasked = [iter(mine)]
    assert mine.state_dict() == loader(retriever).state_dict()
    mine.load_state_dict(state)
    unasked.append(iter(mine))
    assert mine.state_dict() == state
    assert by_batch(mine) == expected[2:6]
    unasked.append(iter(mine))
    # Asked later, it is the next pass, and none of those in between.
    assert by_batch(unasked[0]) == expected[6:]


def test_a_new_loader_skips_the_passes_that_lightning_counts(retriever: LocalRetriever) -> None:
    expected = undisturbed(retriever, 5)
    mine = loader(retriever)
    mine.batch_sampler.sampler.set_epoch(1)
    assert by_batch(mine) == expected[6:12]
    # From here on it counts for itself, over several runs if need be.
    mine.batch_sampler.sampler.set_epoch(0)
    assert by_batch(mine) == expected[12:18]
    two_each = loader(retriever, epochs=2)
    two_each.batch_sampler.sampler.set_epoch(1)
    assert by_batch(two_each) == expected[12:24]
    # A state is worth more than a count.
    begun = loader(retriever)
    state = [begun.state_dict() for _ in islice(begun, 2)][-1]
    resumed = loader(retriever)
    resumed.load_state_dict(state)
    resumed.batch_sampler.sampler.set_epoch(3)
    assert by_batch(resumed) == expected[2:6]


def test_breaking_off_leaves_no_thread_and_no_process(retriever: LocalRetriever) -> None:
    for workers in (0, 2):
        for batch in loader(retriever, num_workers=workers, epochs=None):
            assert batch["__key__"]
            break
    assert left_behind() == []


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_workers_of_every_start_method_make_the_same_batches(
    retriever: LocalRetriever, start_method: str
) -> None:
    mine = loader(retriever, num_workers=2, multiprocessing_context=start_method)
    assert by_batch(mine) == undisturbed(retriever, 1)


def test_an_evaluation_has_every_sample_once(retriever: LocalRetriever) -> None:
    for ranks, workers in [(1, 0), (4, 0), (6, 2)]:
        met = [
            key
            for rank in range(ranks)
            for key in keys(loader(retriever, ranks, rank, num_workers=workers, tail="uneven"))
        ]
        assert sorted(met) == NAMES


def test_the_number_of_nodes_becomes_the_number_of_partitions(
    retriever: LocalRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert loader(retriever, ranks=4).state_dict()["options"]["partitions"] == 2
    started = loader(retriever, ranks=6)
    assert started.state_dict()["options"]["partitions"] == 3
    later = loader(retriever, ranks=4)
    later.load_state_dict(started.state_dict())
    assert later.state_dict() == started.state_dict()
    # The partition in the middle has parts of two shards, and is read by both nodes.
    with pytest.warns(UserWarning, match=r"3 partitions .* 2 nodes: of 4 shards .* 2 are read"):
        assert len(list(later)) == len(later)
    assert len(list(later)) == len(later)


def test_a_loader_works_with_filters_and_a_custom_collate_fn(retriever: LocalRetriever) -> None:
    def count_keys(samples: Any) -> list[str]:
        return [sample["__key__"] for sample in samples]

    dataset = StreamingDataset(
        retriever,
        shuffle=True,
        min_duration=frames(10) / 8000,
        where=lambda index: index["text_length"] == 2,
    )
    mine = StreamingLoader(dataset, 12, tail="uneven", collate_fn=count_keys)
    assert sorted(key for batch in mine for key in batch) == NAMES[10:]


def spoil(sample: Sample) -> Sample:
    if sample["text"] == "41":
        raise RuntimeError("spoilt")
    return sample


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_reaches_the_loop_and_can_be_skipped(
    retriever: LocalRetriever, workers: int
) -> None:
    dataset = StreamingDataset(retriever, processor=spoil)
    mine = StreamingLoader(dataset, 10, num_workers=workers)
    got: list[Any] = []
    with pytest.raises(RuntimeError, match="spoilt"):
        got.extend(mine)
    assert keys(got) == NAMES[:40]
    state = mine.state_dict()
    assert state["next_step"] == 4  # the step that fails
    again = StreamingLoader(dataset, 10, num_workers=workers)
    again.load_state_dict({**state, "next_step": 5})
    assert by_batch(again) == [NAMES[50:60], NAMES[60:]]


def test_a_length_counts_the_batches_that_a_rank_gets(retriever: LocalRetriever) -> None:
    for rank in range(6):
        where: Any = {"rank": rank, "world_size": 6}
        dataset = StreamingDataset(retriever, **where)
        loader = StreamingLoader(dataset, 66, tail="uneven", epochs=2)
        batched = StreamingDataset(retriever, batch_size=66, tail="uneven", epochs=2, **where)
        # The second step has four samples, and two ranks have none of it.
        assert len(loader) == len(list(loader)) == len(batched) == len(list(batched))
    forever = StreamingLoader(StreamingDataset(retriever), 66, epochs=10**12)
    assert len(forever) == 10**12


class _Louder(StreamingDataset):
    def __iter__(self) -> Iterator[Any]:
        return ({**sample, "audio": 2 * sample["audio"]} for sample in super().__iter__())


def test_what_does_not_fit_is_refused(retriever: LocalRetriever) -> None:
    state = loader(retriever).state_dict()
    dataset = StreamingDataset(retriever, shuffle=True, seed=4)
    with pytest.raises(PlanError, match="seed was 3 and is 4"):
        StreamingLoader(dataset, 12, tail="pad").load_state_dict(state)
    with pytest.raises(PlanError, match="batch_size was 12 and is 24"):
        StreamingLoader(loader(retriever).dataset, 24, tail="pad").load_state_dict(state)
    with pytest.raises(PlanError, match="batch_size 12 cannot be shared evenly by 5 ranks"):
        loader(retriever, ranks=5)
    wrong: Any
    for wrong in (retriever, [1], None):
        with pytest.raises(TypeError, match="expected a StreamingDataset or a CombinedDataset"):
            StreamingLoader(wrong, 12)
    with pytest.raises(TypeError, match=r"_Louder, whose own __iter__ .* processor="):
        StreamingLoader(_Louder(retriever), 12)
    with pytest.raises(TypeError, match="dataset 1 is _Louder, whose own __iter__"):
        CombinedDataset([dataset, _Louder(retriever)])
    for wrong in (5, None, dataset):
        with pytest.raises(TypeError, match="expected a URL, a folder, a retriever or a reader"):
            StreamingDataset(wrong)
    for wrong in (None, [], {"version": 1, "options": None}):
        with pytest.raises(PlanError, match="plan's state"):
            dataset.load_state_dict(wrong)
    for wrong in (-1, 1.5, "2"):
        for name in ("num_workers", "prefetch_factor", "epochs"):
            with pytest.raises(ValueError, match=f"{name}.* must be a whole number"):
                StreamingLoader(dataset, 12, **{name: wrong})
        with pytest.raises(ValueError, match="epochs, unless None for no end, must be a whole"):
            StreamingDataset(retriever, epochs=wrong)
    for wrong in (0, -1.5, float("nan"), "10"):
        makes: list[Any] = [partial(StreamingDataset, retriever)]
        makes.append(partial(StreamingLoader, dataset, 12))
        for make in makes:
            with pytest.raises(ValueError, match="stall_after_s is "):
                make(stall_after_s=wrong)
    with pytest.raises(TypeError, match="epochs=None"):
        len(StreamingLoader(dataset, 12, epochs=None))
