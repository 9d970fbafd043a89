from __future__ import annotations

import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb.errors import PlanError
from audiomdb.plan import EpochPlan, StepPlan, Tail
from audiomdb.plan.line import StoredLine
from audiomdb.plan.split import TAILS

if TYPE_CHECKING:
    from numpy.typing import NDArray


@st.composite
def step_plans(draw: st.DrawFn, tails: tuple[Tail, ...] = TAILS) -> StepPlan:
    partitions = draw(st.integers(1, 4))
    plan = EpochPlan(
        draw(st.lists(st.integers(0, 9), max_size=12)),
        seed=draw(st.integers(0, 2**64 - 1)),
        epoch=draw(st.integers(0, 9)),
        shuffle=draw(st.booleans()),
        window=draw(st.integers(0, 4)),
        partitions=partitions,
    )
    return StepPlan(plan, partitions * draw(st.integers(1, 6)), draw(st.sampled_from(tails)))


def divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def gathered(plan: StepPlan, number: int, world_size: int = 1) -> tuple[list[int], list[bool]]:
    parts = [plan.step(number, rank, world_size) for rank in range(world_size)]
    positions = [int(one) for part in parts for one in part.positions]
    return positions, [bool(one) for part in parts for one in part.mask]


@given(step_plans())
@settings(max_examples=60)
def test_a_step_is_the_same_list_for_every_world_size(plan: StepPlan) -> None:
    for number in range(plan.steps):
        alone = gathered(plan, number)
        for world_size in divisors(plan.batch_size):
            assert gathered(plan, number, world_size) == alone


@given(step_plans())
@settings(max_examples=60)
def test_an_epoch_of_steps_holds_every_sample_not_dropped_once(plan: StepPlan) -> None:
    seen = []
    for number in range(plan.steps):
        positions, mask = gathered(plan, number)
        seen += [one for one, counts in zip(positions, mask, strict=True) if counts]
    total = len(plan.plan)
    assert len(seen) == len(set(seen)) == total - plan.dropped
    assert set(seen) <= set(range(total))
    assert plan.dropped == (total % plan.batch_size if plan.tail == "drop" else 0)


@given(step_plans())
@settings(max_examples=50)
def test_steps_take_the_turns_of_the_epoch_in_order(plan: StepPlan) -> None:
    order = plan.plan
    assert isinstance(order, EpochPlan)
    for number in range(plan.steps):
        positions, mask = gathered(plan, number)
        turns = order.positions(number * plan.batch_size, (number + 1) * plan.batch_size)
        real = [one for one, counts in zip(positions, mask, strict=True) if counts]
        if len(turns) == plan.batch_size:
            by_partition = [turns[p :: order.partitions] for p in range(order.partitions)]
            assert real == np.concatenate(by_partition).tolist()
        else:  # the last row of turns has no more than the longer partitions
            assert sorted(real) == sorted(turns.tolist())


@given(step_plans(("drop", "pad")), st.data())
@settings(max_examples=50)
def test_ranks_get_equal_counts_and_nearly_equal_unmasked_counts(
    plan: StepPlan, data: st.DataObject
) -> None:
    world_size = data.draw(st.sampled_from(divisors(plan.batch_size)))
    for number in range(plan.steps):
        parts = [plan.step(number, rank, world_size) for rank in range(world_size)]
        assert {len(part.positions) for part in parts} == {plan.batch_size // world_size}
        real = [int(part.mask.sum()) for part in parts]
        assert sum(real) > 0
        met = math.ceil(plan.plan.partitions / world_size) + 1  # partitions of a rank, at most
        assert max(real) - min(real) <= met
        if number < plan.steps - 1 or plan.tail == "drop":
            assert all(part.mask.all() for part in parts)


@given(step_plans(("uneven",)), st.data())
@settings(max_examples=50)
def test_an_uneven_tail_repeats_no_sample(plan: StepPlan, data: st.DataObject) -> None:
    world_size = data.draw(st.sampled_from(divisors(plan.batch_size)))
    parts = [
        plan.step(number, rank, world_size)
        for number in range(plan.steps)
        for rank in range(world_size)
    ]
    assert sum(len(part.positions) for part in parts) == len(plan.plan)
    assert all(part.mask.all() for part in parts)


@given(step_plans(), st.data())
@settings(max_examples=50)
def test_a_step_does_not_depend_on_earlier_queries(plan: StepPlan, data: st.DataObject) -> None:
    if not plan.steps:
        return
    step = st.integers(0, plan.steps - 1)
    world = st.sampled_from(divisors(plan.batch_size))
    for _ in range(6):
        number, world_size = data.draw(step), data.draw(world)
        rank = data.draw(st.integers(0, world_size - 1))
        fresh = pickle.loads(pickle.dumps(plan)).step(number, rank, world_size)
        ours = plan.step(number, rank, world_size)
        assert ours.positions.tolist() == fresh.positions.tolist()
        assert ours.mask.tolist() == fresh.mask.tolist()
        ours.positions[:] = -1  # its arrays are its own
        ours.mask[:] = False


def test_steps_are_read_in_stretches_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    take = StoredLine.take

    def noted(line: StoredLine, elements: NDArray[np.int64]) -> NDArray[np.int64]:
        asked.append(len(elements))
        return take(line, elements)

    monkeypatch.setattr(StoredLine, "take", noted)
    plan = StepPlan(EpochPlan([100_000, 100_000], partitions=2), 16)
    for number in range(1000):
        plan.step(number)
    assert sum(asked) <= 16 * 1000 + 2048
    assert len(asked) <= 2 * 8
    assert max(asked) <= 2048
    asked.clear()
    plan.step(12_000)
    assert sum(asked) <= 2048


def test_threads_share_a_plan_of_steps() -> None:
    plan = StepPlan(EpochPlan([50] * 400, shuffle=True, partitions=4), 16)
    expected = [plan.step(number).positions.tolist() for number in range(plan.steps)]
    with ThreadPoolExecutor(4) as pool:
        parts = [
            pool.submit(lambda at: [plan.step(k).positions.tolist() for k in at], at)
            for at in (range(plan.steps), range(plan.steps - 1, -1, -1), range(0, plan.steps, 7))
        ]
        forwards, backwards, some = (part.result() for part in parts)
    assert forwards == expected
    assert backwards == expected[::-1]
    assert some == expected[::7]


def test_padding_repeats_samples_already_at_hand() -> None:
    plan = StepPlan(EpochPlan([11]), 8, "pad")
    positions, mask = gathered(plan, 1)
    assert positions == [8, 8, 8, 9, 9, 9, 10, 10]
    assert mask == [True, False, False, True, False, False, True, False]
    assert [int(plan.step(1, rank, 4).mask.sum()) for rank in range(4)] == [1, 1, 0, 1]


def test_a_partition_without_a_sample_borrows_one() -> None:
    plan = StepPlan(EpochPlan([1], partitions=4), 8, "pad")
    assert gathered(plan, 0) == ([0] * 8, [True] + [False] * 7)


def test_nodes_that_divide_the_partitions_read_only_their_own() -> None:
    counts = np.full(24, 7)
    plan = EpochPlan(counts, shuffle=True, partitions=4)
    steps = StepPlan(plan, 16, "pad")
    for nodes in (1, 2, 4):
        for node in range(nodes):
            met: set[int] = set()
            for number in range(steps.steps):
                met |= set((steps.step(number, node, nodes).positions // 7).tolist())
            own = range(node * 4 // nodes, (node + 1) * 4 // nodes)
            assert met == set(np.concatenate([plan.shards_from(0, p, 0) for p in own]).tolist())


@pytest.mark.parametrize(
    ("partitions", "batch_size", "world_size", "message"),
    [
        (4, 50, 1, "batch_size 50 .* by 4 partitions; the nearest legal sizes: 48, 52"),
        (4, 2, 1, "the nearest legal sizes: 4$"),
        (1, 64, 6, "by 6 ranks; the nearest legal sizes: 60, 66. .* world size is 4"),
        (4, 64, 6, "by 4 partitions and 6 ranks; the nearest legal sizes: 60, 72"),
        (1, 4, 8, "the nearest legal sizes: 8. .* world size is 4"),
        (1, 7, 3, "the nearest legal sizes: 6, 9. .* world size is 1"),
    ],
)
def test_sizes_that_cannot_be_shared_are_refused_with_the_nearest(
    partitions: int, batch_size: int, world_size: int, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        StepPlan(EpochPlan([100], partitions=partitions), batch_size).step(0, 0, world_size)


def test_impossible_numbers_are_refused() -> None:
    plan = StepPlan(EpochPlan([10]), 4)
    with pytest.raises(PlanError, match=r"step .* not 2; the nearest legal value: 1"):
        plan.step(2)
    with pytest.raises(PlanError, match=r"rank .* not 2; the nearest legal value: 1"):
        plan.step(0, 2, 2)
    with pytest.raises(PlanError, match=r"batch_size .* nearest legal value: 1"):
        StepPlan(EpochPlan([10]), 0)
    with pytest.raises(PlanError, match="10 samples make no step of 16"):
        StepPlan(EpochPlan([10]), 16).step(0)
    with pytest.raises(PlanError, match="tail must be one of"):
        StepPlan(EpochPlan([10]), 4, "wrap")  # type: ignore[arg-type]


def test_steps_are_frozen() -> None:
    plan = EpochPlan([5, 0, 3, 1, 6, 4], seed=7, epoch=3, shuffle=True, window=2, partitions=2)
    steps = StepPlan(plan, 8, "pad")
    assert [steps.step(number).positions.tolist() for number in range(3)] == [
        [3, 0, 4, 1, 6, 14, 13, 16],
        [8, 11, 2, 10, 18, 15, 5, 7],
        [9, 9, 12, 12, 17, 17, 17, 17],
    ]


def test_a_step_plan_pickles_as_its_options() -> None:
    plan = StepPlan(EpochPlan([40] * 9, shuffle=True), 6)
    copy = pickle.loads(pickle.dumps(plan))
    assert copy.step(7, 1, 3).positions.tolist() == plan.step(7, 1, 3).positions.tolist()
