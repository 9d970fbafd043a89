from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb.errors import PlanError
from audiomdb.plan import EpochPlan, MixPlan, Selection, StepPlan, select
from tests.core.plans import shards_alive


@st.composite
def selections(draw: st.DrawFn) -> Selection:
    counts = draw(st.lists(st.integers(0, 9), max_size=12))
    total = sum(counts)
    kind = draw(st.sampled_from(["some", "none", "all", "shards"]))
    if kind == "some":
        mask = np.array(draw(st.lists(st.booleans(), min_size=total, max_size=total)), dtype=bool)
    elif kind == "shards":
        whole = draw(st.lists(st.booleans(), min_size=len(counts), max_size=len(counts)))
        mask = np.repeat(np.array(whole, dtype=bool), counts)
    else:
        mask = np.full(total, kind == "all")
    return Selection(counts, mask)


orders = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**64 - 1),
        "epoch": st.integers(0, 9),
        "shuffle": st.booleans(),
        "window": st.integers(0, 5),
    }
)


@given(selections(), orders)
def test_a_filtered_epoch_is_the_whole_epoch_minus_the_excluded_samples(
    selection: Selection, options: dict[str, Any]
) -> None:
    whole = EpochPlan(selection.counts, **options)
    some = EpochPlan(selection.counts, selection=selection, **options)
    everything = whole.positions(0, len(whole))
    assert len(some) == len(selection)
    assert (
        some.positions(0, len(some)).tolist() == everything[selection.mask()[everything]].tolist()
    )


@given(selections(), orders, st.integers(1, 4), st.data())
def test_with_partitions_every_kept_sample_comes_once_from_anywhere(
    selection: Selection, options: dict[str, Any], partitions: int, data: st.DataObject
) -> None:
    plan = EpochPlan(
        selection.counts,
        selection=selection,
        partitions=partitions,
        **options,
    )
    everything = plan.positions(0, len(plan))
    assert sorted(everything.tolist()) == np.flatnonzero(selection.mask()).tolist()
    for _ in range(3):
        start, stop = data.draw(st.integers(0, 110)), data.draw(st.integers(0, 110))
        assert plan.positions(start, stop).tolist() == everything[start:stop].tolist()


@given(selections(), orders, st.integers(1, 3))
@settings(max_examples=50)
def test_shards_without_kept_samples_are_never_read(
    selection: Selection, options: dict[str, Any], partitions: int
) -> None:
    plan = EpochPlan(
        selection.counts,
        selection=selection,
        partitions=partitions,
        **options,
    )
    met = [shard for p in range(partitions) for shard in plan.shards_from(0, p, 0).tolist()]
    assert set(met) == set(np.flatnonzero(selection.kept).tolist())
    ends = np.cumsum(selection.counts)
    for turn, position in enumerate(plan.positions(0, len(plan)).tolist()):
        alive = shards_alive(plan, turn)
        assert np.searchsorted(ends, position, side="right") in alive
        assert set(alive) <= set(met)


@given(selections(), selections(), orders, st.integers(1, 3))
@settings(max_examples=50)
def test_shards_without_kept_samples_are_never_read_in_a_mixture(
    one: Selection, other: Selection, options: dict[str, Any], partitions: int
) -> None:
    plan = MixPlan(
        [one.counts, other.counts],
        selections=[one, other],
        partitions=partitions,
        **options,
    )
    firsts = [0, len(one.counts)]
    for dataset, selection in enumerate([one, other]):
        met: set[int] = set()
        for partition in range(partitions):
            met.update(plan.shards_from(dataset, partition, 0).tolist())
        assert met == set((firsts[dataset] + np.flatnonzero(selection.kept)).tolist())
    kept = np.flatnonzero(np.concatenate([one.kept, other.kept]))
    ends = np.cumsum(np.concatenate([one.counts, other.counts]))
    for turn, position in enumerate(plan.positions(0, len(plan)).tolist()):
        alive = shards_alive(plan, turn)
        assert np.searchsorted(ends, position, side="right") in alive
        assert set(alive) <= set(kept.tolist())


@given(selections(), orders, st.integers(1, 3), st.integers(1, 4))
@settings(max_examples=50)
def test_steps_of_a_filtered_epoch_hold_each_kept_sample_once(
    selection: Selection, options: dict[str, Any], partitions: int, width: int
) -> None:
    plan = EpochPlan(
        selection.counts,
        selection=selection,
        partitions=partitions,
        **options,
    )
    steps = StepPlan(plan, partitions * width, "pad")
    parts = [steps.step(number) for number in range(steps.steps)]
    seen = [int(one) for part in parts for one in part.positions[part.mask]]
    assert sorted(seen) == np.flatnonzero(selection.mask()).tolist()


@given(selections())
def test_a_selection_knows_its_places(selection: Selection) -> None:
    ends = np.concatenate(([0], np.cumsum(selection.counts)))
    mask = selection.mask()
    for shard, kept in enumerate(selection.kept):
        places = selection.places(shard)
        assert len(places) == kept
        assert places.tolist() == np.flatnonzero(mask[ends[shard] : ends[shard + 1]]).tolist()
    copy = pickle.loads(pickle.dumps(selection))
    assert copy.digest == selection.digest
    assert copy.mask().tolist() == mask.tolist()


def test_duration_bounds_are_inclusive_and_unknown_durations_excluded() -> None:
    columns = {"duration": np.array([1.0, 2.0, np.nan, 3.0, 4.0]), "speaker": np.arange(5)}
    chosen = select(columns, [2, 3], min_duration=2, max_duration=3)
    assert chosen is not None
    assert chosen.mask().tolist() == [False, True, False, True, False]
    assert chosen.kept.tolist() == [1, 1]
    chosen = select(columns, [2, 3], max_duration=3, where=lambda c: c["speaker"] != 0)
    assert chosen is not None
    assert chosen.mask().tolist() == [False, True, False, True, False]
    assert select(columns, [2, 3]) is None


def test_an_invalid_filter_is_refused() -> None:
    columns = {"duration": np.ones(5)}
    with pytest.raises(PlanError, match="min_duration 3 s is above max_duration 2 s"):
        select(columns, [5], min_duration=3, max_duration=2)
    with pytest.raises(PlanError, match=r"with & and \|, each in parentheses"):
        select(columns, [5], where=lambda c: c["duration"] > 0 and c["duration"] < 2)
    with pytest.raises(PlanError, match="expected one bool for each of the 5 samples"):
        select(columns, [5], where=lambda c: c["duration"])
    for least in (None, 1):
        with pytest.raises(PlanError, match=r"where gives bool of shape \(4,\)"):
            select(columns, [5], min_duration=least, where=np.ones(4, dtype=bool))
    with pytest.raises(KeyError):
        select({}, [5], min_duration=1)


def test_a_selection_of_another_dataset_is_refused() -> None:
    selection = Selection([2, 3], np.ones(5, dtype=bool))
    with pytest.raises(PlanError, match="2 shards and 5 samples, not of this one with 1 and 5"):
        EpochPlan([5], selection=selection)


def test_a_selection_takes_a_bit_a_sample() -> None:
    selection = Selection([1000] * 100, np.ones(100_000, dtype=bool))
    assert len(pickle.dumps(selection)) < 17_000


def test_making_a_selection_takes_little_memory_beside_the_mask() -> None:
    mask = np.arange(1_000_000) % 3 == 0
    tracemalloc.start()
    try:
        selection = Selection([1000] * 1000, mask)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert selection.kept.sum() == mask.sum()
    assert peak < len(mask)
