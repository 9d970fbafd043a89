from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb.errors import PlanError
from audiomdb.plan import Split, Tail
from audiomdb.plan.split import TAILS

totals = st.integers(0, 60)
few = st.integers(1, 7)
tails = st.sampled_from(TAILS)
Place = tuple[int, int]


def read(split: Split) -> tuple[list[Place], list[bool]]:
    places = split.places(0, len(split))
    pairs = zip(places.partitions.tolist(), places.elements.tolist(), strict=True)
    return list(pairs), places.mask.tolist()


def turns(total: int, partitions: int) -> list[Place]:
    return read(Split(total, partitions))[0]


def lengths(total: int, partitions: int) -> list[int]:
    cuts = [math.ceil(p * total / partitions) for p in range(partitions + 1)]
    return [stop - start for start, stop in pairwise(cuts)]


@given(totals, few)
def test_partitions_are_read_side_by_side(total: int, partitions: int) -> None:
    order = turns(total, partitions)
    assert sorted(order) == [
        (p, element) for p, size in enumerate(lengths(total, partitions)) for element in range(size)
    ]
    assert [element for _, element in order] == [t // partitions for t in range(total)]
    full = total - total % partitions
    assert [partition for partition, _ in order[:full]] == [t % partitions for t in range(full)]


@given(totals, few, few, few, tails)
@settings(max_examples=400)
def test_every_sample_goes_to_one_worker_of_one_rank(
    total: int, partitions: int, world_size: int, num_workers: int, tail: Tail
) -> None:
    unmasked: list[Place] = []
    ranks = []
    for rank in range(world_size):
        read_by_rank = 0
        for worker in range(num_workers):
            split = Split(total, partitions, rank, world_size, worker, num_workers, tail)
            places, mask = read(split)
            assert len(places) == len(mask) == len(split)
            unmasked += [place for place, true in zip(places, mask, strict=True) if true]
            read_by_rank += len(split)
        ranks.append(read_by_rank)
    everything = set(turns(total, partitions))
    assert len(unmasked) == len(set(unmasked)) == total - split.dropped
    if tail == "drop":
        assert set(unmasked) <= everything
        assert len(unmasked) == total - total % world_size
        assert set(ranks) == {total // world_size}
    else:
        assert set(unmasked) == everything
    if tail == "pad":
        assert set(ranks) == {math.ceil(total / world_size)}
    if tail == "uneven":
        assert max(ranks) - min(ranks) <= 1


@given(totals, few, few, few, tails, st.data())
def test_workers_take_turns_within_their_rank(
    total: int, partitions: int, world_size: int, workers: int, tail: Tail, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world_size - 1))
    alone = read(Split(total, partitions, rank, world_size, tail=tail))
    for worker in range(workers):
        places, mask = read(Split(total, partitions, rank, world_size, worker, workers, tail))
        assert places == alone[0][worker::workers]
        assert mask == alone[1][worker::workers]


@given(totals, few, few, few, tails, st.data())
def test_any_stretch_equals_the_slice_of_the_whole(
    total: int, partitions: int, world_size: int, workers: int, tail: Tail, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world_size - 1))
    worker = data.draw(st.integers(0, workers - 1))
    split = Split(total, partitions, rank, world_size, worker, workers, tail)
    start, stop = data.draw(st.integers(0, 70)), data.draw(st.integers(0, 70))
    whole, part = split.places(0, len(split)), split.places(start, stop)
    for all_of_it, some in zip(whole, part, strict=True):
        assert some.tolist() == all_of_it[start:stop].tolist()


@given(totals, few, few)
def test_all_world_sizes_have_read_the_same_turns_after_each_block(
    total: int, partitions: int, world_size: int
) -> None:
    order = turns(total, partitions)
    block = math.lcm(partitions, world_size)
    ranks = [read(Split(total, partitions, rank, world_size))[0] for rank in range(world_size)]
    each = block // world_size
    for k in range(-(-total // block)):
        met = [place for rank in ranks for place in rank[k * each : (k + 1) * each]]
        assert sorted(met, key=order.index) == order[k * block : (k + 1) * block]


def test_with_one_partition_ranks_take_every_rth_sample() -> None:
    for rank in range(3):
        places, _ = read(Split(10, 1, rank, 3))
        assert [element for _, element in places] == list(range(rank, 10, 3))


@given(totals, st.integers(1, 12), st.integers(1, 12), st.sampled_from(["uneven", "drop"]))
def test_a_rank_meets_only_its_share_of_the_partitions(
    total: int, partitions: int, world_size: int, tail: Tail
) -> None:
    for rank in range(world_size):
        split = Split(total, partitions, rank, world_size, tail=tail)
        low, high = rank * partitions / world_size, (rank + 1) * partitions / world_size
        assert split.partitions_met == range(math.floor(low), math.ceil(high))
        assert {partition for partition, _ in read(split)[0]} <= set(split.partitions_met)


@given(totals, st.integers(1, 4), few, few, tails)
def test_nodes_share_no_partition_when_their_number_divides_the_partitions(
    total: int, nodes: int, partitions_each: int, ranks_each: int, tail: Tail
) -> None:
    partitions, world_size = nodes * partitions_each, nodes * ranks_each
    for rank in range(world_size):
        node = rank // ranks_each
        split = Split(total, partitions, rank, world_size, tail=tail)
        own = range(node * partitions_each, (node + 1) * partitions_each)
        assert set(split.partitions_met) <= set(own)
        if total >= world_size:
            assert {partition for partition, _ in read(split)[0]} <= set(own)


def test_a_short_rank_repeats_its_last_sample_masked() -> None:
    places, mask = read(Split(7, 1, 1, 2, tail="pad"))
    assert places == [(0, 1), (0, 3), (0, 5), (0, 5)]
    assert mask == [True, True, True, False]


def test_a_rank_without_samples_borrows_one() -> None:
    masks = [read(Split(2, 1, rank, 5, tail="pad"))[1] for rank in range(5)]
    assert sorted(masks) == [[False]] * 3 + [[True]] * 2
    assert len(Split(0, 1, 0, 5, tail="pad")) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 4, "world_size": 4}, "rank .* not 4; the nearest legal value: 3"),
        ({"rank": -1}, "rank .* not -1; the nearest legal value: 0"),
        ({"world_size": 0}, "world_size .* not 0; the nearest legal value: 1"),
        ({"worker": 2, "num_workers": 2}, "worker .* not 2; the nearest legal value: 1"),
        ({"num_workers": 0}, "num_workers .* not 0; the nearest legal value: 1"),
        ({"partitions": 0}, "partitions .* not 0; the nearest legal value: 1"),
        ({"world_size": 2.0}, r"world_size .* not 2\.0"),
        ({"tail": "keep"}, "one of 'uneven', 'drop', 'pad', not 'keep'"),
    ],
)
def test_an_impossible_split_is_refused_with_the_value(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        Split(10, **options)


def test_negative_places_are_refused() -> None:
    with pytest.raises(PlanError, match=r"start .* not -1"):
        Split(10).places(-1, 3)


def test_numpy_numbers_are_whole_numbers() -> None:
    rank, world_size = np.int32(1), np.uint8(200)
    split = Split(10**9, 3, rank, world_size)  # type: ignore[arg-type]
    assert read(Split(10, 1, rank, world_size)) == read(Split(10, 1, 1, 200))  # type: ignore[arg-type]
    assert len(split) == 10**9 // 200
