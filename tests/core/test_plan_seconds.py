from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb.errors import PlanError
from audiomdb.plan import EpochPlan, MixPlan, SecondsPlan, Selection, even_borders
from audiomdb.plan.packing import SlotSize

clips = st.lists(st.floats(0.1, 10.0), min_size=0, max_size=12)


@given(clips, st.floats(10.0, 40.0), st.none() | st.integers(1, 5), st.integers(1, 5))
@settings(deadline=None)
def test_a_cut_keeps_every_clip_once_within_bounds(
    durations: list[float], seconds: float, most: int | None, slots: int
) -> None:
    size = SlotSize(seconds, most)
    count = size.fitting(durations, slots)
    assert count == len(durations) or not size.fits(durations[: count + 1], slots)
    parts = size.cut(durations[:count], slots)
    assert len(parts) == slots
    assert sorted(i for part in parts for i in part) == list(range(count))
    for part in filter(None, parts):
        assert len(part) * max(durations[i] for i in part) <= seconds
        assert most is None or len(part) <= most


def test_room_is_exact_where_division_is_not() -> None:
    assert SlotSize(0.3).room(0.1) == 2  # 3 * 0.1 is a little more
    assert SlotSize(1.1 * 3).room(1.1) == 3
    assert SlotSize(100.0, 7).room(0.5) == 7


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
@settings(deadline=None, max_examples=60)
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
@settings(deadline=None, max_examples=60)
def test_no_slot_exceeds_its_bounds_and_none_is_without_a_sample(plan: SecondsPlan) -> None:
    durations = plan._durations
    for step in steps_of(plan):
        assert len(step) == plan.slots
        assert any(all(mask) for _, mask in step)
        for positions, mask in step:
            assert len(positions) * durations[positions].max() <= plan.size.seconds
            assert all(mask) or (len(positions) == 1 and not mask[0])


@given(seconds_plans())
@settings(deadline=None, max_examples=40)
def test_a_step_by_seconds_is_the_same_for_every_world_size(plan: SecondsPlan) -> None:
    alone = steps_of(plan)
    for world_size in range(2, plan.slots + 1):
        if plan.slots % world_size == 0:
            assert steps_of(plan, world_size) == alone


@given(seconds_plans(), st.data())
@settings(deadline=None, max_examples=40)
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
@settings(deadline=None, max_examples=40)
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
    assert report.padded_seconds == 4 + (4 + 4) + (2 + 2)
    assert report.padding == 1 - 14 / 16
    assert report.empty_slots == 0


def test_padding_and_fill_are_good_on_many_clips() -> None:
    durations = np.random.default_rng(0).uniform(1, 20, 20_000)
    for partitions, padding in ((1, 0.01), (4, 0.03)):
        order = EpochPlan([500] * 40, shuffle=True, partitions=partitions)
        report = SecondsPlan(order, durations, max_batch_seconds=200, slots=8).report()
        assert report.samples == 20_000
        assert report.padding < padding
        assert report.fill > 0.9
        assert report.short_slots + report.empty_slots < 0.1 * report.steps * 8


def test_mixtures_make_batches_by_seconds_too() -> None:
    order = MixPlan([[30, 30], [40]], weights=[1, 1], shuffle=True, partitions=2)
    plan = SecondsPlan(order, np.full(100, 2.0), max_batch_seconds=10, slots=2)
    real = sum(sum(map(sum, (mask for _, mask in step))) for step in steps_of(plan))
    assert real == len(order)


def test_borders_hold_about_equally_many_seconds() -> None:
    durations = np.random.default_rng(1).lognormal(1.5, 0.7, 5000)
    borders = even_borders(durations, 10)
    assert borders == sorted(borders)
    assert len(borders) == 9
    seconds = np.bincount(np.searchsorted(borders, durations), weights=durations)
    assert seconds.max() < 1.2 * seconds.min()
    assert even_borders(np.array([])) == []


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
        [[23], [22], [11, 10], [9, 8, 7]],
        [[20], [21], [6, 5, 4], [3, 2, 1, 0]],
        [[19], [18], [6], [6]],
        [[16], [17], [6], [6]],
        [[13, 12], [15, 14], [6], [6]],
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


def test_samples_that_are_filtered_out_may_be_too_long() -> None:
    order = EpochPlan([2], selection=Selection([2], np.array([True, False])))
    plan = SecondsPlan(order, np.array([1.0, 50.0]), max_batch_seconds=10, slots=1)
    assert steps_of(plan) == [[([0], [True])]]


def test_ranks_that_do_not_divide_the_slots_are_refused() -> None:
    plan = SecondsPlan(EpochPlan([9]), np.ones(9), max_batch_seconds=3, slots=4)
    with pytest.raises(PlanError, match="slots 4 cannot be shared evenly by 3 ranks"):
        plan.step(0, 0, 0, 3)
