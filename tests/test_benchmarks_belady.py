from __future__ import annotations

import doctest
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import benchmarks.belady
from benchmarks.belady import belady, lru, pinning

orders = st.lists(st.integers(0, 4), max_size=12)


def least_fetches(order: list[int], capacity: int) -> int:
    """The optimum for shards of one byte, by trying every choice of victims."""

    @cache
    def rest(place: int, cached: frozenset[int]) -> int:
        if place == len(order):
            return 0
        shard = order[place]
        if shard in cached:
            return rest(place + 1, cached)
        choices = combinations(sorted(cached), min(len(cached), capacity - 1))
        return 1 + min(rest(place + 1, frozenset({*kept, shard})) for kept in choices)

    return rest(0, frozenset())


@given(orders, st.integers(1, 4))
def test_beladys_rule_fetches_the_least_that_is_possible(order: list[int], capacity: int) -> None:
    assert belady(order, [1] * 5, capacity) == least_fetches(order, capacity)


@given(orders, st.integers(3, 9), st.lists(st.integers(1, 3), min_size=5, max_size=5))
def test_every_rule_fetches_each_shard_at_least_once(
    order: list[int], capacity: int, sizes: list[int]
) -> None:
    least = sum(sizes[shard] for shard in set(order))
    rules = {
        "belady": belady(order, sizes, capacity),
        "lru": lru(order, sizes, capacity),
        "pinning": pinning(order, sizes, capacity, workspace=3),
    }
    assert min(rules.values()) >= least
    if capacity >= sum(sizes):
        assert rules["belady"] == rules["lru"] == least


def test_pinning_equals_belady_where_each_shard_is_visited_once_an_epoch() -> None:
    rng = np.random.default_rng(0)
    order = [shard for _ in range(5) for shard in rng.permutation(40).tolist()]
    sizes = [1] * 40
    for capacity in (10, 20, 30):
        optimum = belady(order, sizes, capacity)
        # Pinning keeps a place for the shard being read; with one place more the two are equal.
        assert pinning(order, sizes, capacity + 1, workspace=1) <= optimum
        assert pinning(order, sizes, capacity, workspace=1) >= optimum
        assert lru(order, sizes, capacity) > 1.15 * optimum


def test_the_example_of_the_module_is_right() -> None:
    found = doctest.testmod(benchmarks.belady)
    assert found.attempted > 0
    assert found.failed == 0


def test_pinning_keeps_what_is_visited_most_often() -> None:
    order = [0, 1, 0, 2, 0, 3, 0, 4] * 2
    assert pinning(order, [1] * 5, 2, workspace=1) == 1 + 8


def test_reads_in_a_row_from_one_shard_are_one_visit() -> None:
    order = [0, 0, 1, 1, 1, 0]
    assert lru(order, [1, 1], 1) == belady(order, [1, 1], 1) == 3


def test_a_shard_that_does_not_fit_is_refused() -> None:
    for rule in (belady, lru):
        with pytest.raises(ValueError, match="9 bytes does not fit into 8"):
            rule([1], [1, 9], 8)
