"""Mixtures of mixtures."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb.errors import PlanError
from audiomdb.plan import EpochPlan, MixPlan, PlanState, SecondsPlan, Selection, StepPlan, sources
from audiomdb.plan.mix import INTERLEAVES
from audiomdb.plan.occurrences import positions_of, repeats_of
from audiomdb.plan.order import read_twice
from audiomdb.plan.shuffle import ShuffledLine
from tests.core.plans import located

counts = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@st.composite
def nested(draw: st.DrawFn, depth: int = 2, weighted: bool | None = None) -> MixPlan:
    sources: list[Any] = draw(st.lists(counts, min_size=1, max_size=3))
    if depth:
        within = draw(nested(depth - 1, weighted))
        sources.insert(draw(st.integers(0, len(sources))), within)
    options: dict[str, Any] = {
        "interleave": draw(st.sampled_from(INTERLEAVES)),
        "seed": draw(st.integers(0, 9)),
        "epoch": draw(st.integers(0, 5)),
        "shuffle": [draw(st.booleans()) for _ in sources],
        "window": [draw(st.integers(0, 3)) for _ in sources],
        "partitions": draw(st.integers(1, 4)),
    }
    if weighted is False or (weighted is None and draw(st.booleans())):
        return MixPlan(sources, **options)
    options["weights"] = [draw(st.integers(1, 5)) for _ in sources]
    options["stop"] = draw(st.sampled_from(["first", "last"]) | st.integers(1, 60))
    return MixPlan(sources, **options)


def all_of(plan: MixPlan) -> list[int]:
    positions: list[int] = plan.positions(0, len(plan)).tolist()
    return positions


def shards_of(plan: MixPlan, positions: Any) -> list[int]:
    ends = np.cumsum(np.concatenate(plan.datasets))
    shards: list[int] = np.searchsorted(ends, positions, side="right").tolist()
    return shards


@given(nested(weighted=False))
def test_without_weights_every_sample_of_every_dataset_comes_once(plan: MixPlan) -> None:
    assert sorted(all_of(plan)) == list(range(sum(int(one.sum()) for one in plan.datasets)))


@given(nested())
def test_every_source_gives_its_share(plan: MixPlan) -> None:
    owners = located(plan, np.array(all_of(plan), dtype=np.int64))[0].tolist()
    first = 0
    for source, share in zip(plan.sources, plan.shares, strict=True):
        stop = first + (len(source.datasets) if isinstance(source, MixPlan) else 1)
        assert sum(first <= owner < stop for owner in owners) == share
        first = stop


@given(nested())
def test_every_occurrence_of_a_sample_in_an_epoch_is_another(plan: MixPlan) -> None:
    occurrences, _ = plan.for_rank(0, 1).occurrences(0, len(plan))
    assert positions_of(occurrences).tolist() == all_of(plan)
    assert len(set(occurrences.tolist())) == len(plan)
    if plan.weights is None and not any(isinstance(one, MixPlan) for one in plan.sources):
        assert not repeats_of(occurrences).any()
    step = StepPlan(plan, batch_size=12 * len(plan), tail="uneven").step(0)
    drawn = zip(step.positions.tolist(), step.repeats.tolist(), strict=True)
    repeats = repeats_of(occurrences).tolist()
    assert sorted(drawn) == sorted(zip(all_of(plan), repeats, strict=True))


@given(nested(), st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=4))
@settings(max_examples=60)
def test_any_seek_equals_the_slice_of_the_whole(
    plan: MixPlan, stretches: list[tuple[int, int]]
) -> None:
    expected = all_of(plan)
    for start, stop in stretches:
        copy = pickle.loads(pickle.dumps(plan))
        assert copy.positions(start, stop).tolist() == expected[start:stop]


@given(nested(depth=1, weighted=False), st.integers(0, 3))
@settings(max_examples=60)
def test_a_mixture_in_front_gives_its_own_epochs(within: MixPlan, epoch: int) -> None:
    if within.interleave == "pseudo":
        return  # its random words are of another stream than alone
    alone = MixPlan(
        within.sources,
        interleave=within.interleave,
        seed=3,
        epoch=epoch,
        shuffle=within.shuffle,
        window=within.window,
    )
    around = MixPlan([within, [4, 1]], interleave="pseudo", seed=3, epoch=epoch)
    if all(not isinstance(one, MixPlan) for one in within.sources):
        assert [one for one in all_of(around) if one < len(alone)] == all_of(alone)


def test_samples_left_of_a_nested_mixture_come_in_the_next_epoch() -> None:
    within = MixPlan([[6, 4], [5]], interleave="pseudo", shuffle=True)
    seen: list[int] = []
    for epoch in range(5):
        plan = MixPlan([within, [9]], weights=[1, 2], stop=9, epoch=epoch, seed=1)
        seen += [one for one in all_of(plan) if one < 15]
    assert sorted(seen) == list(range(15))


@given(nested())
@settings(max_examples=60)
def test_a_sample_is_read_while_its_shard_is_alive(plan: MixPlan) -> None:
    for number, line in enumerate(plan.lines):
        positions = positions_of(line.take(np.arange(len(line))))
        for element, shard in enumerate(shards_of(plan, positions)):
            alive = plan.shards_mixed(number, element).tolist()
            assert shard in alive
            assert len(alive) <= sum(plan.window_shards)


@given(nested(), st.integers(0, 40))
@settings(max_examples=60)
def test_upcoming_shards_are_known_from_any_element(plan: MixPlan, element: int) -> None:
    for number, line in enumerate(plan.lines):
        positions = positions_of(line.take(np.arange(min(element, len(line)), len(line))))
        shards = set(shards_of(plan, positions))
        firsts = np.cumsum([0, *map(len, plan.datasets)])
        for dataset in range(len(plan.datasets)):
            coming = plan.shards_from(dataset, number, element).tolist()
            own = {one for one in shards if firsts[dataset] <= one < firsts[dataset + 1]}
            assert len(coming) == len(set(coming))
            # What is mixed where the rest begins may be done with already.
            mixed = set(plan.shards_mixed(number, element).tolist()) if coming else set()
            assert own <= set(coming) <= own | mixed


def test_shards_left_to_the_next_pass_of_a_mixture_are_announced() -> None:
    one = MixPlan([[1, 1]], window=0)
    half = MixPlan([one, [1]], weights=(1, 1), stop=1, window=0)
    plan = MixPlan([half, [2]], weights=(1, 1), window=0)
    read = shards_of(plan, positions_of(plan.lines[0].take(np.arange(len(plan.lines[0])))))
    assert {0, 1} <= set(read)
    assert plan.shards_from(0, 0, 0).tolist() == [0, 1]


@pytest.mark.parametrize("stop", ["last", 3])
def test_upcoming_shards_are_found_without_walking_all_passes(
    stop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def noted(run: Any, **options: Any) -> Any:
        made.append(options["epoch"])
        return ShuffledLine(run, **options)

    monkeypatch.setattr(sources, "ShuffledLine", noted)
    within = MixPlan([[50] * 4, [70] * 5], weights=[3, 1], stop=stop, shuffle=True)
    plan = MixPlan([within, [100_000]], weights=[1, 1], stop="last", shuffle=True)
    assert plan.shares[0] / len(within) > 70  # passes, each of which reads parts of both
    assert sorted(plan.shards_from(0, 0, 0)) == [0, 1, 2, 3]
    assert sorted(plan.shards_from(1, 0, 5000)) == [4, 5, 6, 7, 8]
    assert len(made) < 800


@given(nested(), st.data())
@settings(max_examples=60)
def test_no_shard_returns_within_a_pass(plan: MixPlan, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, plan.partitions - 1))
    line = plan.lines[number]
    firsts = np.cumsum([0, *map(len, plan.datasets)])
    gone: dict[int, set[int]] = {}
    before: dict[int, tuple[Any, set[int]]] = {}
    positions = positions_of(line.take(np.arange(len(line))))
    for element, shard in enumerate(shards_of(plan, positions)):
        passes = plan.passes(number, element)
        assert len(passes) == len(plan.datasets)
        dataset = int(np.searchsorted(firsts, shard, side="right")) - 1
        alive = set(plan.shards_mixed(number, element).tolist())
        own = {one for one in alive if firsts[dataset] <= one < firsts[dataset + 1]}
        then = before.get(dataset)
        if then is None or then[0] != passes[dataset]:
            gone[dataset] = set()
        else:
            gone[dataset] |= then[1] - own
        assert shard not in gone[dataset]
        before[dataset] = passes[dataset], own


@given(nested(), st.integers(1, 4))
@settings(max_examples=40)
def test_steps_of_a_nested_mixture_hold_the_samples_of_its_epoch(plan: MixPlan, width: int) -> None:
    steps = StepPlan(plan, plan.partitions * width, "pad")
    parts = [steps.step(number) for number in range(steps.steps)]
    assert sorted(int(p) for part in parts for p in part.positions[part.mask]) == sorted(
        all_of(plan)
    )


@given(nested(), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_batches_by_seconds_of_a_nested_mixture_hold_its_epoch(plan: MixPlan, draw: Any) -> None:
    total = sum(int(one.sum()) for one in plan.datasets)
    durations = np.array([draw.uniform(0.5, 9) for _ in range(total)])
    steps = SecondsPlan(
        plan, durations, max_batch_seconds=20, slots=2 * plan.partitions, increment=3, chapter=2
    )
    met = [
        int(position)
        for chapter in range(steps.chapters)
        for number in range(steps.steps(chapter))
        for slot in steps.step(chapter, number)
        for position in slot.positions[slot.mask]
    ]
    assert sorted(met) == sorted(all_of(plan))


def test_a_filter_applies_to_a_nested_dataset() -> None:
    kept = Selection([3, 5], np.arange(8) % 2 == 0)
    within = MixPlan([[2], [3, 5]], selections=[None, kept])
    plan = MixPlan([[4], within], shuffle=True, partitions=2)
    assert sorted(all_of(plan)) == [0, 1, 2, 3, 4, 5, 6, 8, 10, 12]
    with pytest.raises(PlanError, match="source 1 is a mixture; select from its own datasets"):
        MixPlan([[4], within], selections=[None, kept])


def test_nested_mixtures_are_frozen() -> None:
    within = MixPlan([[3, 2], [4]], weights=[1, 2], stop="last", shuffle=True, window=1)
    plan = MixPlan([[4, 2], within], seed=7, epoch=1, shuffle=True, window=1, partitions=2)
    # fmt: off
    assert all_of(plan) == [12, 13, 14, 7, 13, 6, 9, 3, 5, 14, 4, 2, 10, 12, 12, 11, 11, 1, 0, 8]
    # fmt: on


def test_a_state_names_nested_options_and_stays_small() -> None:
    def state(plan: MixPlan) -> PlanState:
        return PlanState.of("x", plan.options, seed=1)

    within = [MixPlan([[9], [9]], weights=[1, number]) for number in range(1, 30)]
    many = state(MixPlan(within, interleave="ordered"))
    assert len(json.dumps(many.to_dict())) < 1000
    other = state(MixPlan([*within[:-1], MixPlan([[9], [9]])], interleave="ordered"))
    with pytest.raises(PlanError, match="mixtures was"):
        many.check(other)
    with pytest.raises(PlanError, match="window was 4 and is"):
        state(MixPlan([[1], [2]])).check(state(MixPlan([[1], [2]], window=[4, 5])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffle": [True]}, "1 shuffle for 2 datasets"),
        ({"window": [1, 2, 3]}, "3 window for 2 datasets"),
        ({"window": [1, -1]}, "window must be"),
    ],
)
def test_per_source_options_must_match_the_number_of_sources(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        MixPlan([[1], [1]], **options)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=9),
    st.integers(1, 7),
    st.integers(1, 7),
    st.booleans(),
)
def test_nodes_that_divide_the_partitions_share_only_shards_on_cuts(
    shards: list[int], nodes: int, each: int, shuffle: bool
) -> None:
    plan = EpochPlan(shards, partitions=nodes * each, shuffle=shuffle, seed=2)
    assert 0 <= read_twice(plan, nodes) <= nodes - 1
    assert read_twice(plan, 1) == 0


def test_shards_that_nodes_read_twice_are_counted() -> None:
    plan = EpochPlan([10] * 6, partitions=3)
    assert read_twice(plan, 3) == 0
    assert read_twice(plan, 2) == 2  # those of the partition in the middle
    assert read_twice(EpochPlan([10] * 6), 4) == 18  # everybody reads everything
    both = MixPlan([[10] * 4, [10] * 2], partitions=1)
    assert read_twice(both, 2) == 6
