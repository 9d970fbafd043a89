from __future__ import annotations

import pickle
import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb.errors import PlanError
from audiomdb.plan import EpochPlan, MixPlan, Selection, StepPlan
from audiomdb.plan.mix import INTERLEAVES
from audiomdb.plan.occurrences import positions_of
from audiomdb.plan.pattern import Pattern
from tests.core.plans import located, shards_alive

all_weights = st.lists(st.integers(1, 12) | st.integers(1, 10**13), min_size=1, max_size=5)
sources = st.lists(st.lists(st.integers(0, 9), min_size=0, max_size=6), min_size=1, max_size=4)
filled = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=4)


def by_deadlines(weights: list[int], turns: int) -> list[int]:
    """The pattern as it is defined, in fractions."""
    each = [
        [(Fraction(2 * i + 1, 2 * weight), source) for i in range(turns)]
        for source, weight in enumerate(weights)
    ]
    return [source for _, source in sorted(one for part in each for one in part)][:turns]


@given(all_weights, st.integers(0, 60), st.integers(0, 60))
def test_the_pattern_is_that_of_the_deadlines(weights: list[int], start: int, more: int) -> None:
    expected = by_deadlines(weights, start + more)
    pattern = Pattern(weights)
    assert pattern.sources(start, start + more).tolist() == expected[start:]
    assert pattern.counts(start) == [expected[:start].count(d) for d in range(len(weights))]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 20), st.data())
def test_the_turn_of_any_sample_is_known(
    weights: list[int], samples: int, data: st.DataObject
) -> None:
    source = data.draw(st.integers(0, len(weights) - 1))
    pattern = Pattern(weights)
    turns = pattern.turn_after(source, samples)
    assert pattern.counts(turns)[source] == samples
    assert pattern.sources(turns - 1, turns).tolist() == [source]


@given(all_weights, st.integers(0, 10**15))
def test_each_source_keeps_its_share_to_within_one_sample_and_ties(
    weights: list[int], turns: int
) -> None:
    counts = Pattern(weights).counts(turns)
    assert sum(counts) == turns
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - Fraction(turns * weight, sum(weights))) <= (1 + len(weights)) / 2


@st.composite
def mixes(draw: st.DrawFn) -> MixPlan:
    options: dict[str, Any] = {
        "interleave": draw(st.sampled_from(INTERLEAVES)),
        "seed": draw(st.integers(0, 99)),
        "epoch": draw(st.integers(0, 9)),
        "shuffle": draw(st.booleans()),
        "window": draw(st.integers(0, 3)),
        "partitions": draw(st.integers(1, 4)),
    }
    if draw(st.booleans()):
        return MixPlan(draw(sources), **options)
    counts = draw(filled)
    weight = st.integers(1, 9) | st.sampled_from([0.1, 2.5])
    weights = draw(st.lists(weight, min_size=len(counts), max_size=len(counts)))
    stop: Any = draw(st.sampled_from(["first", "last"]) | st.integers(1, 90))
    return MixPlan(counts, weights=weights, stop=stop, **options)


def owners(plan: MixPlan, positions: Any) -> list[int]:
    return [int(one) for one in located(plan, positions)[0]]


@given(mixes())
@settings(max_examples=150)
def test_passes_over_a_source_are_as_even_as_possible(plan: MixPlan) -> None:
    positions = plan.positions(0, len(plan))
    datasets, places = located(plan, positions)
    assert len(positions) == len(plan) == sum(plan.shares)
    for source, (share, size) in enumerate(zip(plan.shares, plan.sizes, strict=True)):
        mine = places[datasets == source]
        assert len(mine) == share
        if size:
            times = np.bincount(mine, minlength=size)
            assert len(times) == size
            # An epoch's stretch of the endless line is not cut at passes.
            assert times.max() - times.min() <= (1 if plan.epoch * share % size == 0 else 2)
    if plan.weights is None:
        assert sorted(positions.tolist()) == list(range(len(plan)))


@given(mixes(), st.lists(st.tuples(st.integers(0, 120), st.integers(0, 120)), max_size=4))
@settings(max_examples=60)
def test_any_seek_equals_the_slice_of_the_whole(
    plan: MixPlan, stretches: list[tuple[int, int]]
) -> None:
    expected = plan.positions(0, len(plan)).tolist()
    for start, stop in stretches:
        assert plan.positions(start, stop).tolist() == expected[start:stop]


@given(mixes(), st.integers(1, 5))
@settings(max_examples=60)
def test_steps_of_a_mixture_hold_the_samples_of_its_epoch(plan: MixPlan, width: int) -> None:
    steps = StepPlan(plan, plan.partitions * width, "pad")
    parts = [steps.step(number) for number in range(steps.steps)]
    seen = [int(one) for part in parts for one in part.positions[part.mask]]
    assert sorted(seen) == sorted(plan.positions(0, len(plan)).tolist())


@given(mixes())
@settings(max_examples=60)
def test_a_sample_is_read_while_its_shard_is_alive(plan: MixPlan) -> None:
    ends = np.cumsum(np.concatenate(plan.datasets))
    for turn, position in enumerate(plan.positions(0, len(plan)).tolist()):
        shard = np.searchsorted(ends, position, side="right")
        alive = shards_alive(plan, turn)
        assert shard in alive
        assert len(alive) <= sum(plan.window_shards)


@given(mixes(), st.integers(0, 3))
@settings(max_examples=60)
def test_an_ordered_mixture_follows_the_pattern_in_every_partition(
    plan: MixPlan, number: int
) -> None:
    if plan.interleave != "ordered" or number >= plan.partitions:
        return
    line = plan.lines[number]
    begin = -(-number * len(plan) // plan.partitions)
    got = owners(plan, positions_of(line.take(np.arange(len(line)))))
    weights = list(plan.sizes if plan.weights is None else plan.weights)
    if got:
        assert got == Pattern(weights).sources(begin, begin + len(line)).tolist()


def test_the_first_source_alone_is_its_own_epoch() -> None:
    counts = [5, 3, 8, 2]
    for epoch in (0, 3):
        alone = EpochPlan(counts, seed=5, epoch=epoch, shuffle=True, window=2)
        mix = MixPlan([counts, [9, 9]], seed=5, epoch=epoch, shuffle=True, window=2)
        positions = mix.positions(0, len(mix))
        assert positions[positions < 18].tolist() == alone.positions(0, 18).tolist()


def test_sources_come_one_after_the_other_without_interleaving() -> None:
    plan = MixPlan([[2, 1], [0], [4]], interleave=None)
    assert plan.positions(0, 7).tolist() == list(range(7))
    plan = MixPlan([[4], [4]], interleave=None, partitions=2)
    assert [line.take(np.arange(4)).tolist() for line in plan.lines] == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_each_stop_rule_ends_the_epoch_where_it_says() -> None:
    counts = [[6], [2]]
    first = MixPlan(counts, weights=[1, 1], stop="first", interleave="ordered")
    assert owners(first, first.positions(0, 99)) == [0, 1, 0, 1]
    last = MixPlan(counts, weights=[1, 1], stop="last", interleave="ordered")
    assert last.positions(0, 99).tolist() == [0, 6, 1, 7, 2, 6, 3, 7, 4, 6, 5]
    some = MixPlan(counts, weights=[1, 1], stop=5, interleave="ordered")
    assert some.positions(0, 99).tolist() == [0, 6, 1, 7, 2]
    following = MixPlan(counts, weights=[1, 1], stop=5, interleave="ordered", epoch=1)
    assert following.positions(0, 99).tolist() == [3, 6, 4, 7, 5]


def test_samples_left_by_one_epoch_come_in_the_next_ones() -> None:
    counts = [[10] * 5, [4]]
    seen: list[int] = []
    for epoch in range(5):
        plan = MixPlan(counts, weights=[5, 2], stop=14, epoch=epoch, shuffle=True, seed=3)
        seen += [one for one in plan.positions(0, 14).tolist() if one < 50]
    assert sorted(seen) == list(range(50))


def test_a_source_may_be_repeated_without_end() -> None:
    options: dict[str, Any] = {"weights": [1, 1], "seed": 3, "shuffle": True, "stop": 2**20}
    counts = [[4, 4], [8]]  # 2**16 passes of each in an epoch
    orders = [
        MixPlan(counts, **options, interleave="ordered", epoch=epoch).positions(0, 16).tolist()
        for epoch in (0, 2**16 - 1, 2**16)
    ]
    assert all(sorted(order) == list(range(16)) for order in orders)
    assert orders[0] == orders[2] != orders[1]


def test_the_last_samples_of_the_longest_run_are_known() -> None:
    within = MixPlan([[3], [1]], weights=[1, 10**9], stop="last")
    options: dict[str, Any] = {"weights": [1, 1], "stop": 2**46, "epoch": 2**32 - 1}
    plan = MixPlan([[5, 5], within], shuffle=[True, False], partitions=2, **options)
    got = plan.positions(len(plan) - 2048, len(plan)).tolist()
    assert [one < 10 for one in got].count(True) == 1024
    assert set(got) <= set(range(14))
    assert plan.passes(1, 2**45 - 2048)[0][0] > 2**32


def test_filters_apply_to_the_sources_of_a_mixture() -> None:
    kept = Selection([3, 5], np.arange(8) % 2 == 0)
    plan = MixPlan([[4, 2], [3, 5]], selections=[None, kept], shuffle=True, partitions=2)
    assert sorted(plan.positions(0, len(plan)).tolist()) == [0, 1, 2, 3, 4, 5, 6, 8, 10, 12]


def test_a_pseudo_random_mixture_keeps_proportions_in_blocks_of_1024() -> None:
    plan = MixPlan([[3000], [1000]], interleave="pseudo", seed=1)
    got = np.array(owners(plan, plan.positions(0, 4000)))
    other = MixPlan([[3000], [1000]], interleave="ordered")
    ordered = np.array(owners(other, other.positions(0, 4000)))
    assert got.tolist() != ordered.tolist()
    for begin in range(0, 4000, 1024):
        assert np.array_equal(
            np.bincount(got[begin : begin + 1024]), np.bincount(ordered[begin : begin + 1024])
        )


def test_mixtures_are_frozen() -> None:
    plan = MixPlan([[5, 3], [4], [2, 1]], seed=7, epoch=2, shuffle=True, window=1, partitions=2)
    assert plan.positions(0, 15).tolist() == [8, 1, 13, 11, 7, 14, 6, 3, 0, 4, 9, 2, 5, 10, 12]
    plan = MixPlan([[5, 3], [4]], weights=[0.5, 1], seed=7, shuffle=True, window=1)
    assert plan.positions(0, 24).tolist() == [
        6,
        9,
        10,
        8,
        0,
        5,
        11,
        9,
        7,
        8,
        11,
        10,
        11,
        10,
        2,
        8,
        1,
        9,
        9,
        8,
        3,
        4,
        10,
    ]


def test_a_mixture_pickles_as_its_options_and_seeks_at_once() -> None:
    plan = MixPlan([np.full(5000, 1000)] * 2, weights=[3, 1], stop="first", shuffle=True)
    copy = pickle.loads(pickle.dumps(plan))
    plan.positions(0, 10)
    tracemalloc.start()
    try:
        got = plan.positions(6_000_000, 6_000_064).tolist()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert copy.positions(6_000_000, 6_000_064).tolist() == got
    assert len(got) == 64
    assert peak_bytes < 2 * 2**20


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([], {}, "at least one dataset"),
        ([[1], [1]], {"weights": [1]}, "1 weights for 2 datasets"),
        ([[1], [1]], {"weights": [1, 0]}, "weight 1 is 0, expected above 0"),
        ([[1], [1]], {"weights": [1, "x"]}, "weight 1 is 'x'"),
        ([[1], [1]], {"weights": [1e300, 1e-300]}, "weight 1 is 1e-300, and weight 0 is 1e[+]300"),
        ([[9], [1], [70]], {"weights": [2, 1e-13, 2e-13]}, f"2e-13.* more than {2**46} samples"),
        ([[1], [0]], {"weights": [1, 1]}, "dataset 1 has a weight but no samples"),
        ([[1]], {"stop": 5}, "stop=5 needs weights"),
        ([[1], [1]], {"stop": "first"}, "stop='first' needs weights"),
        ([[1]], {"weights": [1], "stop": "never"}, "stop must be 'first', 'last'"),
        ([[1]], {"weights": [1], "stop": 0}, "nearest legal value: 1"),
        ([[1]], {"weights": [1], "stop": 10**30}, f"nearest legal value: {2**46}"),
        ([[1]], {"interleave": "random"}, "interleave must be one of"),
        ([[1]], {"selections": []}, "0 selections for 1 datasets"),
        ([[2]], {"selections": [Selection([1], np.ones(1, dtype=bool))]}, "of dataset 0"),
    ],
)
def test_impossible_mixtures_are_refused(
    counts: list[list[int]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        MixPlan(counts, **options)
