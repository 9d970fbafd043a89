from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiomdb.cache import CacheOptions
from audiomdb.cache.admission import refuse_too_many
from audiomdb.cache.budget import (
    DONE,
    NEVER,
    Reading,
    Stored,
    eviction_order,
    need_bytes,
    next_uses,
    smallest_budget,
    within_reach,
)
from audiomdb.cache.readers import registration_bytes
from audiomdb.errors import CacheTooSmallError

uses = st.one_of(st.just(NEVER), st.integers(0, 9).map(float))
items = st.lists(st.tuples(st.integers(1, 9), uses, st.integers(0, 9))).map(
    lambda rows: [Stored(str(i), *row) for i, row in enumerate(rows)]
)


@given(items, st.integers(-1, 9))
def test_victims_go_furthest_use_first_and_longest_unused_among_equals(
    stored: list[Stored], later_than: int
) -> None:
    order = eviction_order(stored, later_than=later_than)
    assert {item.name for item in order} == {
        item.name for item in stored if item.next_use > later_than
    }
    for first, second in pairwise(order):
        assert first.next_use >= second.next_use
        assert first.next_use > second.next_use or first.used_at <= second.used_at


def test_a_visit_that_ended_out_of_order_no_longer_counts() -> None:
    reading = Reading(0, np.array([3, DONE, 1, 2], np.int32))
    assert next_uses([reading], 4).tolist() == [NEVER, 2, 3, 0]


def test_without_a_known_future_the_least_recently_used_goes_first() -> None:
    stored = [Stored("new", 1, NEVER, 30), Stored("old", 1, NEVER, 10), Stored("mid", 1, NEVER, 20)]
    assert [item.name for item in eviction_order(stored)] == ["old", "mid", "new"]


@given(
    st.lists(st.none() | st.lists(st.integers(0, 7)), max_size=4),
)
def test_next_use_is_that_of_the_reader_who_needs_it_soonest(
    readers: list[list[int] | None],
) -> None:
    readings = [
        Reading(0, None if visits is None else np.array(visits, np.int32)) for visits in readers
    ]
    found = next_uses(readings, 6)
    for shard in range(6):
        distances = [visits.index(shard) for visits in readers if visits and shard in visits]
        assert found[shard] == min(distances, default=math.inf)


def test_a_shard_is_in_reach_if_it_fits_beside_all_shards_needed_earlier() -> None:
    uses, sizes = np.array([0, 1, 1, NEVER]), np.array([10, 20, 30, 40])
    for number, least in enumerate([10, 60, 60, 100]):
        assert within_reach(uses, sizes, number, least)
        assert not within_reach(uses, sizes, number, least - 1)


@given(st.lists(st.integers(1, 100), min_size=1), st.integers(0, 12), st.data())
def test_a_readers_reserved_room_fits_any_choice_of_its_shards(
    sizes: list[int], at_once: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.permutations(sizes))[:at_once]
    assert sum(chosen) <= need_bytes(sizes, at_once) <= sum(sizes)


def test_no_budget_has_to_exceed_the_dataset() -> None:
    assert smallest_budget([30, 40], total=100, fixed=7) == 77
    assert smallest_budget([60, 60, 60], total=100, fixed=7) == 107


def test_the_suggested_budget_counts_everything_in_the_directory(tmp_path: Path) -> None:
    def ask(budget: int) -> None:
        refuse_too_many(
            tmp_path,
            [10, 20, 30, 40, 1000],
            2,
            9,
            workers=3,
            others=[(Reading(50, None), 300)],
            fixed=7,
            budget=budget,
            asked_bytes=budget,
        )

    two_more = 2 * registration_bytes(9)
    least = 1100 + 7 + 300 + two_more  # all shards are less than the needs of all three readers
    with pytest.raises(CacheTooSmallError, match=f"beside 2 other readers.*={least};"):
        ask(least - 1)
    ask(least)


def fetches(orders: list[list[int]], capacity: int, *, known: bool) -> int:
    """Shards fetched by one reader that keeps `capacity` of them and evicts by the rule."""
    visits = [shard for order in orders for shard in order]
    array = np.array(visits, np.int32)
    there: dict[int, int] = {}
    count = 0
    for place, shard in enumerate(visits):
        if shard not in there:
            count += 1
            if len(there) >= capacity:
                readings = [Reading(0, array[place:])] if known else []
                ahead = next_uses(readings, len(orders[0]))
                stored = [Stored(str(s), 1, ahead[s], at) for s, at in there.items()]
                del there[int(eviction_order(stored)[0].name)]
        there[shard] = place
    return count


@pytest.mark.parametrize("capacity", [5, 10, 15])
def test_a_known_order_costs_no_more_than_pinning_and_less_than_lru(capacity: int) -> None:
    shards, epochs = 20, 10
    rng = np.random.default_rng(3)
    orders = [rng.permutation(shards).tolist() for _ in range(epochs)]
    belady = fetches(orders, capacity, known=True)
    # Keeping a fixed set for ever, with one place for all others to pass through.
    pinned = shards + (epochs - 1) * (shards - (capacity - 1))
    assert belady <= pinned
    assert belady < fetches(orders, capacity, known=False)


def test_options_are_checked() -> None:
    for wrong in ({"max_bytes": -1}, {"prefetch": -1}, {"workers": 0}):
        with pytest.raises(ValueError, match="must be a whole number"):
            CacheOptions(**wrong)
