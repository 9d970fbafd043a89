"""Passes over a loader or dataset: where they begin and end, however the one before was left."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.errors import PlanError
from audiomdb.retrievers.local import LocalRetriever
from tests.torch.clips import by_batch

STEPS = 5
"""Steps in an epoch by number; ten samples are left out."""


def dataset(retriever: LocalRetriever, **how: Any) -> StreamingDataset:
    return StreamingDataset(retriever, **{"num_threads": 0, "shuffle": True, "seed": 3, **how})


def loader(retriever: LocalRetriever, **how: Any) -> StreamingLoader:
    return StreamingLoader(dataset(retriever), 12, **{"tail": "drop", **how})


def by_seconds(retriever: LocalRetriever, **how: Any) -> StreamingLoader:
    return StreamingLoader(dataset(retriever), max_batch_seconds=0.9, num_buckets=3, **how)


def epochs_of(retriever: LocalRetriever, epochs: int) -> list[list[list[str]]]:
    """The batches of each epoch by number."""
    each = loader(retriever)
    return [by_batch(each) for _ in range(epochs)]


def batches_of(epochs: list[list[list[str]]]) -> list[list[str]]:
    return [batch for epoch in epochs for batch in epoch]


def after(mine: Any, steps: int) -> dict[str, Any]:
    """The state of a loader or dataset after some steps, as a checkpoint keeps it."""
    assert len(list(islice(mine, steps))) == steps
    state: dict[str, Any] = json.loads(json.dumps(mine.state_dict()))
    return state


def discarded(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of states that are discarded, since this was asked last."""
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return [message for message in found if "discarded" in message]


def test_a_state_that_is_refused_changes_nothing(retriever: LocalRetriever) -> None:
    for make in (loader, dataset):
        mine: Any = make(retriever)
        before = mine.state_dict()
        other: Any = StreamingDataset(retriever, shuffle=True, seed=4, partitions=2)
        if make is loader:
            other = StreamingLoader(other, 12)
        with pytest.raises(PlanError, match="seed was 4 and is 3"):
            mine.load_state_dict(other.state_dict())
        assert mine.state_dict() == before


def test_a_state_of_an_endless_pass_survives_set_epoch_0(
    retriever: LocalRetriever, caplog: pytest.LogCaptureFixture
) -> None:
    expected = epochs_of(retriever, 4)
    state = after(loader(retriever, epochs=None), 2 * STEPS + 3)
    later = loader(retriever, epochs=None)
    later.load_state_dict(state)
    later.set_epoch(0)  # as the transformers Trainer does, which knows of a single epoch
    assert by_batch(islice(later, 2 + STEPS)) == expected[2][3:] + expected[3]
    later.load_state_dict(state)
    assert discarded(caplog) == []
    later.set_epoch(3)
    assert by_batch(islice(later, STEPS)) == expected[3]
    assert len(discarded(caplog)) == 1


@pytest.mark.parametrize("kind", ["loader", "dataset"])
def test_passes_of_several_epochs_are_counted_as_frameworks_do(
    retriever: LocalRetriever, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = epochs_of(retriever, 6)

    def make() -> Any:
        if kind == "loader":
            return loader(retriever, epochs=2)
        return dataset(retriever, batch_size=12, epochs=2)

    mine = make()
    for number in (0, 2, 1):
        mine.set_epoch(number)
        assert by_batch(mine) == batches_of(expected[2 * number : 2 * number + 2])
    mine.set_epoch(1)
    state = after(mine, STEPS + 2)
    later = make()
    later.load_state_dict(state)
    later.set_epoch(1)
    assert by_batch(later) == expected[3][2:]
    assert by_batch(later) == batches_of(expected[4:])
    assert discarded(caplog) == []
    for number in (0, 2):
        later.load_state_dict(state)
        later.set_epoch(number)
        assert by_batch(later) == batches_of(expected[2 * number : 2 * number + 2])
        (line,) = discarded(caplog)
        assert "state, of epoch 3," in line
        assert f"with epoch {2 * number}," in line


def test_only_rank_0_says_that_a_state_is_discarded(
    retriever: LocalRetriever, caplog: pytest.LogCaptureFixture
) -> None:
    for rank in range(2):
        mine = StreamingLoader(dataset(retriever, rank=rank, world_size=2), 12)
        mine.load_state_dict(after(mine, 2))
        mine.set_epoch(4)
    assert len(discarded(caplog)) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_after_an_abandoned_endless_one_starts_with_the_next_epoch(
    retriever: LocalRetriever, workers: int
) -> None:
    expected = epochs_of(retriever, 6)
    mine = loader(retriever, epochs=None, num_workers=workers)
    assert len(by_batch(islice(mine, 2 * STEPS + 2))) == 2 * STEPS + 2
    assert mine.state_dict()["epoch"] == 2
    # All of the fourth epoch, to its end: nothing is left out after it.
    assert by_batch(islice(mine, STEPS)) == expected[3]
    assert by_batch(islice(mine, 1)) == expected[4][:1]
    mine.set_epoch(1)
    assert by_batch(islice(mine, STEPS + 1)) == batches_of(expected[1:3])[: STEPS + 1]


@pytest.mark.parametrize("batch_size", [None, 12])
def test_an_endless_dataset_continues_with_the_first_unstarted_epoch(
    retriever: LocalRetriever, batch_size: int | None
) -> None:
    whole = dataset(retriever, batch_size=batch_size)
    epochs = [by_batch(whole) for _ in range(5)]
    each = len(whole)
    mine = dataset(retriever, batch_size=batch_size, epochs=None)
    assert by_batch(islice(mine, 2 * each + 3)) == batches_of(epochs)[: 2 * each + 3]
    assert by_batch(islice(mine, each)) == epochs[3]
    assert by_batch(islice(mine, 2)) == epochs[4][:2]
    mine.set_epoch(1)
    assert by_batch(islice(mine, each)) == epochs[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_of_several_epochs_ends_where_it_would_have(
    retriever: LocalRetriever, workers: int
) -> None:
    expected = epochs_of(retriever, 4)
    for steps in (2, STEPS, 2 * STEPS, 2 * STEPS + 3, 3 * STEPS - 1):
        begun = loader(retriever, epochs=3, num_workers=workers)
        state = after(begun, steps)
        later = loader(retriever, epochs=3, num_workers=2 - workers)
        later.load_state_dict(state)
        assert later.state_dict() == state
        assert len(later) == 3 * STEPS
        assert by_batch(later) == batches_of(expected[:3])[steps:]
        assert len(later) == 3 * STEPS
        assert by_batch(islice(later, 1)) == expected[3][:1]


def test_a_state_at_the_end_of_a_pass_starts_the_next_one(retriever: LocalRetriever) -> None:
    expected = epochs_of(retriever, 4)
    state = after(loader(retriever, epochs=2), 2 * STEPS)
    later = loader(retriever, epochs=2)
    later.load_state_dict(state)
    assert by_batch(later) == batches_of(expected[2:])


def test_a_pass_has_the_length_that_the_loader_has_now(retriever: LocalRetriever) -> None:
    expected = epochs_of(retriever, 4)
    state = after(loader(retriever, epochs=2), STEPS + 1)
    longer = loader(retriever, epochs=4)
    longer.load_state_dict(state)
    assert by_batch(longer) == batches_of(expected)[STEPS + 1 :]
    # That pass would be over, and states of other versions do not say where theirs began.
    shorter = loader(retriever, epochs=1)
    shorter.load_state_dict(state)
    assert by_batch(shorter) == expected[1][1:]
    unknown = loader(retriever, epochs=2)
    unknown.load_state_dict({name: state[name] for name in state if name != "first_epoch"})
    assert by_batch(unknown) == batches_of(expected[1:3])[1:]
    for wrong in (-1, "0"):
        with pytest.raises(PlanError, match="first_epoch of the state must be a whole number"):
            unknown.load_state_dict({**state, "first_epoch": wrong})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", [3, STEPS, 7])
def test_passes_of_steps_go_over_the_borders_of_epochs(
    retriever: LocalRetriever, steps: int, workers: int
) -> None:
    expected = batches_of(epochs_of(retriever, 4))
    mine = loader(retriever, steps_per_pass=steps, num_workers=workers)
    for begin in range(0, 2 * STEPS, steps):
        assert len(mine) == steps
        mine.set_epoch(begin // steps)
        assert by_batch(mine) == expected[begin : begin + steps]


@pytest.mark.parametrize("make", [loader, by_seconds])
def test_a_pass_of_steps_resumes_where_it_was_left_or_stopped(
    retriever: LocalRetriever, make: Any
) -> None:
    expected = by_batch(islice(make(retriever, epochs=None), 40))
    left = make(retriever, steps_per_pass=9)
    assert by_batch(islice(left, 4)) == expected[:4]
    assert by_batch(left) == expected[4:13]
    state = after(left, 5)
    for workers in (0, 2):
        later = make(retriever, steps_per_pass=9, num_workers=workers)
        later.load_state_dict(state)
        assert later.state_dict() == state
        later.set_epoch(7)  # a framework may count as it likes
        assert len(later) == 9
        assert by_batch(later) == expected[18:22]
        assert by_batch(later) == expected[22:31]
    # Where no step of a pass has come, it is a whole one.
    at_a_border = make(retriever, steps_per_pass=9)
    at_a_border.load_state_dict(after(make(retriever, steps_per_pass=9), 9))
    assert by_batch(at_a_border) == expected[9:18]


@pytest.mark.parametrize("make", [loader, by_seconds])
def test_a_new_loader_goes_to_the_pass_that_a_framework_is_in(
    retriever: LocalRetriever, make: Any
) -> None:
    expected = by_batch(islice(make(retriever, epochs=None), 40))
    for number in range(5):
        mine = make(retriever, steps_per_pass=7)
        mine.batch_sampler.sampler.set_epoch(number)
        assert by_batch(mine) == expected[7 * number : 7 * number + 7]
        # From here on it counts for itself.
        mine.set_epoch(0)
        assert by_batch(islice(mine, 2)) == expected[7 * number + 7 :][:2]


def test_a_rank_has_several_batches_of_each_step(retriever: LocalRetriever) -> None:
    mine = by_seconds(retriever, steps_per_pass=4, slots=3)
    assert len(mine) == len(by_batch(mine)) == 12
    assert mine.state_dict() == after(by_seconds(retriever, slots=3, epochs=None), 12)


def test_options_incompatible_with_steps_per_pass_are_refused(retriever: LocalRetriever) -> None:
    with pytest.raises(ValueError, match="epochs=2 beside steps_per_pass=5"):
        loader(retriever, epochs=2, steps_per_pass=5)
    with pytest.raises(ValueError, match="tail='uneven' beside steps_per_pass"):
        loader(retriever, tail="uneven", steps_per_pass=5)
    for wrong in (0, 1.5):
        with pytest.raises(PlanError, match="steps_per_pass must be a whole number from 1 on"):
            loader(retriever, steps_per_pass=wrong)
    assert len(loader(retriever, epochs=None, steps_per_pass=5)) == 5


def test_nothing_to_read_ends_every_pass(retriever: LocalRetriever) -> None:
    nothing = StreamingLoader(dataset(retriever, min_duration=99.0), 12, steps_per_pass=3)
    nothing.set_epoch(2)
    assert list(nothing) == []
