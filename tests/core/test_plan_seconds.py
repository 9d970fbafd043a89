from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb.errors import PlanError
from audiomdb.plan import EpochPlan, MixPlan, SecondsPlan, Selection, even_borders
from audiomdb.plan.chapters import Slots
from audiomdb.plan.durations import sampled, usual_increment
from audiomdb.plan.packing import SlotSize, cut, fewest_slots, spread

clips = st.lists(st.floats(0.1, 10.0), min_size=0, max_size=12)


@given(clips, st.floats(10.0, 40.0), st.none() | st.integers(1, 5), st.integers(1, 5))
def test_a_cut_keeps_every_clip_once_within_bounds(
    durations: list[float], seconds: float, most: int | None, slots: int
) -> None:
    size = SlotSize(seconds, most)
    count = size.fitting(np.array(durations), slots)
    descending = sorted(durations[:count], reverse=True)
    assert needed(size, descending) <= slots
    assert count == len(durations) or needed(size, durations[: count + 1]) > slots
    if durations:
        assert size.fitting_one(durations, 1) == size.fitting(np.array(durations), 1)
    rooms = [size.room(one) for one in descending]
    for ends in (
        cut(rooms.__getitem__, count, slots),
        spread(rooms, slots, 1),
        spread(rooms, 1, slots),
    ):
        assert len(ends) == slots
        assert ends == sorted(ends)
        assert ends[-1] == count
        for begin, end in pairwise([0, *ends]):
            if begin < end:
                assert (end - begin) * descending[begin] <= seconds
                assert most is None or end - begin <= most


def needed(size: SlotSize, durations: list[float]) -> int:
    return fewest_slots([size.room(one) for one in sorted(durations, reverse=True)])


@given(st.lists(st.floats(0.05, 9.0), max_size=30), st.floats(9.0, 99.0))
def test_slot_room_is_the_same_for_scalars_and_arrays(
    durations: list[float], seconds: float
) -> None:
    for size in (SlotSize(seconds), SlotSize(seconds, 3)):
        expected = [size.room(one) for one in durations]
        assert size.rooms(np.array(durations)).tolist() == expected


def test_slot_room_is_exact_despite_rounding_in_division() -> None:
    assert SlotSize(0.3).room(0.1) == 2  # 3 * 0.1 is a little more
    assert SlotSize(1.1 * 3).room(1.1) == 3
    assert SlotSize(100.0, 7).room(0.5) == 7
    assert SlotSize(0.3).rooms(np.array([0.1])).tolist() == [2]
    assert SlotSize(1.1 * 3).rooms(np.array([1.1])).tolist() == [3]


def test_missing_clips_are_spread_over_all_slots() -> None:
    # 96 clips in ten slots of ten.
    assert np.diff(spread([10] * 96, 10, 1), prepend=0).min() == 9
    # A slot of three is short without one of them, and so would all be with half of the clips.
    assert np.diff(spread([3] * 21, 10, 1), prepend=0).tolist() == [3] * 7 + [0] * 3
    assert np.diff(spread([10] * 50, 10, 1), prepend=0).tolist() == [8] * 6 + [2] + [0] * 3
    # In the last step that has any, no slot goes without for the sake of another.
    assert np.diff(spread([10] * 50, 5, 2), prepend=0).tolist() == [8] * 6 + [1, 1] + [0] * 2
    assert np.diff(spread([100] * 8, 1, 8), prepend=0).tolist() == [1] * 8


@st.composite
def seconds_plans(draw: st.DrawFn) -> SecondsPlan:
    partitions = draw(st.sampled_from([1, 2, 3]))
    counts = draw(st.lists(st.integers(0, 25), max_size=8))
    total = sum(counts)
    durations = np.random.default_rng(draw(st.integers(0, 99))).uniform(0.5, 12.0, total)
    selection = None
    if draw(st.booleans()):
        selection = Selection(counts, durations > 2)
    plan = EpochPlan(
        counts,
        shuffle=True,
        seed=draw(st.integers(0, 9)),
        partitions=partitions,
        selection=selection,
    )
    return SecondsPlan(
        plan,
        durations,
        max_batch_seconds=draw(st.floats(12.0, 60.0)),
        slots=partitions * draw(st.integers(1, 3)),
        max_batch_size=draw(st.none() | st.integers(1, 6)),
        borders=draw(st.none() | st.just([2.0, 4.0, 8.0])),
        increment=draw(st.none() | st.integers(1, 9)),
        max_age=draw(st.integers(1, 9)),
        chapter=draw(st.integers(1, 12)),
    )


def steps_of(plan: SecondsPlan, world_size: int = 1) -> list[list[tuple[list[int], list[bool]]]]:
    return [
        [
            (slot.positions.tolist(), slot.mask.tolist())
            for rank in range(world_size)
            for slot in plan.step(chapter, number, rank, world_size)
        ]
        for chapter in range(plan.chapters)
        for number in range(plan.steps(chapter))
    ]


@given(seconds_plans())
@settings(max_examples=60)
def test_an_epoch_by_seconds_has_every_sample_once(plan: SecondsPlan) -> None:
    seen = [
        position
        for step in steps_of(plan)
        for positions, mask in step
        for position, counts in zip(positions, mask, strict=True)
        if counts
    ]
    order = plan.plan
    assert isinstance(order, EpochPlan)
    assert sorted(seen) == sorted(order.positions(0, len(order)).tolist())


@given(seconds_plans())
@settings(max_examples=60)
def test_every_slot_has_a_sample_and_keeps_its_bounds(plan: SecondsPlan) -> None:
    durations = plan._durations
    for step in steps_of(plan):
        assert len(step) == plan.slots
        assert any(all(mask) for _, mask in step)
        for positions, mask in step:
            assert len(positions) * durations[positions].max() <= plan.size.seconds
            assert len(positions) <= (plan.size.clips or len(positions))
            assert all(mask) or (len(positions) == 1 and not mask[0])


@given(seconds_plans())
@settings(max_examples=40)
def test_a_step_by_seconds_is_the_same_for_every_world_size(plan: SecondsPlan) -> None:
    alone = steps_of(plan)
    for world_size in range(2, plan.slots + 1):
        if plan.slots % world_size == 0:
            assert steps_of(plan, world_size) == alone


@given(seconds_plans(), st.data())
@settings(max_examples=40)
def test_any_chapter_is_made_without_the_others(plan: SecondsPlan, data: st.DataObject) -> None:
    if not plan.chapters:
        return
    everything = [[plan.step(c, k) for k in range(plan.steps(c))] for c in range(plan.chapters)]
    chapter = data.draw(st.integers(0, plan.chapters - 1))
    fresh = pickle.loads(pickle.dumps(plan))
    number = data.draw(st.integers(0, fresh.steps(chapter) - 1))
    for ours, theirs in zip(fresh.step(chapter, number), everything[chapter][number], strict=True):
        assert ours.positions.tolist() == theirs.positions.tolist()


@given(seconds_plans())
@settings(max_examples=40)
def test_no_sample_waits_longer_than_the_age_limit(plan: SecondsPlan) -> None:
    # A step cannot be made before its newest sample has come.
    for chapter in range(plan.chapters):
        length = plan.increment * plan.chapter_increments
        came: dict[int, int] = {}
        for line in plan.plan.lines:
            begin, end = (min(at * length, len(line)) for at in (chapter, chapter + 1))
            positions = line.take(np.arange(begin, end))
            came |= {int(one): i // plan.increment for i, one in enumerate(positions)}
        now = 0
        for number in range(plan.steps(chapter)):
            slots = plan.step(chapter, number)
            mine = [came[int(one)] for slot in slots if slot.mask.all() for one in slot.positions]
            now = max(now, *mine)
            if now < max(came.values()):
                assert min(mine) >= now - plan.max_age


def test_the_report_counts_padding_and_short_slots() -> None:
    plan = SecondsPlan(
        EpochPlan([5]), np.array([1.0, 2.0, 3.0, 4.0, 4.0]), max_batch_seconds=8, slots=3
    )
    report = plan.report()
    assert (report.steps, report.samples, report.seconds) == (1, 5, 14.0)
    assert report.padded_seconds == (4 + 4) + (3 + 3) + 1
    assert report.padding == 1 - 14 / 15
    assert report.short_slots == report.short_steps == 1
    assert report.empty_slots == 0


@pytest.mark.parametrize(
    ("partitions", "slots", "padding"), [(1, 8, 0.006), (4, 8, 0.02), (8, 8, 0.033), (8, 64, 0.006)]
)
def test_many_clips_leave_little_padding_and_few_short_steps(
    partitions: int, slots: int, padding: float
) -> None:
    durations = np.random.default_rng(0).lognormal(np.log(6), 0.6, 120_000).clip(1, 20)
    order = EpochPlan([1000] * 120, shuffle=True, partitions=partitions)
    report = SecondsPlan(order, durations, max_batch_seconds=200, slots=slots).report()
    assert report.samples == 120_000
    assert report.padding < padding
    assert report.fill > 0.95
    assert report.short_steps <= 0.015 * report.steps


def test_one_slot_of_few_clips_leaves_less_padding_than_even_seconds_would() -> None:
    # 2.9 % with 30 buckets of equally many seconds, lhotse's DynamicBucketingSampler.
    durations = np.random.default_rng(0).uniform(2, 15, 1500)
    padding = [
        SecondsPlan(
            EpochPlan([100] * 15, shuffle=True, seed=seed),
            durations,
            max_batch_seconds=136,
            slots=1,
            borders=even_borders(durations, 30),
        )
        .report()
        .padding
        for seed in range(4)
    ]
    assert np.mean(padding) < 0.027


@pytest.mark.parametrize(("seconds", "short"), [(30, 0.08), (1000, 0.01)])
def test_slots_of_few_and_of_many_clips_are_full(seconds: float, short: float) -> None:
    durations = np.random.default_rng(1).lognormal(np.log(6), 0.6, 100_000).clip(1, 20)
    order = EpochPlan([1000] * 100, shuffle=True, partitions=8)
    report = SecondsPlan(order, durations, max_batch_seconds=seconds, slots=8).report()
    assert report.short_steps < short * report.steps


@pytest.mark.parametrize(
    ("partitions", "slots", "most"),
    [(1, 1, 2**17), (8, 64, 2**17), (64, 64, 2**17), (1, 250, 2**17), (1, 500, 2**18)],
)
def test_chapters_are_small_enough_to_be_made_quickly(
    partitions: int, slots: int, most: int
) -> None:
    order = EpochPlan([1000] * 2000, partitions=partitions)
    plan = SecondsPlan(order, np.full(2_000_000, 6.0), max_batch_seconds=180, slots=slots)
    assert 2**12 < plan.chapter_end(0) * partitions <= most
    # An increment more does not make a chapter shorter than some steps.
    huge = SecondsPlan(order, np.full(2_000_000, 6.0), max_batch_seconds=180, slots=6400)
    assert huge.chapter_increments == 32


def test_the_last_steps_of_a_chapter_do_not_go_from_long_to_short() -> None:
    durations = np.linspace(1, 20, 2000)
    plan = SecondsPlan(EpochPlan([2000]), durations, max_batch_seconds=100, slots=1, chapter=125)
    longest = [
        durations[plan.step(0, number)[0].positions].max() for number in range(plan.steps(0))
    ]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_slots_are_reordered_with_their_clips() -> None:
    slots = Slots(np.arange(6), np.array([1, 1, 4, 6]))
    moved = slots.reordered(np.array([2, 0, 3, 1]))
    assert [moved.slot(i).tolist() for i in range(4)] == [[1, 2, 3], [0], [4, 5], []]


def test_mixtures_make_batches_by_seconds_too() -> None:
    order = MixPlan([[30, 30], [40]], weights=[1, 1], shuffle=True, partitions=2)
    plan = SecondsPlan(order, np.full(100, 2.0), max_batch_seconds=10, slots=2)
    real = sum(sum(map(sum, (mask for _, mask in step))) for step in steps_of(plan))
    assert real == len(order)


def test_borders_cost_about_equally_much_padding() -> None:
    durations = np.random.default_rng(1).lognormal(1.5, 0.7, 20_000).clip(1, 20)
    borders = even_borders(durations, 10)
    assert borders == sorted(borders)
    assert len(borders) == 9
    assert set(borders) <= set(durations.tolist())
    bucket = np.searchsorted(borders, durations)
    padding = [(one.max() - one).sum() for one in (durations[bucket == i] for i in range(10))]
    assert max(padding) < 1.8 * min(padding)
    seconds = np.bincount(bucket, weights=durations)
    assert seconds.min() > 0.3 * seconds.mean()
    ascending = np.sort(durations)
    upto = np.cumsum(ascending) / ascending.sum()
    bucket = np.searchsorted(ascending[np.searchsorted(upto, np.arange(1, 10) / 10)], durations)
    even = [(one.max() - one).sum() for one in (durations[bucket == i] for i in range(10))]
    assert sum(padding) < 0.95 * sum(even)


def test_few_or_equal_durations_give_sensible_borders() -> None:
    assert even_borders(np.array([])) == []
    assert even_borders(np.full(1000, 30.0)) == []
    assert set(even_borders(np.array([1.0, 2.0, 3.0]), 8)) <= {1.0, 2.0, 3.0}
    half = even_borders(np.concatenate([np.full(500, 30.0), np.linspace(1, 29, 500)]), 8)
    assert len(half) == 7
    assert half[-1] < 30


def test_durations_are_sampled_from_those_that_take_part() -> None:
    durations = np.arange(1.0, 3_000_001.0)
    kept = np.random.default_rng(0).random(len(durations)) < 0.3
    expected = durations[kept][:: -(-int(kept.sum()) // 2**16)]
    assert sampled(durations, kept).tolist() == expected.tolist()
    assert len(sampled(durations)) <= 2**16
    assert len(sampled(durations, np.zeros(len(durations), np.bool_))) == 0


def test_increments_are_half_a_slot_but_at_least_sixteen() -> None:
    assert usual_increment(np.full(100, 5.0), SlotSize(1000.0)) == 100
    assert usual_increment(np.full(100, 5.0), SlotSize(1000.0, 50)) == 25
    assert usual_increment(np.full(100, 5.0), SlotSize(20.0)) == 16
    assert usual_increment(np.array([]), SlotSize(20.0)) == 16


def test_steps_by_seconds_are_frozen() -> None:
    durations = np.arange(1, 25) * 0.5
    plan = SecondsPlan(
        EpochPlan([12, 12], seed=3, shuffle=True, partitions=2),
        durations,
        max_batch_seconds=16,
        slots=4,
        borders=[3.0, 6.0],
        increment=4,
    )
    assert [[positions for positions, _ in step] for step in steps_of(plan)] == [
        [[19], [18], [19], [19]],
        [[13, 12], [15, 14], [13], [13]],
        [[21], [20], [3, 2, 1, 0], [6, 5, 4]],
        [[16], [17], [3], [3]],
        [[22], [23], [9, 8, 7], [11, 10]],
    ]


@pytest.mark.parametrize(
    ("durations", "options", "message"),
    [
        (
            [1.0, 5.0],
            {"max_batch_seconds": 4},
            "position 1 lasts 5.0 s, .* raise max_batch_seconds",
        ),
        ([1.0, np.nan], {}, "position 1 lasts nan s"),
        ([1.0, 0.0], {}, "position 1 lasts 0.0 s"),
        ([1.0, 1.0], {"max_batch_seconds": 0}, "expected seconds above 0"),
        ([1.0, 1.0], {"max_batch_seconds": "9"}, "is .9., expected seconds above 0"),
        ([1.0, 1.0], {"slots": 3}, "slots 3 cannot be shared evenly by 2 partitions"),
        ([1.0, 1.0], {"borders": [2.0, 1.0]}, "expected ascending"),
        ([1.0, 1.0], {"max_age": 0}, "max_age .* nearest legal value: 1"),
    ],
)
def test_impossible_batches_by_seconds_are_refused(
    durations: list[float], options: dict[str, Any], message: str
) -> None:
    order = EpochPlan([2], partitions=2)
    with pytest.raises(PlanError, match=message):
        SecondsPlan(order, np.array(durations), **{"max_batch_seconds": 10, "slots": 2, **options})


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("tiny", [1e-15, 1e-19, 1e-300, 5e-324])
def test_very_short_clips_are_packed_too(tiny: float, slots: int) -> None:
    for some in ([1.0, 2.0, tiny, 3.0, 2 * tiny], [tiny, 2 * tiny]):
        durations = np.array(some * 40)
        order = EpochPlan([len(durations)], shuffle=True)
        for seconds in (8.0, 1e308):
            plan = SecondsPlan(order, durations, max_batch_seconds=seconds, slots=slots)
            clips = [one for step in steps_of(plan) for positions, _ in step for one in positions]
            assert set(clips) == set(range(len(durations)))
            assert plan.report().samples == len(durations)


def test_samples_that_are_filtered_out_may_be_too_long() -> None:
    order = EpochPlan([2], selection=Selection([2], np.array([True, False])))
    plan = SecondsPlan(order, np.array([1.0, 50.0]), max_batch_seconds=10, slots=1)
    assert steps_of(plan) == [[([0], [True])]]


def test_ranks_that_do_not_divide_the_slots_are_refused() -> None:
    plan = SecondsPlan(EpochPlan([9]), np.ones(9), max_batch_seconds=3, slots=4)
    with pytest.raises(PlanError, match="slots 4 cannot be shared evenly by 3 ranks"):
        plan.step(0, 0, 0, 3)


@pytest.mark.parametrize("slots", [2, 6])
def test_an_empty_slot_repeats_the_last_sample_of_its_partition(slots: int) -> None:
    # One partition has short clips, of which a slot holds many, and the other has long ones.
    seconds = np.concatenate([np.linspace(1, 1.5, 1000), np.linspace(8, 9.5, 1000)])
    plan = SecondsPlan(
        EpochPlan([100] * 20, partitions=2), seconds, max_batch_seconds=10, slots=slots
    )
    each, empty = slots // 2, 0
    latest: dict[int, int] = {}
    for number in range(plan.steps(0)):
        step = plan.step(0, number)
        first = [slot.positions[0] for slot in step if slot.mask[0]]
        for partition in range(2):
            own = step[partition * each : (partition + 1) * each]
            if filled := [slot.positions[0] for slot in own if slot.mask[0]]:
                latest[partition] = filled[0]
            for slot in own:
                if not slot.mask[0]:
                    empty += 1
                    assert slot.positions.tolist() == [latest.get(partition, first[0])]
    assert empty > 100
