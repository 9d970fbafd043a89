from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb.errors import PlanError
from audiomdb.plan import EpochPlan, Tail
from audiomdb.plan.shuffle import MAX_WINDOW
from audiomdb.plan.split import TAILS
from tests.core.plans import shards_alive

all_counts = st.lists(st.integers(0, 9), min_size=0, max_size=12)
few = st.integers(1, 6)


@st.composite
def plans(draw: st.DrawFn) -> EpochPlan:
    return EpochPlan(
        draw(all_counts),
        seed=draw(st.integers(0, 2**64 - 1)),
        epoch=draw(st.integers(0, 2**32 - 1)),
        shuffle=draw(st.booleans()),
        window=draw(st.integers(0, 6)),
        partitions=draw(few),
    )


def whole(plan: EpochPlan) -> list[int]:
    return [int(position) for position in plan.positions(0, len(plan))]


@given(plans())
def test_an_epoch_reads_every_sample_once(plan: EpochPlan) -> None:
    assert len(plan) == plan.counts.sum()
    assert sorted(whole(plan)) == list(range(len(plan)))


@given(plans(), st.lists(st.tuples(st.integers(0, 110), st.integers(0, 110)), max_size=5))
def test_any_seek_equals_the_slice_of_the_whole(
    plan: EpochPlan, stretches: list[tuple[int, int]]
) -> None:
    expected = whole(plan)
    for start, stop in stretches:
        assert plan.positions(start, stop).tolist() == expected[start:stop]


@given(plans(), few, few, st.sampled_from(TAILS))
@settings(max_examples=300)
def test_ranks_and_workers_together_read_the_epoch(
    plan: EpochPlan, world_size: int, num_workers: int, tail: Tail
) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        for worker in range(num_workers):
            mine = plan.for_rank(rank, world_size, worker, num_workers, tail)
            positions, mask = mine.positions(0, len(mine))
            assert positions.dtype == np.int64
            assert mask.dtype == np.bool_
            assert len(positions) == len(mask) == len(mine)
            seen += positions[mask].tolist()
    kept = len(plan) - len(plan) % world_size if tail == "drop" else len(plan)
    assert len(seen) == len(set(seen)) == kept
    assert set(seen) <= set(range(len(plan)))


@given(plans(), few, st.integers(0, 40), st.integers(0, 20))
def test_a_rank_reads_the_same_from_anywhere(
    plan: EpochPlan, world_size: int, start: int, length: int
) -> None:
    mine = plan.for_rank(world_size - 1, world_size, tail="pad")
    everything, all_masks = mine.positions(0, len(mine))
    positions, mask = mine.positions(start, start + length)
    assert positions.tolist() == everything[start : start + length].tolist()
    assert mask.tolist() == all_masks[start : start + length].tolist()


@given(plans())
def test_a_sample_is_read_while_its_shard_is_alive(plan: EpochPlan) -> None:
    ends = np.cumsum(plan.counts)
    for turn, position in enumerate(whole(plan)):
        alive = shards_alive(plan, turn)
        assert np.searchsorted(ends, position, side="right") in alive
        assert len(alive) <= (plan.window + 1 if plan.shuffle else 1)
        assert len(alive) <= plan.partitions * plan.window_shards[0]


@given(plans(), st.integers(0, 30))
def test_shards_from_an_element_cover_all_later_samples(plan: EpochPlan, element: int) -> None:
    ends = np.cumsum(plan.counts)
    for partition, line in enumerate(plan.lines):
        at = min(element, max(0, len(line) - 1))
        order = plan.shards_from(0, partition, at).tolist()
        mixed = plan.shards_mixed(partition, element).tolist()
        whole_order = plan.shards_from(0, partition, 0).tolist()
        assert order == whole_order[len(whole_order) - len(order) :]
        assert order[: len(mixed)] == mixed
        later = line.take(np.arange(at, len(line)))
        assert set(np.searchsorted(ends, later, side="right").tolist()) <= set(order)


@given(plans())
def test_partitions_visit_every_filled_shard_and_share_only_those_on_cuts(plan: EpochPlan) -> None:
    visits = [plan.shards_from(0, p, 0).tolist() for p in range(plan.partitions)]
    filled, ends = np.flatnonzero(plan.counts), np.cumsum(plan.counts)
    for line, shards in zip(plan.lines, visits, strict=True):
        read = np.searchsorted(ends, line.take(np.arange(len(line))), side="right")
        assert sorted(shards) == sorted({*read.tolist()})
    assert set().union(*map(set, visits)) == set(filled.tolist())
    assert sum(map(len, visits)) <= max(0, len(filled) + plan.partitions - 1)
    if not plan.shuffle:
        assert visits == [sorted(shards) for shards in visits]


@pytest.mark.parametrize(("nodes", "ranks", "partitions"), [(4, 2, 4), (3, 8, 6), (2, 3, 8)])
def test_nodes_together_fetch_each_shard_about_once(
    nodes: int, ranks: int, partitions: int
) -> None:
    counts = np.random.default_rng(0).integers(1, 30, 50)
    ends = np.cumsum(counts)
    plan = EpochPlan(counts, shuffle=True, partitions=partitions)
    fetches = 0
    for node in range(nodes):
        fetched: set[int] = set()
        for rank in range(node * ranks, (node + 1) * ranks):
            mine = plan.for_rank(rank, nodes * ranks, tail="pad")
            positions, _ = mine.positions(0, len(mine))
            fetched |= set(np.searchsorted(ends, positions, side="right").tolist())
        fetches += len(fetched)
    assert fetches <= len(counts) + nodes - 1


def test_without_shuffle_the_order_is_the_stored_one() -> None:
    assert whole(EpochPlan([3, 0, 4, 1])) == list(range(8))
    assert EpochPlan([3, 0, 4, 1]).shards_from(0, 0, 0).tolist() == [0, 2, 3]
    assert shards_alive(EpochPlan([3, 0, 4, 1]), 3) == [2]
    assert [EpochPlan([3, 4]).shards_from(0, 0, at).tolist() for at in (6, 7, 8)] == [[1], [], []]
    assert whole(EpochPlan([3, 0, 4, 1], partitions=2)) == [0, 4, 1, 5, 2, 6, 3, 7]


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    counts = [40] * 10
    orders = {
        tuple(whole(EpochPlan(counts, seed=seed, epoch=epoch, shuffle=True)))
        for seed in range(4)
        for epoch in range(4)
    }
    shards = {
        tuple(EpochPlan(counts, seed=seed, epoch=epoch, shuffle=True).shards_from(0, 0, 0).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == len(shards) == 16


def test_the_order_of_an_epoch_is_frozen() -> None:
    counts = [5, 0, 3, 1, 6, 4]
    plan = EpochPlan(counts, seed=7, epoch=3, shuffle=True, window=2)
    assert whole(plan) == [3, 0, 4, 1, 8, 11, 2, 10, 6, 14, 13, 16, 18, 15, 9, 12, 5, 7, 17]
    plan = EpochPlan(counts, seed=7, epoch=3, shuffle=True, window=2, partitions=2)
    assert whole(plan) == [3, 6, 0, 14, 4, 13, 1, 16, 8, 18, 11, 15, 2, 5, 10, 7, 9, 17, 12]
    ranks = [plan.for_rank(rank, 3, tail="pad").positions(0, 9) for rank in range(3)]
    assert [positions.tolist() for positions, _ in ranks] == [
        [3, 0, 1, 8, 2, 10, 12],
        [4, 6, 11, 16, 9, 5, 5],
        [14, 13, 18, 15, 7, 17, 17],
    ]
    plan = EpochPlan(counts, seed=7, epoch=4, shuffle=True, window=0)
    assert whole(plan) == [6, 7, 5, 14, 10, 9, 12, 13, 11, 8, 16, 18, 15, 17, 3, 4, 1, 0, 2]


@given(plans())
def test_a_plan_pickles_as_its_options(plan: EpochPlan) -> None:
    before = len(pickle.dumps(plan))
    order = whole(plan)
    sent = pickle.dumps(plan)
    assert len(sent) == before
    assert whole(pickle.loads(sent)) == order


@pytest.mark.parametrize("partitions", [1, 8])
def test_memory_does_not_grow_with_the_dataset(partitions: int) -> None:
    counts = np.full(10_000, 1_000)
    EpochPlan([3], shuffle=True).positions(0, 3)  # what the first use imports is not counted
    tracemalloc.start()
    try:
        plan = EpochPlan(counts, shuffle=True, partitions=partitions)
        for start in (9_000_000, 9_000_064, 1_000_000):
            assert len(plan.positions(start, start + 64)) == 64
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(plan) == 10_000_000
    assert peak_bytes < 2 * 2**20  # the samples alone would be 80 MB


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([1], {"seed": -1}, "seed .* not -1; the nearest legal value: 0"),
        ([1], {"seed": 2**64}, f"the nearest legal value: {2**64 - 1}"),
        ([1], {"epoch": 2**32}, f"epoch .* the nearest legal value: {2**32 - 1}"),
        ([1], {"window": -1}, "window .* not -1; the nearest legal value: 0"),
        ([1], {"window": 10**9}, f"the nearest legal value: {MAX_WINDOW}"),
        ([1], {"window": 1.5}, r"window must be a whole number .* not 1\.5"),
        ([1], {"partitions": 0}, "partitions .* not 0; the nearest legal value: 1"),
        ([1, -2], {}, "shard 1 cannot hold -2 samples"),
        ([1.0], {}, "not float64"),
        ([[1]], {}, r"shape \(1, 1\)"),
        ([2**62, 2**62], {}, "too many for one plan"),
    ],
)
def test_impossible_options_are_refused_with_the_value(
    counts: list[int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        EpochPlan(counts, shuffle=True, **options)


def test_a_partition_that_is_not_there_is_refused() -> None:
    with pytest.raises(PlanError, match=r"partition .* not 1; the nearest legal value: 0"):
        EpochPlan([2, 3]).shards_mixed(1, 0)


def test_a_plan_is_frozen() -> None:
    plan = EpochPlan([2, 3], shuffle=True)
    with pytest.raises(AttributeError):
        plan.seed = 1
    with pytest.raises(AttributeError):
        del plan.seed
    assert repr(plan) == "EpochPlan(seed=0, epoch=0, shuffle=True, window=4, partitions=1)"
    with pytest.raises(ValueError, match="read-only"):
        plan.counts[0] = 1
    given_counts = np.array([2, 3])
    plan = EpochPlan(given_counts)
    given_counts[0] = 9
    assert len(plan) == 5


def test_the_largest_plan_is_exact() -> None:
    counts, partitions = [2**44] * 4, 2**16
    plan = EpochPlan(counts, partitions=partitions)
    last = range(len(plan) - 3, len(plan))
    expected = [turn % partitions * len(plan) // partitions + turn // partitions for turn in last]
    assert plan.positions(last.start, last.stop).tolist() == expected
    mine = plan.for_rank(2**16 - 2, 2**16 - 1)
    positions, _ = mine.positions(len(mine) - 3, len(mine))
    assert positions.max() == len(plan) - 1


def test_the_widest_window_works() -> None:
    plan = EpochPlan([30, 20], shuffle=True, window=MAX_WINDOW)
    assert sorted(whole(plan)) == list(range(50))
