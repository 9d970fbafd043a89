from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from audiomdb.plan import EpochPlan, StepPlan, shuffle
from audiomdb.plan.bits import Purpose, random_words
from audiomdb.plan.line import cut_line
from audiomdb.plan.shuffle import ShuffledLine

Array = NDArray[np.int64]

all_counts = st.lists(st.integers(0, 9), min_size=1, max_size=14).filter(any)
windows = st.integers(0, 9)


def whole_line(counts: list[int], window: int, seed: int = 0) -> ShuffledLine:
    sizes = np.array(counts, dtype=np.int64)
    (run,) = cut_line(sizes, np.arange(len(sizes), dtype=np.int64), 1)
    return ShuffledLine(run, seed=seed, epoch=0, window=window)


def take_all(line: ShuffledLine) -> Array:
    return line.take(np.arange(len(line), dtype=np.int64))


@given(all_counts, windows, st.integers(0, 2**64 - 1))
def test_every_sample_appears_once(counts: list[int], window: int, seed: int) -> None:
    positions = take_all(whole_line(counts, window, seed))
    assert sorted(positions.tolist()) == list(range(sum(counts)))


@given(all_counts, windows, st.integers(0, 2**64 - 1))
def test_the_order_is_that_of_the_points(counts: list[int], window: int, seed: int) -> None:
    filled = [shard for shard, count in enumerate(counts) if count]
    points = []
    for ordinal, shard in enumerate(filled):
        words = random_words(seed, 0, Purpose.SAMPLE_ORDER, shard, stop=counts[shard])
        for place, word in enumerate(words.tolist()):
            point = (ordinal << 48) + (word >> 16) * (window + 1)
            points.append((point, ordinal, place, sum(counts[:shard]) + place))
    expected = [position for _, _, _, position in sorted(points)]
    assert take_all(whole_line(counts, window, seed)).tolist() == expected


@given(all_counts, windows, st.data())
def test_elements_read_in_any_pieces_equal_the_whole(
    counts: list[int], window: int, data: st.DataObject
) -> None:
    expected = take_all(whole_line(counts, window))
    line = whole_line(counts, window)
    some = st.sets(st.integers(0, sum(counts) - 1)).map(sorted)
    for _ in range(4):  # the same line again, so that what it kept is met from anywhere
        elements = np.array(data.draw(some), dtype=np.int64)
        assert line.take(elements).tolist() == expected[elements].tolist()


@given(all_counts, windows)
def test_at_most_window_plus_one_shards_are_alive_and_none_returns(
    counts: list[int], window: int
) -> None:
    line = whole_line(counts, window)
    ends = np.cumsum(counts)
    left = 0
    for element, position in enumerate(take_all(line)):
        alive = line.alive(element)
        assert 1 <= len(alive) <= window + 1
        assert np.searchsorted(ends, position, side="right") in line.shards[alive]
        assert alive.start >= left
        left = alive.start


def test_between_the_ends_the_window_is_always_full() -> None:
    line = whole_line([50] * 20, window=3)
    assert {len(line.alive(element)) for element in range(200, 800)} == {4}


def test_the_first_samples_need_the_first_shard_only() -> None:
    line = whole_line([64] * 20, window=3)
    assert line.take(np.arange(8, dtype=np.int64)).max() < 64
    assert line.alive(0) == range(1)


def test_a_window_of_zero_shuffles_inside_each_shard() -> None:
    counts = [5, 1, 8, 3]
    positions = take_all(whole_line(counts, window=0))
    stop = 0
    for count in counts:
        shard = positions[stop : stop + count].tolist()
        assert sorted(shard) == list(range(stop, stop + count))
        stop += count


@given(all_counts, st.integers(0, 13))
def test_other_shards_do_not_change_the_order_within_a_shard(counts: list[int], which: int) -> None:
    shard = which % len(counts)
    first, stop = sum(counts[:shard]), sum(counts[: shard + 1])
    kept = [count if number == shard else 0 for number, count in enumerate(counts)]
    if not any(kept):
        return
    everything = take_all(whole_line(counts, window=2))
    inside = everything[(everything >= first) & (everything < stop)] - first
    assert inside.tolist() == take_all(whole_line(kept, window=2)).tolist()


def test_one_line_serves_several_threads() -> None:
    expected = take_all(whole_line([40] * 30, window=3))
    line = whole_line([40] * 30, window=3)

    def read(thread: int) -> bool:
        starts = np.random.default_rng(thread).integers(0, len(line) - 16, 60)
        return all(
            np.array_equal(line.take(np.arange(start, start + 16)), expected[start : start + 16])
            for start in starts
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


# Quality. Each statistic is also taken of a full shuffle (NumPy's, seeded), which no method with
# a limited number of shards alive can beat.


def chi_square(draws: list[tuple[int, ...]]) -> float:
    """Distance of the permutations drawn from all being equally frequent."""
    possible = list(permutations(range(4)))
    expected = len(draws) / len(possible)
    return sum((draws.count(one) - expected) ** 2 / expected for one in possible)


def test_the_permutations_of_a_small_shard_are_equally_frequent() -> None:
    ours = [tuple(take_all(whole_line([4], window=2, seed=seed)).tolist()) for seed in range(2400)]
    rng = np.random.default_rng(0)
    full = [tuple(rng.permutation(4).tolist()) for _ in range(2400)]
    limit = 49.7  # one in a thousand is above, with 23 degrees of freedom
    assert chi_square(full) < limit
    assert chi_square(ours) < limit


def largest_share(shards: Array, batch: int = 64) -> float:
    """Mean share of a batch that comes from its most frequent shard."""
    batches = shards[: len(shards) // batch * batch].reshape(-1, batch)
    return float(np.mean([np.bincount(one).max() for one in batches])) / batch


@pytest.mark.parametrize("window", [3, 7, 15])
def test_batches_are_as_mixed_as_if_the_shards_alive_were_fully_shuffled(window: int) -> None:
    count, shards = 500, 120
    order = take_all(whole_line([count] * shards, window)) // count
    middle = order[(window + 1) * count : -(window + 1) * count]
    rng = np.random.default_rng(0)
    alive = np.repeat(np.arange(window + 1), count)
    full = np.concatenate([rng.permutation(alive)[:64] for _ in range(600)])
    assert largest_share(middle) == pytest.approx(largest_share(full), rel=0.03)
    neighbours = np.mean(middle[1:] == middle[:-1])
    assert neighbours == pytest.approx(1 / (window + 1), rel=0.03)


def test_a_window_wider_than_the_dataset_comes_close_to_a_full_shuffle() -> None:
    total, stored = 1000, np.arange(1000)
    rng = np.random.default_rng(0)

    def shift(orders: list[Array]) -> float:
        return float(np.mean([np.abs(order - stored).mean() for order in orders])) / total

    wide = [take_all(whole_line([250] * 4, window=200, seed=seed)) for seed in range(20)]
    narrow = [take_all(whole_line([250] * 4, window=0, seed=seed)) for seed in range(20)]
    full = [rng.permutation(total) for _ in range(20)]
    assert shift(full) == pytest.approx(1 / 3, rel=0.02)
    assert shift(wide) == pytest.approx(shift(full), rel=0.03)
    assert shift(narrow) < shift(full) / 3


@given(all_counts, windows, st.integers(1, 40))
def test_shards_mixed_can_be_asked_for_earlier_elements(
    counts: list[int], window: int, ahead: int
) -> None:
    line = whole_line(counts, window)
    for element in range(len(line)):
        line.take(np.arange(element, min(len(line), element + ahead), dtype=np.int64))
        assert line.alive(element) == whole_line(counts, window).alive(element)


def test_asking_about_earlier_elements_draws_no_shard_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []

    def noted(seed: int, epoch: int, purpose: Purpose, number: int, **part: int) -> Any:
        drawn.append(number)
        return random_words(seed, epoch, purpose, number, **part)

    monkeypatch.setattr(shuffle, "random_words", noted)
    steps = StepPlan(EpochPlan([20] * 400, shuffle=True, partitions=2), 16)
    for number in range(steps.steps):
        steps.step(number)
        for partition in range(2):
            steps.plan.shards_mixed(partition, (number + 1) * 8)
    assert len(drawn) <= 400 + 2 * 2  # the partitions share a shard, and begin by looking for it


def test_two_epochs_have_no_more_neighbours_in_common_than_two_full_shuffles() -> None:
    counts = [100] * 50

    def neighbours(order: Array) -> set[tuple[int, int]]:
        return set(zip(order.tolist(), order[1:].tolist(), strict=False))

    first, second = (
        EpochPlan(counts, epoch=epoch, shuffle=True).positions(0, 5000) for epoch in (0, 1)
    )
    # A pair of one shard meets again with a chance of about 1 in (w + 1) n = 500, and only a
    # fifth of the pairs are of one shard: two or three of the 4999.
    assert len(neighbours(first) & neighbours(second)) <= 10
